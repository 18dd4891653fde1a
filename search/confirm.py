"""The composition root of a confirmation: the front of a search trained again, tested, and told.

    from search.confirm import confirm
    found = confirm("my-search", seeds=5)

Beside `search.run` the only file that names concrete classes.
"""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from search import results
from search.checkpoints.checkpoints import CONFIRMED, Checkpoints, checkpoints_of
from search.checkpoints.places import Places
from search.confirmation import store
from search.confirmation.display import Display
from search.confirmation.journal import Journal
from search.confirmation.measuring import measured, metering_for
from search.confirmation.record import Confirmation
from search.confirmation.retrainer import TRAIN, TRAINED_ON, Retrainer
from search.confirmation.roster import Entrant, Roster
from search.confirmation.verdicts import Court, Terms
from search.costing import entries
from search.gate import said
from search.metered import Metering
from search.record import Front, TrialRecord
from search.study import studies
from search.study.lineage import NOTES
from search.study.study import Study
from search.task import Task, opened
from search.tracking.keeper import Keeper
from search.tracking.mlflow import MlflowTracker
from search.tracking.tracker import Status
from search.workers.cluster import Share, cluster
from search.workers.luggage import luggage
from search.workers.meter import ClusterMeter
from search.workers.pools import Resources
from search.workers.retraining import retrained
from spaces import InputError
from spaces.errors import unknown
from spaces.schema import ACCURACY, JUDGED

OWN = "cannot be confirmed: its evaluator is the user's own, and only networks that we train are trained again"
MOST_SEEDS = 1000  # more is a slip of the keyboard: each is a full training of everybody


@dataclass(frozen=True, kw_only=True)
class Asked:
    """How a front is to be confirmed.

    Attributes:
        seeds: trainings of each contender. The k-th, from 1, has the search's own seed plus k, whoever is trained.
        trained_on: the training split, or the validation split too.
        margin: of test accuracy; a difference that surely is smaller does not matter.
        chosen: ids of members of the front; all where there are none.

    Raises:
        InputError: that cannot be.
    """

    seeds: int = 5
    trained_on: str = TRAIN
    margin: float = 0.01
    chosen: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise InputError(
                f"--seeds {self.seeds}: each is trained at least once; two or more tell how sure a mean is"
            )
        if self.seeds > MOST_SEEDS:
            raise InputError(f"--seeds {self.seeds}: at most {MOST_SEEDS}; five tell most differences that matter")
        if self.trained_on not in TRAINED_ON:
            raise InputError(f"--train-on: {unknown('choice', self.trained_on, TRAINED_ON)}")
        if not 0 < self.margin < 1:
            raise InputError(f"--margin {self.margin:g} is no difference of accuracies between 0 and 1, as 0.01")


def confirm(
    name: str,
    *,
    asked: Asked | None = None,
    allow_code: bool = False,
    runs: str | Path = "runs",
    address: str | None = None,
    gpus_per_trial: float | None = None,
    cpus_per_trial: float | None = None,
    memory_per_trial: float | None = None,
    pools: Sequence[str] = (),
    runtime_env: str | Path | None = None,
    console: Console | None = None,
) -> Confirmation | None:
    """Confirm the front of a search, or go on with that; what was trained for it before is not trained again.

    The models of the front, in the search's folder and in MLflow, become the confirmed ones.

    Args:
        name: of the search, in `runs`; its space and its places are those that it remembers.
        allow_code: whether functions that the space names may run.
        address, gpus_per_trial, cpus_per_trial, memory_per_trial, pools, runtime_env: as of `search.run.run`, of each
            training.
        console: where to show progress; None shows nothing.

    Returns:
        None where it was interrupted.

    Raises:
        InputError: there is no such search or nothing to confirm in it, a driver is at work, its data have changed or
            have no test split, or something given cannot be.
    """
    console, asked, runs = console or Console(quiet=True), asked or Asked(), Path(runs)
    before = results.opened(runs, name)
    if not (before.directory / results.DATA).is_file():
        raise InputError(f"{name} {OWN}")
    chosen(before.front, asked.chosen)
    task = opened(before.file.to_dict(), allow_code=allow_code)
    confirmable(task)
    resources = Resources.asked(cpus=cpus_per_trial, gpus=gpus_per_trial, memory=memory_per_trial, pools=pools)
    equipment, places = luggage(address, runtime_env), Places.read(before.directory)
    with cluster(address, equipment):
        Share.of(resources)
        data = {**before.data, **task.data}  # measured may be elsewhere than before: all are measured anew
        study = studies.resume(before.directory, before.file, task.evaluator, data=data, storage=places.storage)
        with closing(study):
            tracker = MlflowTracker.of(runs, tracking=places.tracking, artifacts=places.artifacts)
            tracker.start(space=before.file.name, search=name, key=study.key, text="", params={})
            keeper = Keeper(study, tracker)
            try:
                found = confirmed(study, task, asked, resources=resources, metering=None, console=console)
                if found is not None:
                    keeper.confirmed(found)
            finally:
                keeper.close(_status(study))
    return found


def confirmable(task: Task) -> None:
    """
    Raises:
        InputError: what is searched could not be confirmed; why.
    """
    if task.dataset is None:
        raise InputError(f"{task.file.name} {OWN}")
    if not len(task.dataset.test):
        raise InputError(
            f"{task.file.name} cannot be confirmed: its data have no test split (data.test_fraction is 0). Start a new "
            "search with one, as data.test_fraction: 0.2"
        )


def confirmed(
    study: Study,
    task: Task,
    asked: Asked,
    *,
    resources: Resources,
    metering: Metering | None,
    console: Console,
) -> Confirmation | None:
    """Confirms the front of a study that this process drives, on the surrounding cluster, and writes that down.

    Args:
        task: one that `confirmable` has let pass.
        metering: what is at work on the cluster already, for a space with timed costs.

    Returns:
        None where it was interrupted.

    Raises:
        InputError: as `confirm`.
    """
    assert task.dataset is not None
    seeds = tuple(task.file.search.seed + k for k in range(1, asked.seeds + 1))
    journal, checkpoints = Journal(study.directory), checkpoints_of(study.directory, CONFIRMED)
    if not journal.numbers:
        _clear(checkpoints)
    wanted = {record.number for record in chosen(study.front, asked.chosen)}
    members = [
        record
        for record in study.front.members
        if record.number in wanted or journal.knows(record.architecture, seeds, asked.trained_on)
    ]
    roster = Roster(journal, _entrants(members, task), seeds, asked.trained_on)
    console.print(f"{len(roster.open)} of {len(roster.jobs)} trainings are to be done", highlight=False)
    if task.file.train.inherit in NOTES:
        console.print("note: trained from scratch, without what trials have inherited", style="dim", highlight=False)
    before, there = store.read(study.directory), {None, *(record.number for record in members)}
    if left := [one for one in (before.contenders if before else ()) if one.trial not in there]:
        names = ", ".join(one.architecture.label for one in left)
        console.print(f"note: no longer confirmed, as that was with other settings: {names}", style="dim", markup=False)
    meter = metering.process if metering else None
    train = Retrainer(task.file, task.dataset, asked.trained_on)
    try:
        _train(roster, train, checkpoints, resources, meter, console)
        roster.check()
        with metering_for(task, metering, study.directory.parent, console) as (costed, gauge):
            contenders, unfit = measured(roster, costed, gauge)
    except KeyboardInterrupt:
        return None
    terms = _terms(task, asked)
    court = Court(contenders, terms, unfit)
    found = Confirmation(
        trained_on=asked.trained_on,
        seeds=seeds,
        images=terms.images,
        margin=asked.margin,
        contenders=court.verdicts(),
        gain=court.gain(),
        failures=roster.failures(),
    )
    store.write(study.directory, found)
    for reason in roster.faults:
        console.print(f"not trained: {reason}; the same command tries again", style="yellow", markup=False)
    return found


def chosen(front: Front, ids: Sequence[str]) -> list[TrialRecord]:
    """The members of a front with these ids, in its order; all where there are none.

    Raises:
        InputError: an id is not on the front, or nothing is.
    """
    for given in ids or (None,):
        results.choose(front, chosen=given)
    return [record for record in front.members if not ids or record.network.id in ids]


def _clear(checkpoints: Checkpoints) -> None:
    """Leaves nothing of a confirmation whose journal is gone: its numbers come again."""
    try:
        for number in checkpoints.held():
            checkpoints.drop(number)
    except InputError:
        raise
    except Exception as error:  # each kind of store has its own
        raise InputError(f"the store of checkpoints cannot be used: {said(error)}") from error


def _entrants(members: Sequence[TrialRecord], task: Task) -> list[Entrant]:
    """The members, and the backbones that are none of them."""
    there = {record.architecture.id for record in members}
    return [
        *(Entrant(architecture=record.architecture, trial=record.number) for record in members),
        *(Entrant(architecture=plain, trial=None) for plain in task.space.backbones() if plain.id not in there),
    ]


def _train(
    roster: Roster,
    train: Retrainer,
    checkpoints: Checkpoints,
    resources: Resources,
    meter: ClusterMeter | None,
    console: Console,
) -> None:
    """Does what is still to do.

    Raises:
        KeyboardInterrupt: at the first Ctrl-C.
    """
    todo = roster.open
    with Display(console, total=len(roster.jobs), done=len(roster.jobs) - len(todo)) as display:
        for outcome in retrained(train, todo, checkpoints, resources=resources, meter=meter, began=display.began):
            display.ended(outcome.job, roster.take(outcome))


def _terms(task: Task, asked: Asked) -> Terms:
    assert task.dataset is not None
    kinds = {name: entry.cost for name, entry in entries(task.file).items()}
    after = {name: f"test_{kinds[name]}" for name in task.file.objectives if kinds.get(name) in JUDGED}
    return Terms(
        costs={
            name: direction
            for name, direction in task.file.objectives.items()
            if name != ACCURACY and name not in after
        },
        judged={after[name]: direction for name, direction in task.file.objectives.items() if name in after},
        margin=asked.margin,
        images=len(task.dataset.test),
    )


def _status(study: Study) -> Status:
    """How the search itself stands, which the confirmation has not changed."""
    over = study.overspent or not any(record.state.open for record in study.records())
    return "FINISHED" if over else "KILLED"
