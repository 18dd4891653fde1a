"""Who is trained again, with which seeds; what is still to do, and what came of it. Knows nothing of who trains."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from search.confirmation.journal import Journal
from search.confirmation.record import Failure, Retraining
from search.evaluator import Measurement
from spaces import Architecture, InputError


@dataclass(frozen=True, kw_only=True)
class Entrant:
    """A member of the front, by the number of its trial, or an unmodified backbone."""

    architecture: Architecture
    trial: int | None


@dataclass(frozen=True, kw_only=True)
class Job:
    """A training to do.

    Attributes:
        number: of its checkpoint.
    """

    number: int
    architecture: Architecture
    seed: int


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a job ended.

    Attributes:
        last: its last measurement; None where there is none.
        reason: why there is none.
        final: whether it would end so again: what is a machine's fault would not.
    """

    job: Job
    last: Measurement | None = None
    reason: str = ""
    final: bool = True


@final
class Roster:
    """All trainings of a confirmation.

    Attributes:
        entrants: in the order in which they are told of.
        jobs: all of them, the first seed of everybody first, so that what is done early can be paired.
        faults: why a training could not be done that may go better another time; in the order in which it was told.
    """

    def __init__(self, journal: Journal, entrants: Sequence[Entrant], seeds: Sequence[int], trained_on: str):
        self.entrants, self._journal = tuple(entrants), journal
        self._jobs = {
            (one.architecture.id, seed): Job(
                number=journal.number(one.architecture, seed, trained_on), architecture=one.architecture, seed=seed
            )
            for seed in seeds
            for one in entrants
        }
        self.jobs = tuple(self._jobs.values())
        self.faults: list[str] = []

    @property
    def open(self) -> list[Job]:
        """What is to be done."""
        return [job for job in self.jobs if self._journal.outcome(job.number) is None]

    def take(self, outcome: Outcome) -> str:
        """Writes down how a job ended, where that is final; says it in words."""
        job, last = outcome.job, outcome.last
        values = {} if last is None else dict(last.values)
        bad = [f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)]
        if last is not None and not bad:
            network = last.network or job.architecture
            self._journal.ended(Retraining(seed=job.seed, number=job.number, network=network, values=values))
            return f"test accuracy {values['test_accuracy']:.4f}"
        reason = ", ".join(bad) or outcome.reason
        if outcome.final:
            self._journal.failed(job.number, reason)
        else:
            self.faults.append(f"{job.architecture.label}, seed {job.seed}: {reason}")
        return f"failed: {reason}"

    def retrainings(self, entrant: Entrant) -> tuple[Retraining, ...]:
        """Those that gave values, in order of seeds."""
        mine = (job for job in self.jobs if job.architecture.id == entrant.architecture.id)
        found = (self._journal.outcome(job.number) for job in mine)
        return tuple(outcome for outcome in found if isinstance(outcome, Retraining))

    def failures(self) -> tuple[Failure, ...]:
        found = ((job, self._journal.outcome(job.number)) for job in self.jobs)
        return tuple(
            Failure(architecture=job.architecture, seed=job.seed, reason=outcome)
            for job, outcome in found
            if isinstance(outcome, str)
        )

    def check(self) -> None:
        """
        Raises:
            InputError: no training at all came to its end; why.
        """
        if not any(map(self.retrainings, self.entrants)):
            reasons = [*self.faults, *(failure.reason for failure in self.failures())]
            raise InputError(f"no training of the confirmation came to its end; the last: {reasons[-1]}")
