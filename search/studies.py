"""The studies of a folder: begun, gone on with, read. One driver writes a study at a time.

    NAME/study.journal    every proposal and what became of it (Optuna's journal; optuna-dashboard opens it)
    NAME/driver.lock      held by the driver
    NAME/trials/N/        what the training of trial N keeps

Knows where a study is kept and what makes it this search; nothing of proposals or training.
"""

import uuid
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend

from search.evaluator import Evaluator
from search.lease import Lease
from search.samplers.dialogue import Dialogue
from search.study import Study
from spaces import InputError, SpaceFile, load

HEADER = "search"  # the study's attribute that says what is searched, and that it has begun
JOURNAL = "study.journal"

optuna.logging.set_verbosity(optuna.logging.WARNING)


def exists(directory: Path, *, storage: str | None = None) -> bool:
    """Whether a search has begun there.

    Raises:
        InputError: its journal is damaged.
    """
    if storage is None and not (directory / JOURNAL).exists():
        return False
    try:
        return HEADER in _load(directory, storage).user_attrs
    except KeyError:
        return False


def begin(
    directory: Path,
    file: SpaceFile,
    evaluator: Evaluator,
    *,
    reference_point: Mapping[str, float],
    data: Mapping[str, str] = MappingProxyType({}),
    storage: str | None = None,
) -> Study:
    """A new search.

    Args:
        directory: of the search; made where it is missing. Its name is the name of the study.
        reference_point: by objective, in its own direction; kept for good.
        data: what tells the evaluator's data from others, in words; a search goes on with the same only.
        storage: URL of a database that Optuna knows, instead of the journal in the directory.

    Raises:
        InputError: there is a search already, or another driver is at work.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with _lease(directory) as lease:
        if exists(directory, storage=storage):
            raise InputError(f"{directory} holds a search already; resume it, or choose another name")
        study = optuna.create_study(
            storage=_storage(directory, storage),
            study_name=directory.name,
            directions=list(file.objectives.values()),
            load_if_exists=True,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            study.set_metric_names(list(file.objectives))  # for optuna-dashboard
        header = {"space": file.to_dict(), "reference_point": dict(reference_point), "data": dict(data)}
        study.set_user_attr(HEADER, header | {"key": uuid.uuid4().hex})
        return _study(directory, study, file, evaluator, lease)


def resume(
    directory: Path,
    file: SpaceFile,
    evaluator: Evaluator,
    *,
    data: Mapping[str, str] = MappingProxyType({}),
    storage: str | None = None,
) -> Study:
    """A search that was begun, to go on where it stands; the number of trials may differ.

    Raises:
        InputError: there is none, it searches something else or on other data, or another driver is at work.
    """
    if not exists(directory, storage=storage):
        raise InputError(f"{directory} holds no search that could be resumed; start it without resuming")
    with _lease(directory) as lease:
        if storage is None:
            _repair(directory / JOURNAL)
        study = _load(directory, storage)
        before = load(study.user_attrs[HEADER]["space"])
        search = file.search.model_copy(update={"trials": before.search.trials})
        changes = before.changes(file.model_copy(update={"search": search}))
        if changes:
            raise InputError(
                f"{directory} searches another space: {'; '.join(changes)}. Undo that, or start a new search"
            )
        for name, was in study.user_attrs[HEADER]["data"].items():
            if data.get(name) != was:
                raise InputError(
                    f"{directory} was begun on other data: {name} was {was} and is now {data.get(name)}. "
                    "Undo that, or start a new search"
                )
        return _study(directory, study, file, evaluator, lease)


def read(directory: Path, *, storage: str | None = None) -> Study:
    """A search as it stands, also while a driver is at work; nothing can be written.

    Raises:
        InputError: there is none.
    """
    if not exists(directory, storage=storage):
        raise InputError(f"{directory} holds no search")
    study = _load(directory, storage)
    return _study(directory, study, load(study.user_attrs[HEADER]["space"]), None, None)


@contextmanager
def _lease(directory: Path) -> Iterator[Lease]:
    """A lease that lasts, unless what is done under it fails."""
    lease = Lease(directory)
    try:
        yield lease
    except BaseException:
        lease.release()
        raise


def _study(
    directory: Path, study: optuna.Study, file: SpaceFile, evaluator: Evaluator | None, lease: Lease | None
) -> Study:
    return Study(
        Dialogue(study, sampler=file.search.sampler, seed=file.search.seed, trials=file.search.trials),
        file,
        reference_point=study.user_attrs[HEADER]["reference_point"],
        key=study.user_attrs[HEADER]["key"],
        directory=directory,
        evaluator=evaluator,
        lease=lease,
    )


def _load(directory: Path, storage: str | None) -> optuna.Study:
    """
    Raises:
        KeyError: no such study.
        InputError: the journal is damaged.
    """
    try:
        return optuna.load_study(study_name=directory.name, storage=_storage(directory, storage))
    except (ValueError, OSError, AssertionError, TypeError) as error:  # whatever Optuna makes of a strange journal
        raise InputError(f"{directory / JOURNAL} is damaged and cannot be read: {error}") from error


def _storage(directory: Path, url: str | None) -> str | BaseStorage:
    return JournalStorage(JournalFileBackend(str(directory / JOURNAL))) if url is None else url


def _repair(journal: Path) -> None:
    """Undoes what a driver that died in mid-write left: half a line, and the lock on the journal.

    Only for the holder of the lease.
    """
    journal.with_name(journal.name + ".lock").unlink(missing_ok=True)
    with journal.open("rb+") as file:
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)
