"""Feasibility: which share of a space its constraints leave, found within seconds, before anything is trained.

Small spaces are looked at whole, large ones by chance; where chance finds nothing, what misses by least is changed
one decision at a time. Knows spaces and the costs that are known without a clock, nothing of trials.
"""

import math
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any, Self, final

from search.gate import Checked, Limit, limits
from search.planning.walks import Walk, neighbours, walk
from spaces import Architecture, SearchSpace
from spaces.schema import Bound

WHOLE = 2_000  # architectures up to which a space is listed: some seconds where 200 a second are counted
MOST = 20_000  # draws: the share is then known to 0.7% (1.96 * 0.5 / sqrt(20,000)), in some 20 MB
CHANCE = 0.5  # of the time after which looking by chance that has found nothing gives way to a directed search
RESTARTS = 20  # of the directed search, from anywhere, once it ends without success from the closest of each backbone
RARE = 0.05  # a share below which more than twenty proposals are made for each that can be trained
KEPT = 8  # feasible architectures that are shown, or that a search begins with
UNCOUNTED = "what cannot be built or counted"


@dataclass(frozen=True, kw_only=True)
class Looked:
    """One architecture that was looked at.

    Attributes:
        reason: why it must not be trained; empty where it may be.
        missed: the limits that it is beyond.
        excess: by how much, in shares of each limit, summed; infinite where it has no costs.
    """

    walk: Walk
    costs: Mapping[str, float]
    reason: str
    missed: tuple[Limit, ...]
    excess: float

    @classmethod
    def of(cls, walk: Walk, checked: Checked, constraints: Mapping[str, Bound]) -> Self:
        known = [limit for limit in limits(constraints) if limit.name in checked.costs]
        missed = tuple(limit for limit in known if limit.excess(checked.costs) > 0)
        excess = sum(limit.excess(checked.costs) for limit in missed) if checked.costs else math.inf
        return cls(walk=walk, costs=checked.costs, reason=checked.reason, missed=missed, excess=excess)

    @property
    def feasible(self) -> bool:
        return not self.reason

    @property
    def backbone(self) -> str:
        """As the space calls it; empty in a space of plain choices."""
        return str(self.walk.answers.get("backbone", self.walk.architecture.backbone or ""))


@dataclass(frozen=True, kw_only=True)
class Binding:
    """How often something stands in the way.

    Attributes:
        limit: in words, as `params max 3e+06`, or UNCOUNTED.
        violated: of those looked at, how many it stops.
        alone: how many of these nothing else stops.
    """

    limit: str
    violated: int
    alone: int


@dataclass(frozen=True, kw_only=True)
class Feasibility:
    """What is known of a space under its constraints.

    Attributes:
        seen: what was looked at by chance, some of it perhaps twice; each architecture once where `whole`.
        whole: whether those are all there are.
        bindings: of each limit, and of what has no costs; the one that is most often alone comes first.
        found: feasible ones, up to KEPT; one from the directed search where chance finds none.
        closest: what misses by least, where nothing is found and anything has costs.
        seconds: spent.
    """

    seen: tuple[Looked, ...] = field(repr=False)
    whole: bool
    bindings: tuple[Binding, ...]
    found: tuple[Looked, ...]
    closest: Looked | None
    seconds: float

    @property
    def looked(self) -> int:
        return len(self.seen)

    @cached_property
    def feasible(self) -> int:
        """How many of those seen meet every constraint."""
        return sum(each.feasible for each in self.seen)

    @property
    def share(self) -> float:
        """In [0, 1]: of the space where `whole`, else an estimate for random proposals."""
        return self.feasible / self.looked

    @property
    def interval(self) -> tuple[float, float]:
        """Of the share, 95%, by Wilson's score (1927), which holds for none and all too; a point where `whole`."""
        if self.whole:
            return self.share, self.share
        z, n, p = 1.96, self.looked, self.share  # the normal distribution's quantile at 0.975
        middle, reach = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return max(0.0, (middle - reach) / (1 + z * z / n)), min(1.0, (middle + reach) / (1 + z * z / n))

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "looked": self.looked,
            "whole": self.whole,
            "feasible": self.feasible,
            "share": self.share,
            "interval": list(self.interval),
            "limits": [asdict(binding) for binding in self.bindings],
            "found": [_plain(each) for each in self.found],
            "closest": _plain(self.closest) if self.closest else None,
            "seconds": self.seconds,
        }

    @property
    def refusal(self) -> str:
        """Why nothing of the space can be trained, and what comes closest; empty where something can."""
        if self.found:
            return ""
        if self.whole:
            said = f"no architecture of the space meets the constraints ({self.looked:,} looked at, all there are)"
        else:
            said = (
                f"no architecture that meets the constraints was found ({self.looked:,} looked at by chance,"
                " then the closest changed one decision at a time)"
            )
        if self.closest is None:
            return f"{said}: none of them can be built and counted"
        beyond = " and ".join(
            f"{limit.name} {self.closest.costs[limit.name]:.6g}, {limit.side} is {limit.value:.6g}"
            for limit in self.closest.missed
        )
        label = self.closest.walk.architecture.label
        return f"{said}; closest is {label} with {beyond or self.closest.reason}; widen the constraints or the space"

    @property
    def note(self) -> str:
        """That feasible architectures are rare, in one sentence; empty where they are not, or where none is found."""
        if not self.found or self.share >= RARE:
            return ""
        most = "" if self.feasible else f" (at most {self.interval[1]:.1%} do; a directed search found one)"
        first = self.bindings[0]
        return (
            f"{self.feasible:,} of {self.looked:,} architectures looked at meet the constraints{most};"
            f" {first.limit} stops {first.violated:,}, {first.alone:,} of them alone"
        )


def _plain(looked: Looked) -> dict[str, Any]:
    architecture = looked.walk.architecture
    return {"label": architecture.label, "architecture": architecture.to_dict(), "costs": dict(looked.costs)}


def look(
    space: SearchSpace,
    check: Callable[[Architecture], Checked],
    *,
    seed: int,
    deadline_s: float,
    enough: float = math.inf,
) -> Feasibility:
    """Looks until all is seen, until `enough` feasible architectures are, or for about `deadline_s` seconds.

    Args:
        check: `Gate.count`; a constraint on a cost that it does not know is left out.
    """
    began, explorer = time.monotonic(), _Explorer(space, check, random.Random(seed))
    small = space.size <= WHOLE
    for drawn in explorer.all() if small else islice(explorer.draws(), MOST):
        explorer.count(drawn)
        spent = (time.monotonic() - began) / deadline_s
        finishing = small and len(explorer.seen) >= spent * space.size
        if len(explorer.feasible) >= enough or spent > (1.0 if explorer.feasible or finishing else CHANCE):
            break
    whole = small and len(explorer.seen) == space.size
    found, closest = tuple(explorer.feasible[:KEPT]), explorer.closest
    if not found and not whole:
        closest = explorer.descend(began + deadline_s)
        found = (closest,) if closest is not None and closest.feasible else ()
    return Feasibility(
        seen=tuple(explorer.seen),
        whole=whole,
        bindings=explorer.bindings(),
        found=found,
        closest=None if found else closest,
        seconds=time.monotonic() - began,
    )


@final
class _Explorer:
    """Looks at architectures of a space.

    Attributes:
        seen: those that count in the share, in their order.
        feasible: those of them that meet every constraint.
    """

    def __init__(self, space: SearchSpace, check: Callable[[Architecture], Checked], rng: random.Random):
        self._space, self._check, self._rng = space, check, rng
        self.seen: list[Looked] = []
        self.feasible: list[Looked] = []

    def all(self) -> Iterator[Walk]:
        """Every architecture, in random order."""
        ways = list(self._space.walks())
        self._rng.shuffle(ways)
        return (walk(self._space, answers, self._rng) for answers in ways)

    def draws(self) -> Iterator[Walk]:
        """By chance, without end."""
        while True:
            yield walk(self._space, {}, self._rng)

    def count(self, drawn: Walk) -> None:
        looked = self._see(drawn)
        self.seen.append(looked)
        if looked.feasible:
            self.feasible.append(looked)

    def _see(self, drawn: Walk) -> Looked:
        return Looked.of(drawn, self._check(drawn.architecture), self._space.file.constraints)

    @property
    def closest(self) -> Looked | None:
        """What misses by least, of those that have costs."""
        return min((each for each in self.seen if each.costs), key=lambda each: each.excess, default=None)

    def descend(self, until: float) -> Looked | None:
        """A feasible architecture, or what misses by least: from the closest of each backbone, then from anywhere."""
        by_excess = sorted((each for each in self.seen if each.costs), key=lambda each: each.excess)
        first = {each.walk.architecture.backbone: each for each in reversed(by_excess)}
        restarts = (self._see(drawn) for drawn in islice(self.draws(), RESTARTS))
        best: Looked | None = None
        for start in (*sorted(first.values(), key=lambda each: each.excess), *restarts):
            reached = self._descend(start, until)
            if best is None or reached.excess < best.excess:
                best = reached
            if best.feasible or time.monotonic() > until:
                break
        return best

    def _descend(self, looked: Looked, until: float) -> Looked:
        """Takes one decision otherwise, whichever comes first and brings it closer, for as long as one does."""
        better: Looked | None = looked
        while better is not None and not better.feasible and time.monotonic() < until:
            looked, better = better, None
            for aside in neighbours(self._space, looked.walk, self._rng):
                tried = self._see(aside)
                if tried.feasible or tried.excess < looked.excess:
                    better = tried
                    break
                if time.monotonic() > until:
                    break
        return better or looked

    def bindings(self) -> tuple[Binding, ...]:
        stopped = [
            [f"{limit.name} {limit.side} {limit.value:.6g}" for limit in each.missed] if each.costs else [UNCOUNTED]
            for each in self.seen
            if not each.feasible
        ]
        names = [f"{limit.name} {limit.side} {limit.value:.6g}" for limit in limits(self._space.file.constraints)]
        found = (
            Binding(limit=name, violated=sum(name in each for each in stopped), alone=stopped.count([name]))
            for name in (*names, UNCOUNTED)
        )
        return tuple(sorted(found, key=lambda each: (-each.alone, -each.violated)))
