"""Lineage: whose weights the networks of a search start from.

With `parent` each starts from its own backbone as it is, trained once before the first trial. With `nearest` it starts
from the network evaluated so far that differs in the fewest decisions. Knows records and backbones, nothing of
storage, files or training.
"""

import math
import operator
from bisect import insort
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from search.evaluator import Ancestor
from search.record import State, TrialRecord
from search.study.work import Donor
from spaces import Architecture
from spaces.schema import NEAREST, NONE, PARENT
from spaces.techniques import TECHNIQUES

NEWEST = 8  # ended trials of each backbone whose weights are kept to be started from, beside those of the front
OFFERED = 3  # the nearest, and who comes next should its weights be gone
NOTES = {
    PARENT: "trials start from the weights of their own backbone, trained before the first of them, and values are of "
    "networks that do; `archsearch confirm` trains from scratch",
    NEAREST: "trials start from the weights of the nearest network evaluated before, or from scratch where there is "
    "none yet, and values of both are compared; `archsearch confirm` trains from scratch",
}
"""What whoever reads values has to know, by `train.inherit`."""


@dataclass(frozen=True, kw_only=True)
class Parent:
    """A backbone as it is, trained for others to start from; no trial.

    Attributes:
        number: of its checkpoint: its place among the backbones of the space, from 0.
        accuracy: validation top-1 in [0, 1]; None where the training failed.
        device_s: as of a `Measurement`, of the whole training.
        reason: why it failed; empty where it did not.
    """

    number: int
    architecture: Architecture
    accuracy: float | None = None
    device_s: float = 0.0
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "architecture": self.architecture.to_dict()}

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> "Parent":
        return cls(**{**given, "architecture": Architecture.from_dict(given["architecture"])})


@final
class Lineage:
    """Decides from whom each trial inherits, and which weights that needs.

    Args:
        inherit: `train.inherit` of the space.
    """

    def __init__(self, inherit: str = NONE):
        self._inherit = inherit
        self.parents: dict[int, Parent] = {}
        self._seen: dict[str, dict[int, _Seen]] = defaultdict(dict)  # evaluated ones, by backbone and number
        self._ended: dict[str, list[tuple[float, int]]] = defaultdict(list)  # the newest of each backbone, in order
        self._open: set[int] = set()  # evaluated ones that wait at a rung: their weights are there
        self._heirs: dict[int, int] = {}  # trials that may still have to read the weights of which other
        self._front: tuple[TrialRecord, ...] = ()

    @property
    def device_s(self) -> float:
        """Device seconds spent on parents."""
        return sum(parent.device_s for parent in self.parents.values())

    @property
    def spared(self) -> set[int]:
        """Trials whose weights may be needed though they have ended, beside those of the front."""
        newest = {number for ended in self._ended.values() for _, number in ended}
        return newest | set(self._heirs.values())

    def put(self, record: TrialRecord, front: tuple[TrialRecord, ...]) -> None:
        """Hears of every change of a trial."""
        if self._inherit != NEAREST:
            return
        self._front = front
        number, evaluated = record.number, any(measurement.values for measurement in record.history)
        if record.state.open and not evaluated and isinstance(record.inherited_from, int):
            self._heirs[number] = record.inherited_from
        else:
            self._heirs.pop(number, None)
        (self._open.add if record.state is State.PAUSED and evaluated else self._open.discard)(number)
        if not evaluated or record.state is State.FAILED:
            return
        backbone = record.architecture.canonical.backbone or ""
        if number not in self._seen[backbone]:
            self._seen[backbone][number] = _Seen.of(record)
        ended = self._ended[backbone]
        if record.state.counts and record.origin is None and all(number != other for _, other in ended):
            insort(ended, (record.ended or 0.0, number))
            del ended[:-NEWEST]

    def ancestor(self, record: TrialRecord) -> Ancestor | None:
        """From whom a new trial is to inherit; None where it starts from scratch."""
        donors = self._parents(record) if self._inherit == PARENT else self._nearest(record)
        return donors[0].name if donors else None

    def donors(self, record: TrialRecord) -> tuple[Donor, ...]:
        """Whose weights a trial that was given an ancestor may start from, that ancestor first."""
        if record.inherited_from is None:
            return ()
        if self._inherit == PARENT:
            return tuple(self._parents(record))
        first = self._seen[record.architecture.canonical.backbone or ""].get(int(record.inherited_from))
        others = [donor for donor in self._nearest(record) if donor.number != record.inherited_from]
        return tuple([*([first.donor] if first else []), *others][:OFFERED])

    def _parents(self, record: TrialRecord) -> list[Donor]:
        wanted = record.architecture.canonical
        return [
            Donor(name=PARENT, number=parent.number, architecture=parent.architecture)
            for parent in self.parents.values()
            if not parent.reason
            and parent.architecture.backbone == wanted.backbone
            and parent.architecture.kwargs == wanted.kwargs
        ]

    def _nearest(self, record: TrialRecord) -> list[Donor]:
        """Those whose weights are there, the nearest first."""
        if self._inherit != NEAREST:
            return []
        there = self._open | {member.number for member in self._front if member.origin is None}
        there |= {number for ended in self._ended.values() for _, number in ended}
        wanted = _Seen.of(record)
        same = self._seen[record.architecture.canonical.backbone or ""]
        near = sorted(
            (wanted.distance(other), number)
            for number, other in same.items()
            if number in there and number != record.number
        )
        return [same[number].donor for _, number in near[:OFFERED]]


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """An architecture with what tells it from others; log_params is 0 where nobody counts."""

    number: int
    architecture: Architecture
    log_params: float

    @classmethod
    def of(cls, record: TrialRecord) -> "_Seen":
        params = max(1.0, record.costs.get("params", 1.0))
        return cls(number=record.number, architecture=record.architecture, log_params=math.log(params))

    @property
    def donor(self) -> Donor:
        return Donor(name=self.number, number=self.number, architecture=self.architecture)

    def distance(self, other: "_Seen") -> tuple[bool, int, float]:
        """Other arguments of the backbone before all, then decisions that differ, then how far apart sizes are."""
        one, two = self.architecture, other.architecture
        same = one.canonical.kwargs == two.canonical.kwargs
        return not same, decisions_that_differ(one, two), abs(self.log_params - other.log_params)


def decisions_that_differ(one: Architecture, two: Architecture) -> int:
    """Between architectures of one backbone; where stages are decided one by one, each counts.

    What comes to the same network counts for nothing.
    """
    plain = one.canonical, two.canonical
    arguments = sum(_given(plain, "kwargs", name, None) for name in {**plain[0].kwargs, **plain[1].kwargs})
    decided = 0
    for name in {**plain[0].choices, **plain[1].choices}:
        default = TECHNIQUES[name].default
        if _given(plain, "choices", name, default):
            decided += max(1, _given((one, two), "choices", name, default))
    return arguments + decided


def _given(pair: tuple[Architecture, Architecture], section: str, name: str, default: object) -> int:
    """In how many places two architectures have another value."""
    one, two = (getattr(each, section).get(name, default) for each in pair)
    if (not isinstance(one, list) and not isinstance(two, list)) or section == "kwargs":
        return int(one != two)
    stages = max(len(each) for each in (one, two) if isinstance(each, list))
    left, right = (each if isinstance(each, list) else [each] * stages for each in (one, two))
    return sum(map(operator.ne, left, right))  # other arguments may give other numbers of stages
