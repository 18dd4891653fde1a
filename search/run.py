"""The composition root: puts space, data, evaluator, study, executor and tracker together, and nothing else.

    from search.run import run
    result = run("my-space.yaml")

The only file that names concrete classes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path

from rich.console import Console

from search import results, samplers
from search.checkpoints.checkpoints import checkpoints_of, settle
from search.checkpoints.places import Places
from search.confirm import Asked, confirmable, confirmed
from search.confirmation.record import Confirmation
from search.evaluator import Evaluator, Metered, Tester
from search.gate import Gate
from search.live import Display
from search.metered import Metering, metered
from search.parents import raise_parents
from search.planning.feasibility import Feasibility, look
from search.readings import FILE as READINGS
from search.record import Front, State
from search.study import storages, studies
from search.study.lineage import NOTES
from search.study.study import Study
from search.study.warm_start import WarmStart, warm_start
from search.study.work import Idle
from search.task import Given, Task, opened, reference_point
from search.tracking.keeper import Keeper
from search.tracking.mlflow import MlflowTracker
from search.workers.cluster import Share, cluster
from search.workers.executor import execute, test_front
from search.workers.luggage import luggage
from search.workers.pools import Resources
from spaces import InputError
from spaces.schema import BUDGETS, NAMES, PARENT, is_name

LOOK_S = 6.0  # for a space that has little to find; others take a fraction of a second
LOOK_TIMED = 3  # of them that are measured where a constraint is on what takes a clock
LOOK_ENOUGH = 8  # feasible ones, after which a space is not looked at any further
MEASURED_ON = "machine that measures costs"  # a search goes on with the same only
RESERVED = ("mlflow.db", "mlartifacts", READINGS)


class Ending(StrEnum):
    """Why a search is over."""

    BUDGET = "budget spent"
    TIME = "time spent"
    EXHAUSTED = "space exhausted"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, kw_only=True)
class Result:
    """How a search ended; `front` holds complete trials only.

    Attributes:
        confirmation: of the front; None where none was asked for, or it was interrupted.
    """

    name: str
    directory: Path
    ending: Ending
    front: Front
    counts: Mapping[State, int]
    confirmation: Confirmation | None = None


def run(
    space: Given,
    *,
    evaluator: Evaluator | None = None,
    allow_code: bool = False,
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
    confirm: Asked | None = None,
    resume: bool = False,
    console: Console | None = None,
) -> Result:
    """Search a space, or go on with a search.

    Args:
        space: a space file, or the same object from Python.
        evaluator: None trains timm networks on the space's data; give your own for another task, and with it
            `search.reference_point` in the space.
        allow_code: whether functions that the space file names may run.
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
        confirm: how to confirm the front once the search has ended by itself; None leaves that to `search.confirm`.
        resume: go on with the search of that name; it remembers the four places before, but no passwords.
        console: where to show progress; None shows nothing.

    Raises:
        InputError: something given cannot be; the message says what, where and what is allowed.
    """
    console = console or Console(quiet=True)
    say = partial(_note, console)
    budget = {"trials": trials, "hours": hours, "device_hours": device_hours}
    task = opened(space, evaluator=evaluator, allow_code=allow_code, **budget)
    if confirm is not None:
        confirmable(task)
    directory = _directory(Path(runs), name or task.file.name, resume)
    if resume and earlier is not None:
        raise InputError(f"--from {earlier} is for a new search; {directory.name} goes on with what it began with")
    resources = Resources.asked(cpus=cpus_per_trial, gpus=gpus_per_trial, memory=memory_per_trial, pools=pools)
    equipment = luggage(address, runtime_env)
    database = None if storage is None else storages.address(storage)
    given = Places(storage=database, checkpoints=checkpoints, tracking=tracking, artifacts=artifacts)
    places = settle(directory, given, resume=resume)
    if resume:
        studies.check_resumable(directory, task.file, storage=places.storage)
    found = None if resume else _look(task, say)
    before = None if earlier is None else results.opened(Path(runs), earlier)
    _announce(console, directory, task)
    with cluster(address, equipment):
        Share.of(resources)  # refuses what no node has, before anything is written
        with (
            metered(task, resources, Path(runs), say) as metering,
            _study(directory, task, metering, places.storage, before=before, resume=resume) as (study, start),
        ):
            places.write(directory)
            if note := _look_at_clock(found, task, metering):
                say(note)
            if start is not None and before is not None:
                start.bring(study, before)
                say(start.note)
            tracker = MlflowTracker.of(Path(runs), tracking=places.tracking, artifacts=places.artifacts)
            limits = {name: getattr(task.file.search, name) for name in BUDGETS}
            fixed = {"seed": task.file.search.seed, "inherit": task.file.train.inherit}
            settings = {**fixed, "cluster": address or "local", **limits}
            tracker.start(space=task.file.name, search=directory.name, key=study.key, text=task.text, params=settings)
            keeper = Keeper(study, tracker)
            over = _searched(study, task, keeper, address, resources, metering, console)
            confirmation = None
            try:
                if over is not None:
                    _test(study, task.evaluator, resources, metering, console)
                    if confirm is not None and study.front.members:
                        confirmation = confirmed(
                            study, task, confirm, resources=resources, metering=metering, console=console
                        )
            finally:  # a front that cannot be confirmed is kept all the same
                if confirmation is not None:
                    keeper.confirmed(confirmation)
                elif over is not None and task.dataset is not None:
                    keeper.keep_models()
                keeper.close("KILLED" if over is None else "FINISHED")
            return Result(
                name=directory.name,
                directory=directory,
                ending=_ENDINGS[over],
                front=study.front,
                counts=study.counts(),
                confirmation=confirmation,
            )


def _searched(
    study: Study,
    task: Task,
    keeper: Keeper,
    address: str | None,
    resources: Resources,
    metering: Metering | None,
    console: Console,
) -> Idle | None:
    """Trains parents, where trials start from them, then trials; why it is over, None where it was interrupted."""
    say, meter = partial(_note, console), metering.process if metering else None
    if task.file.train.inherit == PARENT and study.remaining:
        try:
            raise_parents(study, task.space, task.evaluator, resources=resources, meter=meter, say=say)
        except KeyboardInterrupt:
            return None
    with Display(console, study) as display:
        study.observers += [keeper, display]
        over = execute(study, task.evaluator, address=address, resources=resources, meter=meter, say=say)
        study.interrupt(study.overspent or "interrupted")
    return over


def _look(task: Task, say: Callable[[str], None]) -> Feasibility | None:
    """Refuses a space of which nothing meets the constraints; says where hardly anything does.

    Only what is counted is looked at, and only for some seconds. None where there is nothing to meet.
    """
    if not task.file.constraints:
        return None
    gate = Gate(task.evaluator, task.file.constraints)
    found = look(task.space, gate.count, seed=task.file.search.seed, deadline_s=LOOK_S, enough=LOOK_ENOUGH)
    if found.refusal:
        raise InputError(found.refusal)
    if found.note:
        say(found.note)
    return found


def _look_at_clock(found: Feasibility | None, task: Task, metering: Metering | None) -> str:
    """What is to be said where even small networks are beyond a constraint on what is measured."""
    timed = task.costing.timed if task.costing else {}
    if found is None or metering is None or not timed.keys() & task.file.constraints.keys():
        return ""
    gate = Gate(Metered(task.evaluator, metering.foresight), task.file.constraints)
    small = sorted(found.found, key=lambda each: each.costs["macs"])[:LOOK_TIMED]
    checked = [gate.check(each.walk.architecture) for each in small]
    if any(one.feasible for one in checked):
        return ""
    label, reason = small[0].walk.architecture.label, checked[0].reason
    return f"of {len(small)} networks measured none meets the constraints; the smallest, {label}: {reason}"


def _announce(console: Console, directory: Path, task: Task) -> None:
    space, search = task.space, task.file.search
    most = "" if space.exact else "at most "
    limits = [f"{getattr(search, name):g} {name.replace('_', ' ')}" for name in BUDGETS if getattr(search, name)]
    said = f"{directory.name}: {most}{space.size:,} architectures, {', '.join(limits)}, in {directory}"
    console.print(said, markup=False, highlight=False, soft_wrap=True)
    slow = samplers.note(search.sampler, search.trials)
    start = NOTES.get(task.file.train.inherit)
    for note in (*space.notes, *([slow] if slow else []), *([start] if start else [])):
        _note(console, note)


def _note(console: Console, note: str) -> None:
    console.print(f"note: {note}", style="dim", markup=False, highlight=False, soft_wrap=True)


def _test(
    study: Study, evaluator: Evaluator, resources: Resources, metering: Metering | None, console: Console
) -> None:
    """Measure the members of the front on test data, each once."""
    waiting = [record for record in study.front.members if record.test_accuracy is None]
    if not waiting or not isinstance(evaluator, Tester):
        return
    meter, checkpoints = metering.process if metering else None, checkpoints_of(study.directory)
    accuracies, faults = test_front(evaluator, waiting, checkpoints, resources=resources, meter=meter)
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


def _directory(runs: Path, name: str, resume: bool) -> Path:
    """The search's own folder; a taken name without `resume` gets the next free number."""
    if not is_name(name):
        raise InputError(f"--name {name!r} cannot name a folder; allowed are {NAMES}")
    if name.lower().startswith(RESERVED):
        raise InputError(f"--name {name!r} is taken: what begins so in {runs} is kept for all searches")
    if set(str(runs)) & set("%?#"):
        raise InputError(f"--runs {runs}: the characters %, ? and # cannot be part of a database's address")
    try:
        runs.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise InputError(f"--runs {runs} is a file; searches are in a folder") from None
    except OSError as error:
        raise InputError(f"--runs {runs} cannot be written: {error.strerror}") from None
    directory, number = runs / name, 1
    while not resume and directory.exists():
        number += 1
        directory = runs / f"{name}-{number}"
    return directory


@contextmanager
def _study(
    directory: Path,
    task: Task,
    metering: Metering | None,
    storage: str | None,
    *,
    before: Study | None,
    resume: bool,
) -> Iterator[tuple[Study, WarmStart | None]]:
    """A study with the lease on it; a new one that cannot even start leaves nothing behind."""
    evaluator, data, start = task.evaluator, task.data, None
    if metering is not None:
        evaluator, data = Metered(evaluator, metering.foresight), {**data, MEASURED_ON: metering.process.machine}
    if resume:
        study = studies.resume(directory, task.file, evaluator, data=data, storage=storage)
    else:
        start = None if before is None else warm_start(before, task.space, data)
        point = reference_point(task, evaluator)
        study = studies.begin(
            directory, task.file, evaluator, reference_point=point, data=data, storage=storage, start=start
        )
    try:
        if metering is not None:
            for record in study.records():
                metering.foresight.learn(record.architecture, record.costs)
        if task.dataset is not None:
            results.Inputs.of(task.dataset).write(directory)
        yield study, start
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
