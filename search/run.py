"""The composition root: puts space, data, evaluator, study, executor and tracker together, and nothing else.

    from search.run import run
    result = run("my-space.yaml")

The only file that names concrete classes.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from search import results, samplers
from search.checkpoints.checkpoints import checkpoints_of, settle
from search.checkpoints.places import Places
from search.costs import COSTS
from search.data import Dataset
from search.evaluator import Evaluator, Tester
from search.gate import limits
from search.live import Display
from search.record import Front, State
from search.study import storages, studies
from search.study.study import Study
from search.study.warm_start import WarmStart, warm_start
from search.study.work import Idle
from search.tracking.keeper import Keeper
from search.tracking.mlflow import MlflowTracker
from search.trial import TimmEvaluator, dataset_of
from search.workers.cluster import Share, cluster
from search.workers.executor import execute, test_front
from search.workers.luggage import luggage
from search.workers.pools import Resources
from spaces import InputError, SearchSpace, SpaceError, SpaceFile, load
from spaces.errors import unknown
from spaces.schema import BUDGETS, NAMES, is_name, locate

ACCURACY = "accuracy"
RESERVED = ("mlflow.db", "mlartifacts")


class Ending(StrEnum):
    """Why a search is over."""

    BUDGET = "budget spent"
    TIME = "time spent"
    EXHAUSTED = "space exhausted"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, kw_only=True)
class Result:
    """How a search ended; `front` holds complete trials only."""

    name: str
    directory: Path
    ending: Ending
    front: Front
    counts: Mapping[State, int]


def run(
    space: str | Path | Mapping[str, Any],
    *,
    evaluator: Evaluator | None = None,
    runs: str | Path = "runs",
    name: str | None = None,
    trials: int | None = None,
    hours: float | None = None,
    device_hours: float | None = None,
    earlier: str | None = None,
    address: str | None = None,
    gpus_per_trial: float | None = None,
    cpus_per_trial: float | None = None,
    memory_per_trial: float | None = None,
    pools: Sequence[str] = (),
    runtime_env: str | Path | None = None,
    storage: str | None = None,
    checkpoints: str | None = None,
    tracking: str | None = None,
    artifacts: str | None = None,
    resume: bool = False,
    console: Console | None = None,
) -> Result:
    """Search a space, or go on with a search.

    Args:
        space: a space file, or the same object from Python.
        evaluator: None trains timm networks on the space's data; give your own for another task, and with it
            `search.reference_point` in the space.
        runs: the folder of searches; made where it is missing.
        name: of the search; the space's name where it is None. A taken one gets `-2`, `-3`, ...
        trials, hours, device_hours: instead of `search.trials` and so on; a resumed search may be given more.
        earlier: name of a search in `runs` to start from: from its values where data, objectives, fidelity and
            recipe are the same, else from its best architectures.
        address: of a Ray cluster; None starts Ray on this machine.
        gpus_per_trial, cpus_per_trial: what each trial gets; None is decided by what the cluster has.
        memory_per_trial: GiB, counted by Ray.
        pools: instead of these, several ways to give a trial what it needs, as `gpu=1,cpu=4`; earlier ones first.
        runtime_env: a file in Ray's format: what the workers need beside our code.
        storage: database of the study, as postgresql://USER:PASSWORD@HOST:PORT/DATABASE; None is a journal in the
            search's own folder.
        checkpoints: a path on a file system that all nodes share, or the URL of a store, as s3://bucket/prefix;
            None keeps what trainings leave in the search's own folder.
        tracking: MLflow's server, or a database for it; None is `mlflow.db` in `runs`.
        artifacts: where MLflow keeps pictures and models of new experiments: a path or a URL.
        resume: go on with the search of that name; it remembers the four places before, but no passwords.
        console: where to show progress; None shows nothing.

    Raises:
        InputError: something given cannot be; the message says what, where and what is allowed.
    """
    console = console or Console(quiet=True)
    file = _file(space, trials=trials, hours=hours, device_hours=device_hours)
    searched = _search_space(file, space)
    directory = _directory(Path(runs), name or file.name, resume)
    if resume and earlier is not None:
        raise InputError(f"--from {earlier} is for a new search; {directory.name} goes on with what it began with")
    dataset = None
    if evaluator is None:
        dataset = _dataset(file, space)
        evaluator = _evaluator(file, dataset, space)
    reference_point = _reference_point(searched, evaluator, dataset, space)
    resources = Resources.asked(cpus=cpus_per_trial, gpus=gpus_per_trial, memory=memory_per_trial, pools=pools)
    equipment = luggage(address, runtime_env)
    database = None if storage is None else storages.address(storage)
    given = Places(storage=database, checkpoints=checkpoints, tracking=tracking, artifacts=artifacts)
    places = settle(directory, given, resume=resume)
    start = _warm_start(Path(runs), earlier, searched, dataset)
    _announce(console, directory, searched)
    with cluster(address, equipment):
        Share.of(resources)  # refuses what no node has, before anything is written
        with _study(
            directory, file, evaluator, dataset, reference_point, places.storage, start=start, resume=resume
        ) as study:
            places.write(directory)
            if start is not None and earlier is not None:
                start.bring(study, results.opened(Path(runs), earlier))
                _note(console, start.note)
            tracker = MlflowTracker.of(Path(runs), tracking=places.tracking, artifacts=places.artifacts)
            text = (
                json.dumps(file.to_dict(), indent=2) if isinstance(space, Mapping) else Path(space).read_text("utf-8")
            )
            budget = {name: getattr(file.search, name) for name in BUDGETS}
            settings = {"seed": file.search.seed, "cluster": address or "local", **budget}
            tracker.start(space=file.name, search=directory.name, key=study.key, text=text, params=settings)
            keeper = Keeper(study, tracker)
            with Display(console, study) as display:
                study.observers += [keeper, display]
                over = execute(study, evaluator, address=address, resources=resources, say=partial(_note, console))
                study.interrupt(study.overspent or "interrupted")
            if over is not None:
                _test(study, evaluator, resources, console)
                if dataset is not None:
                    keeper.keep_models()
            keeper.close("KILLED" if over is None else "FINISHED")
            return Result(
                name=directory.name,
                directory=directory,
                ending=_ENDINGS[over],
                front=study.front,
                counts=study.counts(),
            )


def _announce(console: Console, directory: Path, space: SearchSpace) -> None:
    most = "" if space.exact else "at most "
    search = space.file.search
    limits = [f"{getattr(search, name):g} {name.replace('_', ' ')}" for name in BUDGETS if getattr(search, name)]
    said = f"{directory.name}: {most}{space.size:,} architectures, {', '.join(limits)}, in {directory}"
    console.print(said, markup=False, highlight=False, soft_wrap=True)
    slow = samplers.note(search.sampler, search.trials)
    for note in (*space.notes, *([slow] if slow else [])):
        _note(console, note)


def _note(console: Console, note: str) -> None:
    console.print(f"note: {note}", style="dim", markup=False, highlight=False, soft_wrap=True)


def _test(study: Study, evaluator: Evaluator, resources: Resources, console: Console) -> None:
    """Measure the members of the front on test data, each once."""
    waiting = [record for record in study.front.members if record.test_accuracy is None]
    if not waiting or not isinstance(evaluator, Tester):
        return
    accuracies, faults = test_front(evaluator, waiting, checkpoints_of(study.directory), resources=resources)
    for number, accuracy in accuracies.items():
        study.annotate(number, test_accuracy=accuracy)
    for reason in dict.fromkeys(faults.values()):
        console.print(f"not tested: {reason}", style="yellow", markup=False, soft_wrap=True)


_ENDINGS = {
    Idle.BUDGET: Ending.BUDGET,
    Idle.TIME: Ending.TIME,
    Idle.EXHAUSTED: Ending.EXHAUSTED,
    None: Ending.INTERRUPTED,
}


def _file(space: str | Path | Mapping[str, Any], **budget: float | None) -> SpaceFile:
    file, given = load(space), {name: value for name, value in budget.items() if value is not None}
    for name, value in given.items():
        flag = f"--{name.replace('_', '-')} {value}"
        if name == "trials" and (not isinstance(value, int) or value < 1):
            raise InputError(f"{flag}: at least one training must be started")
        if not 0 < value < math.inf:
            raise InputError(f"{flag} is not a number above 0")
    return file.model_copy(update={"search": file.search.model_copy(update=given)})


def _search_space(file: SpaceFile, given: str | Path | Mapping[str, Any]) -> SearchSpace:
    try:
        return SearchSpace(file)
    except SpaceError as error:
        raise locate(error, given) from None


def _directory(runs: Path, name: str, resume: bool) -> Path:
    """The search's own folder; a taken name without `resume` gets the next free number."""
    if not is_name(name):
        raise InputError(f"--name {name!r} cannot name a folder; allowed are {NAMES}")
    if name.lower().startswith(RESERVED):
        raise InputError(f"--name {name!r} is taken: what begins so in {runs} is MLflow's")
    if set(str(runs)) & set("%?#"):
        raise InputError(f"--runs {runs}: the characters %, ? and # cannot be part of a database's address")
    try:
        runs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--runs {runs} cannot be written: {error.strerror}") from None
    directory, number = runs / name, 1
    while not resume and directory.exists():
        number += 1
        directory = runs / f"{name}-{number}"
    return directory


def _dataset(file: SpaceFile, given: str | Path | Mapping[str, Any]) -> Dataset:
    """The data of a timm space, after a look at what else the space asks of the timm evaluator."""
    if not file.backbones or file.data is None:
        raise InputError("a space of plain choices needs an evaluator of your own: search.run.run(..., evaluator=...)")
    for key, names, allowed in (
        ("objectives", file.objectives, (ACCURACY, *COSTS)),
        ("constraints", file.constraints, tuple(COSTS)),
    ):
        for name in names:
            if name not in allowed:
                raise locate(SpaceError(unknown(key[:-1], name, allowed), key=f"{key}.{name}"), given)
    return dataset_of(file)


def _evaluator(file: SpaceFile, dataset: Dataset, given: str | Path | Mapping[str, Any]) -> Evaluator:
    try:
        return TimmEvaluator(file, dataset)
    except SpaceError as error:
        raise locate(error, given) from None


@contextmanager
def _study(
    directory: Path,
    file: SpaceFile,
    evaluator: Evaluator,
    dataset: Dataset | None,
    reference_point: Mapping[str, float],
    storage: str | None,
    *,
    start: WarmStart | None,
    resume: bool,
) -> Iterator[Study]:
    """A study with the lease on it; a new one that cannot even start leaves nothing behind."""
    data = _identity(dataset) if dataset else {}
    if resume:
        study = studies.resume(directory, file, evaluator, data=data, storage=storage)
    else:
        study = studies.begin(
            directory, file, evaluator, reference_point=reference_point, data=data, storage=storage, start=start
        )
    try:
        if dataset is not None:
            results.Inputs(classes=dataset.classes, preprocessing=dataset.preprocessing).write(directory)
        yield study
    except InputError:
        if not resume and not study.records():
            studies.discard(directory, storage=storage)
        with suppress(OSError):  # of a full disk the message speaks already
            study.close()
        raise
    except BaseException:
        study.close()
        raise
    study.close()


def _warm_start(runs: Path, earlier: str | None, space: SearchSpace, dataset: Dataset | None) -> WarmStart | None:
    if earlier is None:
        return None
    return warm_start(results.opened(runs, earlier), space, _identity(dataset) if dataset else {})


def _identity(dataset: Dataset) -> dict[str, str]:
    """What must not change between a search and its resumption, in words."""
    pixels = hashlib.sha256(np.ascontiguousarray(dataset.images).data)
    split = hashlib.sha256(b"".join(part.tobytes() for part in (dataset.train, dataset.val, dataset.test)))
    return {
        "classes": ", ".join(dataset.classes),
        "number of images": str(len(dataset.labels)),
        "hash of the images": pixels.hexdigest()[:12],
        "hash of the labels": hashlib.sha256(dataset.labels.tobytes()).hexdigest()[:12],
        "hash of the splits": split.hexdigest()[:12],
        "preprocessing": json.dumps(dataset.preprocessing.to_dict()),
    }


def _reference_point(
    space: SearchSpace, evaluator: Evaluator, dataset: Dataset | None, given: str | Path | Mapping[str, Any]
) -> dict[str, float]:
    """Where the hypervolume begins: as given, else what needs no search to reach.

    That is the accuracy of always naming the largest class and, of a cost, its max constraint, else that of
    the dearest feasible unmodified backbone.

    Raises:
        InputError: a backbone cannot take the images, or a value is needed that only the user knows.
    """
    file = space.file
    if dataset is None:
        if file.search.reference_point is None:
            raise InputError(
                "search.reference_point is needed with an evaluator of your own: a value for each objective"
            )
        return dict(file.search.reference_point)
    try:
        plain = [evaluator.costs(architecture) for architecture in space.backbones()]
    except SpaceError as error:
        raise locate(SpaceError(error.reason, key="backbones"), given) from None
    if file.search.reference_point is not None:
        return dict(file.search.reference_point)
    feasible = [costs for costs in plain if all(limit.excess(costs) <= 0 for limit in limits(file.constraints))]
    point = {}
    for name in file.objectives:
        bound = file.constraints.get(name)
        if name == ACCURACY:
            point[name] = dataset.majority_rate
        elif bound is not None and bound.max is not None:
            point[name] = bound.max
        else:
            point[name] = max(costs[name] for costs in feasible or plain)
    return point
