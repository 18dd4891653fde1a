"""The port between a study and whoever trains: what is handed out, why nothing is, and who is told of it.

Knows records; nothing of storage, samplers or Ray.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from search.evaluator import Ancestor, Evaluator, Measurement
from search.record import TrialRecord
from spaces import Architecture


@dataclass(frozen=True, kw_only=True)
class Donor:
    """A trained network whose weights another may start from.

    Attributes:
        name: as of `TrialRecord.inherited_from`.
        number: of its checkpoint, among those of trials or of parents.
    """

    name: Ancestor
    number: int
    architecture: Architecture


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """A training to do.

    Attributes:
        donors: of the first whose weights are there it inherits them; none for a start from scratch.
        rungs: fidelities to reach and to report, lowest first; those already reported are left out.
        measured: what a measurement at a rung needs values for.
    """

    number: int
    architecture: Architecture
    seed: int
    rungs: tuple[int, ...]
    measured: tuple[str, ...]
    donors: tuple[Donor, ...] = ()


def reaches(measurement: Measurement, fidelity: int, measured: tuple[str, ...]) -> bool:
    """Whether a measurement closes a rung: trained far enough, with a value for all that is to be measured."""
    return measurement.fidelity >= fidelity and all(name in measurement.values for name in measured)


def carry_out(
    evaluator: Evaluator, assignment: Assignment, checkpoint: Path, *, devices: float = 1.0
) -> Iterator[Measurement]:
    """Trains from rung to rung for as long as it is iterated.

    Args:
        devices: what the training has of them, for its `Measurement.device_s`.

    Raises:
        ValueError: the evaluator ends before the rung, or without what is to be measured.
    """
    checkpoint.mkdir(parents=True, exist_ok=True)
    for rung in assignment.rungs:
        closed, reached, began = False, 0, time.monotonic()
        for measurement in evaluator.evaluate(assignment.architecture, rung, assignment.seed, checkpoint):
            closed, reached = reaches(measurement, rung, assignment.measured), measurement.fidelity
            yield replace(measurement, device_s=devices * (time.monotonic() - began))
            began = time.monotonic()
        if not closed:
            wanted = ", ".join(assignment.measured)
            raise ValueError(f"the evaluator ended at {reached} of {rung} without values for {wanted}")


class Idle(StrEnum):
    """Why there is no work to hand out."""

    BUDGET = "budget"  # every training of the budget has ended
    TIME = "time"  # the hours or device hours of the budget are spent
    EXHAUSTED = "space exhausted"  # every feasible architecture has been tried
    LATER = "later"  # no feasible one found within the patience; ask again


class Observer(Protocol):
    """Is told of every change, in the driver, after it is stored."""

    def started(self, record: TrialRecord) -> None:
        """A training was handed out; also one that was paused, and after a resume one handed out before."""
        ...

    def measured(self, record: TrialRecord) -> None:
        """News of a training that goes on, or that is paused now; the last measurement comes with `ended`."""
        ...

    def ended(self, record: TrialRecord) -> None:
        """Also told of what is never trained: infeasible and duplicate."""
        ...
