"""The studies of a folder: begun, gone on with, read. One driver writes a study at a time.

    NAME/study.journal    every proposal and what became of it (Optuna's journal; optuna-dashboard opens it)
    NAME/places.json      where the study is instead: in a database, under the name of the folder
    NAME/driver.lock      held by the driver
    NAME/trials/N/        what the training of trial N keeps
    NAME/parents/N/       and that of the N-th backbone, where trials start from it

Knows where a study is kept and what makes it this search; nothing of proposals or training.
"""

import shutil
import uuid
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import JournalStorage

from search.checkpoints.places import Places, public
from search.evaluator import Evaluator
from search.samplers.dialogue import Dialogue
from search.study.lease import Lease
from search.study.storages import JOURNAL, Database, address, storage_of
from search.study.study import Study
from search.study.warm_start import WarmStart
from spaces import InputError, SpaceFile, load
from spaces.schema import BUDGETS

HEADER = "search"  # the study's attribute that says what is searched, and that it has begun

optuna.logging.set_verbosity(optuna.logging.WARNING)


def exists(directory: Path, *, storage: str | None = None) -> bool:
    """Whether a search has begun there.

    Raises:
        InputError: its journal is damaged, or its database cannot be reached.
    """
    storage = storage or Places.read(directory).storage
    if storage is None and not (directory / JOURNAL).exists():
        return False
    try:
        with _open(directory, storage) as opened:
            return HEADER in _load(directory, opened).user_attrs
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
    start: WarmStart | None = None,
) -> Study:
    """A new search.

    Args:
        directory: of the search; made where it is missing. Its name is the name of the study.
        reference_point: by objective, in its own direction; kept for good.
        data: what tells the evaluator's data from others, in words; a search goes on with the same only.
        storage: address of a database, instead of the journal in the directory. It is kept there without its
            password, which whoever reads or resumes the search gives again, or has where libpq finds it.
        start: what an earlier search has found that helps this one.

    Raises:
        InputError: there is a search already, another driver is at work, or the database cannot be used.
    """
    storage = storage or Places.read(directory).storage
    for place in {None, storage}:
        if exists(directory, storage=place):
            raise InputError(f"{_named(directory, place)} holds a search already; resume it, or choose another name")
    directory.mkdir(parents=True, exist_ok=True)
    with _lease(directory) as lease:
        _remember(directory, storage)
        opened = lease.also.enter_context(_open(directory, storage))
        study = optuna.create_study(
            storage=opened,
            study_name=directory.name,
            directions=list(file.objectives.values()),
            load_if_exists=True,
        )
        _hold(study, opened, lease)
        if HEADER in study.user_attrs:
            raise InputError(f"{_named(directory, storage)} was begun by another run just now; choose another name")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            study.set_metric_names(list(file.objectives))  # for optuna-dashboard
        header = {
            "space": file.to_dict(),
            "reference_point": dict(reference_point),
            "data": dict(data),
            "key": uuid.uuid4().hex,
        }
        begun = _study(directory, study, header, file, evaluator, lease)
        if start is not None:
            start.put(begun)
        study.set_user_attr(HEADER, header)
        return begun


def resume(
    directory: Path,
    file: SpaceFile,
    evaluator: Evaluator,
    *,
    data: Mapping[str, str] = MappingProxyType({}),
    storage: str | None = None,
) -> Study:
    """A search that was begun, to go on where it stands; the budget may differ.

    Raises:
        InputError: there is none, it searches something else or on other data, or another driver is at work.
    """
    storage = _begun(directory, storage)
    directory.mkdir(parents=True, exist_ok=True)
    with _lease(directory) as lease:
        if storage is None:
            _repair(directory / JOURNAL)
        _remember(directory, storage)
        opened = lease.also.enter_context(_open(directory, storage))
        study = _load(directory, opened)
        _hold(study, opened, lease)
        _same_space(directory, study, file)
        for name, was in study.user_attrs[HEADER]["data"].items():
            if data.get(name) != was:
                raise InputError(
                    f"{directory} was begun on other data: {name} was {was} and is now {data.get(name)}. "
                    "Undo that, or start a new search"
                )
        return _study(directory, study, study.user_attrs[HEADER], file, evaluator, lease)


def check_resumable(directory: Path, file: SpaceFile, *, storage: str | None = None) -> None:
    """Refuses what `resume` would refuse, as far as the space file tells; nothing is written.

    Raises:
        InputError: there is no search, or it searches something else.
    """
    with _open(directory, _begun(directory, storage)) as opened:
        _same_space(directory, _load(directory, opened), file)


def _begun(directory: Path, storage: str | None) -> str | None:
    """Where the study of a search is that can be gone on with.

    Raises:
        InputError: there is none.
    """
    storage = storage or Places.read(directory).storage
    if not exists(directory, storage=storage):
        place = _named(directory, storage)
        raise InputError(f"{place} holds no search that could be resumed; start it without resuming")
    return storage


def _same_space(directory: Path, study: optuna.Study, file: SpaceFile) -> None:
    """But for the budget, which may differ.

    Raises:
        InputError: it is another.
    """
    before = load(study.user_attrs[HEADER]["space"])
    search = file.search.model_copy(update={name: getattr(before.search, name) for name in BUDGETS})
    changes = before.changes(file.model_copy(update={"search": search}))
    if changes:
        raise InputError(f"{directory} searches another space: {'; '.join(changes)}. Undo that, or start a new search")


def read(directory: Path, *, storage: str | None = None) -> Study:
    """A search as it stands, also while a driver is at work; nothing can be written.

    Raises:
        InputError: there is none.
    """
    storage = storage or Places.read(directory).storage
    if not exists(directory, storage=storage):
        raise InputError(f"{_named(directory, storage)} holds no search")
    with _open(directory, storage) as opened:
        study = _load(directory, opened)
        header = study.user_attrs[HEADER]
        return _study(directory, study, header, load(header["space"]), None, None)


def discard(directory: Path, *, storage: str | None = None) -> None:
    """Takes back a search that could not even start: its directory, and its study where that has no trials."""
    storage = storage or Places.read(directory).storage
    if storage is not None:
        with suppress(InputError, KeyError), _open(directory, storage) as opened:
            if not _load(directory, opened).trials:
                optuna.delete_study(study_name=directory.name, storage=opened)
    shutil.rmtree(directory, ignore_errors=True)


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
    directory: Path,
    study: optuna.Study,
    header: Mapping[str, Any],
    file: SpaceFile,
    evaluator: Evaluator | None,
    lease: Lease | None,
) -> Study:
    return Study(
        Dialogue(study, sampler=file.search.sampler, seed=file.search.seed, trials=file.search.trials),
        file,
        reference_point=header["reference_point"],
        key=header["key"],
        data=header["data"],
        directory=directory,
        evaluator=evaluator,
        lease=lease,
    )


def _load(directory: Path, opened: JournalStorage | Database) -> optuna.Study:
    """
    Raises:
        KeyError: no such study.
        InputError: the journal is damaged, or the database does not answer.
    """
    try:
        return optuna.load_study(study_name=directory.name, storage=opened)
    except (ValueError, OSError, AssertionError, TypeError) as error:  # whatever Optuna makes of a strange journal
        raise _damaged(directory, error) from error


def _damaged(directory: Path, error: Exception) -> InputError:
    return InputError(f"{directory / JOURNAL} is damaged and cannot be read: {error}")


@contextmanager
def _open(directory: Path, url: str | None) -> Iterator[JournalStorage | Database]:
    try:
        opened = storage_of(directory, url)
    except (ValueError, OSError, AssertionError, TypeError, LookupError) as error:  # of a strange journal
        raise _damaged(directory, error) from error
    try:
        yield opened
    finally:
        if isinstance(opened, Database):
            opened.close()


def _hold(study: optuna.Study, opened: JournalStorage | Database, lease: Lease) -> None:
    """Extends a lease on a directory to the study in a database, which drivers elsewhere can reach too."""
    if isinstance(opened, Database):
        lease.also.callback(opened.hold(study._study_id).release)


def _remember(directory: Path, url: str | None) -> None:
    if url is not None:
        replace(Places.read(directory), storage=address(url)).write(directory)


def _named(directory: Path, url: str | None) -> str:
    return str(directory) if url is None else f"{directory.name} in {public(address(url))}"


def _repair(journal: Path) -> None:
    """Undoes what a driver that died in mid-write left: half a line, and the lock on the journal.

    Only for the holder of the lease.
    """
    journal.with_name(journal.name + ".lock").unlink(missing_ok=True)
    with journal.open("rb+") as file:
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)
