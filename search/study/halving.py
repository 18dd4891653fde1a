"""The rule of early stopping: who goes on beyond a rung. Points in, an order out; no state, no trials, no Ray.

Asynchronous successive halving (ASHA, arXiv:1810.05934) over the whole front (MO-ASHA, arXiv:2106.12639): by
non-dominated rank among those at equal fidelity, and within a front by a spread that keeps its ends and fills
its gaps. Rank alone would stop nobody where everything is a front; one objective alone would kill every cheap
network.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np

from search.pareto import Floats, ranks, spread_order


@dataclass(frozen=True, kw_only=True)
class Halving:
    """Keeps the best `1 / reduction` of what a rung has seen, rounded up.

    Attributes:
        reduction: one in so many goes on.
        objectives: columns that are judged.
    """

    reduction: int
    objectives: Sequence[int]

    def best(self, points: Floats) -> list[int]:
        """Indices of those that may go on, of all seen at a rung, the best first.

        Args:
            points: (n, d), to be minimised; equal ones in the order in which they came.
        """
        return first(points[:, list(self.objectives)], self.keeps(len(points)))

    def keeps(self, count: int) -> int:
        """How many of so many may go on."""
        return ceil(count / self.reduction)


def first(points: Floats, count: int) -> list[int]:
    """The first `count` indices in the order of the front, then of the front of the rest, and so on."""
    rank = ranks(points)
    order = np.argsort(rank, kind="stable")
    found: list[int] = []
    for peers in np.split(order, np.flatnonzero(np.diff(rank[order])) + 1):
        if len(found) >= count:
            break
        found += peers[spread_order(points[peers], count - len(found))].tolist()
    return found
