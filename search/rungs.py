"""Rungs: who reached which fidelity with what, and who goes on from there.

Applies the rule of `search.halving` to what it has seen; all of it can be told again after a crash. Knows no
storage, no samplers, no workers.
"""

from collections.abc import Mapping
from typing import final

import numpy as np

from search.halving import Halving
from search.ledger import Rung
from search.pareto import Floats, Objectives
from spaces.schema import Search


@final
class Rungs:
    """The rungs of a search."""

    def __init__(self, search: Search, objectives: Objectives):
        self._search, self._objectives = search, objectives
        self._fidelities = search.fidelity.rungs
        self._seen = {fidelity: _Seen(len(objectives.names)) for fidelity in self._fidelities}
        self._next: dict[int, int] = {}

    @property
    def last(self) -> int:
        """Full fidelity."""
        return self._fidelities[-1]

    def ahead(self, number: int) -> tuple[int, ...]:
        """Fidelities that a trial has not reached yet."""
        return self._fidelities[self._next.get(number, 0) :]

    def enter(self, number: int, rung: Rung) -> None:
        """Counts a trial among those that reached a rung.

        Raises:
            ValueError: a value is missing, NaN or infinite.
        """
        self._seen[rung.fidelity].put(number, self._objectives.minimised([rung.values]))
        self._next[number] = self._fidelities.index(rung.fidelity) + 1

    def judge(self, number: int, values: Mapping[str, float], measured: tuple[str, ...]) -> Rung:
        """Whether a trial may go on from the rung ahead of it, judged among all that reached it so far.

        Args:
            values: every objective, in its own direction.
            measured: the objectives that are not known before training.
        """
        rung = Rung(fidelity=self.ahead(number)[0], values=values, goes_on=False)
        self.enter(number, rung)
        if rung.fidelity == self.last:
            return rung
        seen = self._seen[rung.fidelity]
        rule = Halving(reduction=self._search.fidelity.reduction, objectives=self._columns(measured))
        goes_on = rule.goes_on(seen.points, seen.place(number))
        return Rung(fidelity=rung.fidelity, values=values, goes_on=goes_on)

    def _columns(self, measured: tuple[str, ...]) -> tuple[int, ...]:
        names = self._objectives.names
        if self._search.scheduler == "none":
            return ()
        if self._search.scheduler == "asha":
            return (names.index((measured or names)[0]),)
        return tuple(range(len(names)))

    def why_stopped(self, rung: Rung) -> str:
        """The verdict in words, for the record."""
        fidelity = self._search.fidelity
        return (
            f"not in the best 1/{fidelity.reduction} of {len(self._seen[rung.fidelity].points)} trials "
            f"at {fidelity.unit} {rung.fidelity}"
        )


class _Seen:
    """Points of one rung in the order of their trials, whichever came first.

    Attributes:
        points: (n, d), to be minimised.
    """

    def __init__(self, objectives: int):
        self._numbers = np.empty(0, dtype=np.int64)
        self.points = np.empty((0, objectives))

    def place(self, number: int) -> int:
        return int(np.searchsorted(self._numbers, number))

    def put(self, number: int, point: Floats) -> None:
        place = self.place(number)
        if place < len(self._numbers) and self._numbers[place] == number:
            self.points[place] = point
        else:
            self._numbers = np.insert(self._numbers, place, number)
            self.points = np.insert(self.points, place, point, axis=0)
