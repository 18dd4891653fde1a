"""Rungs: who reached which fidelity with what, who goes on from there, and who waits.

Applies the rule of `search.study.halving` to what it has seen; all of it can be told again after a crash, in the
order of arrival. Knows no storage, no samplers, no workers.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from math import ceil
from typing import NamedTuple, final

import numpy as np

from search.pareto import Objectives
from search.samplers import plans
from search.study.halving import Halving
from search.study.ledger import Rung
from spaces.schema import Search

# A rung is ranked afresh once it has grown by a hundredth, so up to 200 trials at each arrival. Ranking costs
# n log n; at every arrival it would cost n**2 log n over a search, so it costs a hundred times n log n.
GROWTH = 100


class Promotion(NamedTuple):
    """A paused trial that may go on, and the rung from which it does."""

    number: int
    rung: Rung


@final
class Rungs:
    """The rungs of a search.

    Attributes:
        planned: whether the sampler decides who goes on, and no rule.

    Args:
        measured: the objectives that are not known before training; `asha` judges by the first of them.
    """

    def __init__(self, search: Search, objectives: Objectives):
        self._search, self._objectives = search, objectives
        self._fidelities = search.fidelity.rungs
        self._seen = {fidelity: _Seen() for fidelity in self._fidelities}
        self._next: dict[int, int] = {}
        self._measured = objectives.names
        self.planned = search.scheduler == "auto" and plans(search.sampler)

    @property
    def last(self) -> int:
        """Full fidelity."""
        return self._fidelities[-1]

    def ahead(self, number: int) -> tuple[int, ...]:
        """Fidelities that a trial has not reached yet."""
        return self._fidelities[self._next.get(number, 0) :]

    def enter(self, number: int, rung: Rung, *, guest: bool = False) -> None:
        """Counts a trial among those that reached a rung, after all that came there before it.

        Args:
            guest: of an earlier search: compared with, but it takes no place from those who may go on.

        Raises:
            ValueError: a value is missing, NaN or infinite.
        """
        point = self._objectives.minimised([rung.values])[0].tolist()
        self._seen[rung.fidelity].put(number, tuple(point), rung, guest)
        self._next[number] = self._fidelities.index(rung.fidelity) + 1

    def arrive(self, number: int, values: Mapping[str, float], *, goes_on: bool = False, guest: bool = False) -> Rung:
        """Counts a trial among those that reached the rung ahead of it; as `enter`."""
        fidelity = self.ahead(number)[0]
        rung = Rung(fidelity=fidelity, place=len(self._seen[fidelity].numbers), values=values, goes_on=goes_on)
        self.enter(number, rung, guest=guest)
        return rung

    def judge(self, number: int, values: Mapping[str, float], measured: tuple[str, ...]) -> Rung:
        """Whether a trial may go on at once from the rung ahead of it; else it waits for `promotion`.

        Args:
            values: every objective, in its own direction.
            measured: the objectives that are not known before training.
        """
        self._measured = measured or self._measured
        rung = self.arrive(number, values)
        if rung.fidelity == self.last:
            return rung
        seen = self._seen[rung.fidelity]
        if self._search.scheduler == "none" or (not self.planned and number in seen.waiting(self._rule)):
            return seen.let_go(number).rung
        return rung

    def due(self) -> int | None:
        """The best that waits at the highest rung where anyone may go on by the rule."""
        waiting = (self._seen[fidelity].waiting(self._rule) for fidelity in reversed(self._fidelities[:-1]))
        return next((numbers[0] for numbers in waiting if numbers), None)

    def promotion(self) -> Promotion | None:
        """The one that is due; it then counts as gone on."""
        number = self.due()
        return None if number is None else self.let_go(number)

    def free(self, numbers: Iterable[int]) -> list[int]:
        """Those that a sampler may let go on from where they wait: of a budget of trials one in `reduction`."""
        found = []
        for number in numbers:
            seen = self._seen[self._fidelities[self._next[number] - 1]]
            if number not in seen.closed and seen.room(self._search):
                found.append(number)
        return found

    def let_go(self, number: int) -> Promotion:
        """Lets a waiting one go on from its rung."""
        return self._seen[self._fidelities[self._next[number] - 1]].let_go(number)

    def settle(self, running: Collection[int]) -> None:
        """No more trials begin: ranks as they stand the rungs at which none of those that run is to arrive."""
        nearest = min((self.ahead(number)[0] for number in running), default=math.inf)
        for fidelity, seen in self._seen.items():
            if fidelity < nearest:
                seen.settle()

    def close(self, number: int) -> None:
        """A trial that has ended waits no longer, though it still counts among those that were seen."""
        for seen in self._seen.values():
            seen.closed.add(number)

    @property
    def _rule(self) -> Halving:
        names = self._objectives.names
        judged = [names.index(self._measured[0])] if self._search.scheduler == "asha" else range(len(names))
        return Halving(reduction=self._search.fidelity.reduction, objectives=judged)

    def verdict(self, number: int) -> str:
        """Why a trial waits at the rung that it reached last, in words."""
        how, rung = self._search.fidelity, self._fidelities[self._next[number] - 1]
        if self.planned:
            return f"others promise more than it did at {how.unit} {rung}"
        return f"not in the best 1/{how.reduction} of {len(self._seen[rung].numbers)} trials at {how.unit} {rung}"


class _Seen:
    """One rung.

    Attributes:
        numbers: of the trials that reached it, in the order of arrival.
        closed: those that have gone on, or cannot.

    Of those that came, one in `reduction` goes on and no more: as points arrive others are among the best, and all
    that ever were are many more than one in so many. Only in the end the best go on whatever went on before.
    """

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.closed: set[int] = set()
        self._points: list[tuple[float, ...]] = []
        self._rungs: dict[int, Rung] = {}
        self._ranked, self._due = 0, 0  # how many of the first arrivals are ranked, and how many are to be
        self._best: list[int] = []
        self._came, self._gone = 0, 0  # guests not counted
        self._settled = False

    def put(self, number: int, point: tuple[float, ...], rung: Rung, guest: bool) -> None:
        self.numbers.append(number)
        self._points.append(point)
        self._rungs[number] = rung
        self._came += not guest
        self._settled = False
        if rung.goes_on:
            self.closed.add(number)
            self._gone += not guest
        if len(self.numbers) >= self._due + max(1, self._due // GROWTH):
            self._due = len(self.numbers)

    def settle(self) -> None:
        self._due, self._settled = len(self.numbers), True

    def waiting(self, rule: Halving) -> list[int]:
        """Numbers of those that may go on and have not, the best first."""
        if self._ranked != self._due:
            self._ranked = self._due
            self._best = [self.numbers[index] for index in rule.best(np.array(self._points[: self._due]))]
        self._best = [number for number in self._best if number not in self.closed]
        room = len(self._best) if self._settled else rule.keeps(self._came) - self._gone
        return self._best[: max(0, room)]

    def room(self, search: Search) -> bool:
        """Whether one more may go on than the rule would let through of all trials of the budget."""
        return search.trials is None or self._gone < ceil(max(search.trials, self._came) / search.fidelity.reduction)

    def let_go(self, number: int) -> Promotion:
        self.closed.add(number)
        self._gone += 1
        rung = self._rungs[number]
        self._rungs[number] = Rung(fidelity=rung.fidelity, place=rung.place, values=rung.values, goes_on=True)
        return Promotion(number, self._rungs[number])
