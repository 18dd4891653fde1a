"""Book: the records of a search in memory, with what is asked of them all the time kept at hand.

Knows records and Pareto laws; nothing of storage, samplers or training.
"""

from collections import Counter
from collections.abc import Mapping
from typing import final

from search.pareto import Objectives
from search.record import Front, State, TrialRecord, front_of
from search.study.lineage import Lineage


@final
class Book:
    """The newest record of each trial. A record costs no more to add than the front is long.

    Args:
        lineage: is told of every change.
    """

    def __init__(self, objectives: Objectives, reference_point: Mapping[str, float], lineage: Lineage | None = None):
        self.lineage = lineage or Lineage()
        self.objectives, self.reference_point = objectives, reference_point
        self.front: Front = front_of((), objectives, reference_point)
        self._records: dict[int, TrialRecord] = {}
        self._counts: Counter[State] = Counter()
        self.running: set[int] = set()
        self._trained: dict[str, int] = {}
        self._inherited = 0  # from an earlier search
        self.device_s = 0.0  # spent by all trainings together
        self.changes = 0  # how often anything was put

    def put(self, record: TrialRecord) -> None:
        """Adds a record, or replaces the trial's last one."""
        self.changes += 1
        before = self._records.get(record.number)
        if before is not None:
            self._counts[before.state] -= 1
            self.device_s -= before.device_s
        elif record.origin is not None:
            self._inherited += 1
        self.device_s += record.device_s
        self._records[record.number] = record
        (self.running.add if record.state is State.RUNNING else self.running.discard)(record.number)
        self._counts[record.state] += 1
        if record.state.open or record.state.counts:
            self._trained.setdefault(record.architecture.id, record.number)
        if record.state is State.COMPLETE:
            others = (member for member in self.front.members if member.number != record.number)
            self.front = front_of((*others, record), self.objectives, self.reference_point)
        self.lineage.put(record, self.front.members)

    def __getitem__(self, number: int) -> TrialRecord:
        return self._records[number]

    def records(self) -> list[TrialRecord]:
        """In the order of their numbers."""
        return [self._records[number] for number in sorted(self._records)]

    def counts(self) -> dict[State, int]:
        return {state: self._counts[state] for state in State}

    @property
    def proposals(self) -> int:
        return len(self._records)

    @property
    def started(self) -> int:
        """Trainings begun: running, paused, complete, stopped or failed."""
        return sum(n for state, n in self._counts.items() if state.open or state.counts) - self._inherited

    @property
    def ended(self) -> int:
        """Trainings of the budget that are over."""
        return sum(n for state, n in self._counts.items() if state.counts) - self._inherited

    def training_of(self, architecture_id: str) -> int | None:
        """The number of the trial that trains, or trained, this architecture."""
        return self._trained.get(architecture_id)
