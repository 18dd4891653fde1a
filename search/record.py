"""TrialRecord: all there is to say of one trial, and Front: the best of them.

The study makes records from its storage; tracking, pictures and the command line read them. Knows
architectures, measurements and Pareto laws, nothing of Optuna, Ray or MLflow.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from search.evaluator import Ancestor, Measurement
from search.pareto import Objectives, hypervolume, non_dominated
from spaces import Architecture


class State(StrEnum):
    """How a trial stands, as written in the study, in MLflow and in `front --json`."""

    RUNNING = "running"
    PAUSED = "paused"
    COMPLETE = "complete"
    STOPPED = "stopped"
    FAILED = "failed"
    INFEASIBLE = "infeasible"
    DUPLICATE = "duplicate"

    @property
    def counts(self) -> bool:
        """Whether a trial that ended so has used up one of the budget's trainings."""
        return self in (State.COMPLETE, State.STOPPED, State.FAILED)

    @property
    def open(self) -> bool:
        """Whether a trial in this state may still be trained."""
        return self in (State.RUNNING, State.PAUSED)


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """One proposal and what became of it.

    Attributes:
        number: of the trial in the study, from 0.
        reason: why it is paused, was stopped, failed or never trained, in one sentence; empty where all went well.
        seed: of the training.
        costs: everything exact, by name: known before training, or of the network that it left; empty where it
            cannot be built.
        history: every measurement so far, in order of fidelity.
        values: every objective in its own direction at full fidelity; empty unless complete.
        test_accuracy: in [0, 1], on held-out data; measured for members of the front only.
        mlflow_run_id: the run that tracking made for it, once it has one.
        duplicate_of: the number of the earlier trial of the same architecture.
        inherited_from: whose weights its training started from; None for new ones, or pretrained ones where the space
            says so.
        origin: `NAME/NUMBER` of the trial of an earlier search whose values these are; it costs none of the budget.
        started, ended: seconds since 1970; None while not known.
    """

    number: int
    architecture: Architecture
    state: State
    reason: str = ""
    seed: int
    costs: Mapping[str, float] = field(default_factory=dict)
    history: tuple[Measurement, ...] = ()
    values: Mapping[str, float] = field(default_factory=dict)
    test_accuracy: float | None = None
    mlflow_run_id: str | None = None
    duplicate_of: int | None = None
    inherited_from: Ancestor | None = None
    origin: str | None = None
    started: float | None = None
    ended: float | None = None

    @property
    def network(self) -> Architecture:
        """What the training has made of the architecture: the same, but for what was removed."""
        found = [measurement.network for measurement in self.history if measurement.network is not None]
        return found[-1] if found else self.architecture

    @property
    def start(self) -> str:
        """Whose weights its training started from, in a word or two."""
        if self.inherited_from is None:
            return "scratch"
        return f"trial {self.inherited_from}" if isinstance(self.inherited_from, int) else self.inherited_from

    @property
    def fidelity(self) -> int:
        """How far its training has come, in units of fidelity; 0 before the first measurement."""
        return max((measurement.fidelity for measurement in self.history), default=0)

    @property
    def device_s(self) -> float:
        """Device seconds spent on it (see `Measurement.device_s`); none on what an earlier search has measured."""
        return 0.0 if self.origin else sum(measurement.device_s for measurement in self.history)


@dataclass(frozen=True, kw_only=True)
class Front:
    """The best of a search so far: the complete trials that no other complete trial dominates.

    Attributes:
        members: the best in the first objective comes first.
        reference_point: by objective, in its own direction; frozen at the start of the search.
        hypervolume: of the members up to the reference point, in the product of the objectives' units.
    """

    objectives: Objectives
    members: tuple[TrialRecord, ...]
    reference_point: Mapping[str, float]
    hypervolume: float


def front_of(records: Iterable[TrialRecord], objectives: Objectives, reference_point: Mapping[str, float]) -> Front:
    """The front of all complete records.

    Raises:
        ValueError: a complete record lacks an objective, or has NaN or infinity for it.
    """
    complete = [record for record in records if record.state is State.COMPLETE]
    points = objectives.minimised(record.values for record in complete)
    best = sorted(
        (tuple(point), record.number, record)
        for point, record, kept in zip(points.tolist(), complete, non_dominated(points), strict=True)
        if kept
    )
    return Front(
        objectives=objectives,
        members=tuple(record for _, _, record in best),
        reference_point=reference_point,
        hypervolume=hypervolume(points, objectives.minimised([reference_point])[0]),
    )
