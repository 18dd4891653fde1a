"""Simulated workers and their clock over a replayed table, whoever decides what they train.

A searcher hands out work and hears of its end, in the order in which trainings would end. Hypervolume is that of the
true values of full trainings, as a share of that of all cells.
"""

import heapq
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from search.checkpoints.checkpoints import TRIALS
from search.evaluator import Measurement
from search.study.study import Study
from search.study.work import Assignment, carry_out
from tests.benchmarks.replay import RUNGS, Replay, coded

MEMORY = Path("/dev/shm") if Path("/dev/shm").is_dir() else None  # storage that costs no time; else it is on disk


@dataclass(frozen=True, kw_only=True)
class Work:
    """A training of a cell to a rung."""

    number: int
    code: str
    fidelity: int


class Searcher(Protocol):
    """Decides what is trained."""

    def next(self) -> Work | None:
        """For a worker that has none; None where there is none now."""
        ...

    def report(self, work: Work, hours: float) -> Work | None:
        """Hears that work is done, after so many simulated hours; what the same worker goes on with, if anything."""
        ...


class Engine:
    """Our own study."""

    def __init__(self, study: Study, replay: Replay):
        self._study, self._replay, self._began = study, replay, time.time()
        self._trainings: dict[int, tuple[Iterator[Measurement], list[int]]] = {}

    def next(self) -> Work | None:
        assigned = self._study.next()
        if not isinstance(assigned, Assignment):
            return None
        checkpoint = self._study.directory.resolve() / TRIALS / str(assigned.number)
        training = carry_out(self._replay, assigned, checkpoint)
        self._trainings[assigned.number] = training, list(assigned.rungs[1:])
        return Work(number=assigned.number, code=coded(assigned.architecture.choices), fidelity=assigned.rungs[0])

    def report(self, work: Work, hours: float) -> Work | None:
        training, ahead = self._trainings[work.number]
        spent = 3600 * self._replay.hours(work.code, work.fidelity)
        measurement = replace(next(training), device_s=spent, time=self._began + 3600 * hours)
        if self._study.report(work.number, measurement):
            return replace(work, fidelity=ahead.pop(0))
        del self._trainings[work.number]
        return None


class Curve:
    """How the hypervolume of a search grows.

    Attributes:
        gains: (hours, share of that of all cells) at each full training that added to it, in order.
    """

    def __init__(self, replay: Replay):
        self._replay = replay
        self._truths: list[tuple[float, float]] = []
        self.gains: list[tuple[float, float]] = [(0.0, 0.0)]

    def add(self, hours: float, work: Work) -> None:
        if work.fidelity < RUNGS[-1]:
            return
        self._truths.append(self._replay.truth(work.code))
        found = self._replay.volume(self._truths) / self._replay.best
        if found > self.share:
            self.gains.append((hours, found))

    @property
    def share(self) -> float:
        """Where it has come to."""
        return self.gains[-1][1]

    def hours_to(self, share: float) -> float:
        """Infinite where it has not come so far."""
        return next((hours for hours, found in self.gains if found >= share), math.inf)

    def share_at(self, hours: float) -> float:
        return max(found for at, found in self.gains if at <= hours)


class End(StrEnum):
    """Why a simulation is over."""

    SHARE = "share"  # it has found all that was asked for
    BUDGET = "budget"  # its simulated hours are spent
    NOTHING = "nothing left"  # the searcher has no more work
    CUT = "cut"  # real seconds, or the trainings that it may begin, ran out before


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Up to where a simulation runs.

    Attributes:
        hours: simulated.
        share: of the hypervolume, once it is found.
        seconds: real.
        trainings: begun before there is no more work; the same one again counts.
    """

    hours: float
    share: float = math.inf
    seconds: float = math.inf
    trainings: float = math.inf


@dataclass(frozen=True, kw_only=True, order=True)
class _Event:
    """A training ends."""

    hours: float
    place: int
    work: Work = field(compare=False)


class Simulation:
    """One search in simulated time.

    Args:
        repeats_free: whether a training that was begun before costs nothing: it ends when that does, or at once.

    Attributes:
        done: trainings in the order in which they ended.
        hours: of the last event.
    """

    def __init__(self, searcher: Searcher, replay: Replay, *, workers: int, repeats_free: bool = False):
        self._searcher, self._replay = searcher, replay
        self._workers, self._repeats_free = workers, repeats_free
        self._ahead: list[_Event] = []
        self._ends: dict[tuple[str, int], float] = {}
        self.begun, self.hours = 0, 0.0
        self.done: list[Work] = []
        self.curve = Curve(replay)

    def run(self, limits: Limits) -> End:
        deadline = time.monotonic() + limits.seconds
        self._hand_out(limits)
        while self._ahead:
            if self.curve.share >= limits.share:
                return End.SHARE
            if self._ahead[0].hours > limits.hours:
                return End.BUDGET
            if time.monotonic() > deadline:
                return End.CUT
            event = heapq.heappop(self._ahead)
            self.hours = event.hours
            self.done.append(event.work)
            self.curve.add(self.hours, event.work)
            if (further := self._searcher.report(event.work, self.hours)) is not None:
                self._begin(further)
            self._hand_out(limits)
        return End.CUT if self.begun >= limits.trainings else End.NOTHING

    def _hand_out(self, limits: Limits) -> None:
        """Workers without work ask for it."""
        while len(self._ahead) < self._workers and self.begun < limits.trainings:
            if (work := self._searcher.next()) is None:
                return
            self._begin(work)

    def _begin(self, work: Work) -> None:
        cell, ends = (work.code, work.fidelity), self.hours + self._replay.hours(work.code, work.fidelity)
        if self._repeats_free and cell in self._ends:
            ends = max(self.hours, self._ends[cell])
        self._ends.setdefault(cell, ends)
        heapq.heappush(self._ahead, _Event(hours=ends, place=self.begun, work=work))
        self.begun += 1


def paid(done: Sequence[Work], replay: Replay, *, hours: float) -> tuple[Curve, int, float]:
    """One worker that trains these one after the other, repeats too: the curve of what ends within so many hours, how
    many do, and how many hours all of them take."""
    curve, within, now = Curve(replay), 0, 0.0
    for work in done:
        now += replay.hours(work.code, work.fidelity)
        if now <= hours:
            within += 1
            curve.add(now, work)
    return curve, within, now


def quartiles(values: Sequence[float]) -> list[float]:
    """25, 50 and 75 %, each one of the values, so that infinity can be among them."""
    ordered = sorted(values)
    return [ordered[min(len(ordered) - 1, int(len(ordered) * part))] for part in (0.25, 0.5, 0.75)]
