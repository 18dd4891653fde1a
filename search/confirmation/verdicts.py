"""What the test data say of each contender beside the others, and what the search has won: each in one sentence.

A contender is dominated where another one is no worse in every cost, significantly more accurate, and on average no
worse in whatever else is known only after training. What violates the constraints is nobody's rival. Knows contenders
and statistics, not where they come from.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

from search.confirmation.record import TESTED, Contender
from search.confirmation.statistics import Difference, differences
from search.pareto import Direction


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What counts.

    Attributes:
        costs: direction by name of each objective that is a cost.
        judged: direction by name, in a contender's summary, of each other objective but accuracy.
        margin: of accuracy.
        images: in the test split.
    """

    costs: Mapping[str, Direction]
    judged: Mapping[str, Direction]
    margin: float
    images: int


@final
class Court:
    """Holds contenders against each other.

    Args:
        unfit: why one violates the constraints, by its architecture's id.
    """

    def __init__(self, contenders: Sequence[Contender], terms: Terms, unfit: Mapping[str, str]):
        self._all, self._terms, self._unfit = tuple(contenders), terms, unfit
        accuracies = [{one.seed: one.values[TESTED] for one in each.retrainings} for each in contenders]
        self._tested = differences(accuracies, margin=terms.margin, images=terms.images)
        self._lonely = all(len(found) < 2 for found in accuracies)

    def verdicts(self) -> tuple[Contender, ...]:
        """The contenders, each with its verdict."""
        return tuple(replace(each, verdict=self._verdict(place)) for place, each in enumerate(self._all))

    def _verdict(self, place: int) -> str:
        me = self._all[place]
        reason = self._unfit.get(me.architecture.id)
        said = f"violates the constraints ({reason}); " if reason else ""
        if self._lonely:
            return said + "one seed: no difference is tested"
        return said + (self._loss(place) or self._hold(place))

    def _loss(self, place: int) -> str:
        """Who else had better be taken; empty where nobody."""
        me, others = self._all[place], self._rivals(place)
        over = [other for other in others if self._beats(other, place)]
        if over:
            best = max(over, key=lambda other: self._accuracy(self._all[other]))
            found = self._between(best, place)
            assert found is not None
            word, more = "dominated" if me.trial is not None else "beaten", found.interval.mean
            return f"{word} by {self._all[best].architecture.label}: more accurate by {more:.4f} at no more cost"
        cheaper = [other for other in others if self._cheaper(self._all[other], me)]
        within = [other for other in cheaper if (found := self._between(other, place)) and found.is_within]
        if within:
            least = min(within, key=lambda other: self._prices(self._all[other]))
            name = self._all[least].architecture.label
            return f"within {self._terms.margin:g} of the accuracy of {name}, which is cheaper"
        open_ = [other for other in cheaper if not ((found := self._between(other, place)) and found.is_real)]
        if open_:
            best = max(open_, key=lambda other: self._accuracy(self._all[other]))
            return f"not told apart in accuracy from {self._all[best].architecture.label}, which is cheaper"
        return ""

    def _hold(self, place: int) -> str:
        me = self._all[place]
        held = "holds its place" if me.trial is not None else "on the front of all"
        cheaper = [rival for other in self._rivals(place) if self._cheaper(rival := self._all[other], me)]
        if not cheaper:
            return f"{held}: nothing is cheaper"
        if all(self._accuracy(other) < self._accuracy(me) for other in cheaper):
            return f"{held}: more accurate than all that is cheaper"
        return f"{held} by another objective than accuracy"

    def _rivals(self, place: int) -> list[int]:
        """Who might be taken instead."""
        fit = (other for other, each in enumerate(self._all) if each.architecture.id not in self._unfit)
        return [other for other in fit if other != place]

    def _beats(self, one: int, other: int) -> bool:
        found = self._between(one, other)
        if found is None or not found.is_real or found.interval.mean < 0:
            return False
        here, there = self._all[one], self._all[other]
        also = all(
            _sign(direction) * here.summary[name].mean <= _sign(direction) * there.summary[name].mean
            for name, direction in self._terms.judged.items()
        )
        return also and self._no_dearer(here, there)

    def _between(self, one: int, other: int) -> Difference | None:
        """The first less the second; None where they have too few seeds in common."""
        found = self._tested.get((min(one, other), max(one, other)))
        if found is None or one < other:
            return found
        there = found.interval
        return replace(found, interval=replace(there, mean=-there.mean, low=-there.high, high=-there.low))

    def _prices(self, one: Contender) -> tuple[float, ...]:
        """NaN, which is below nothing, where a cost could not be measured."""
        costs = self._terms.costs.items()
        return tuple(_sign(direction) * one.costs.get(name, math.nan) for name, direction in costs)

    def _no_dearer(self, one: Contender, other: Contender) -> bool:
        return all(a <= b for a, b in zip(self._prices(one), self._prices(other), strict=True))

    def _cheaper(self, one: Contender, other: Contender) -> bool:
        return self._no_dearer(one, other) and self._prices(one) != self._prices(other)

    @staticmethod
    def _accuracy(one: Contender) -> float:
        return one.summary[TESTED].mean

    def gain(self) -> str:
        """What the search has won over the most accurate unmodified backbone that meets the constraints."""
        plain = [each for each in self._all if each.unmodified and each.architecture.id not in self._unfit]
        if not plain:
            return "No unmodified backbone of the space meets the constraints: there is none to compare with."
        best = max(plain, key=self._accuracy)
        base = f"{best.architecture.label} as timm has it, the most accurate unmodified backbone ({_told(best)})"
        fit = [each for each in self._all if not each.unmodified and each.architecture.id not in self._unfit]
        found = [each for each in fit if self._no_dearer(each, best)]
        if not found:
            return f"The front has no changed network that costs no more than {base}."
        won = max(found, key=self._accuracy)
        apart = self._between(self._all.index(won), self._all.index(best))
        more = apart.interval.mean if apart else self._accuracy(won) - self._accuracy(best)
        sure = f" (95% of this pair: {apart.interval.low:+.4f} to {apart.interval.high:+.4f})" if apart else ""
        shares = [f"{won.costs[n] / best.costs[n]:.0%} of its {n}" for n in self._terms.costs if best.costs[n]]
        said = f"At no more cost than {base}, the search has {won.architecture.label} ({_told(won)})"
        return f"{said}: {more:+.4f} accuracy{sure}, with {' and '.join(shares) or 'no cost to compare'}."


def _told(one: Contender) -> str:
    found = one.summary[TESTED]
    return f"{found.mean:.4f} ±{found.half_width:.4f}" if len(one.retrainings) > 1 else f"{found.mean:.4f}"


def _sign(direction: Direction) -> float:
    return -1.0 if direction == "maximize" else 1.0
