"""The rule of early stopping: who goes on beyond a rung. Points in, yes or no out; no state, no trials, no Ray.

Asynchronous successive halving (ASHA, arXiv:1810.05934) of the stopping kind: a trial is judged when it reaches
a rung, among all that reached it so far. Trials are ranked by the whole front (MO-ASHA, arXiv:2106.12639):
by non-dominated rank at equal fidelity, and within a front by a spread that keeps its ends and fills its gaps.
The first at a rung always goes on, so early ones are favoured; they also are the first that full training
teaches about.
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
        objectives: columns that are judged; none of them means that nobody is stopped.
    """

    reduction: int
    objectives: Sequence[int]

    def goes_on(self, seen: Floats, index: int) -> bool:
        """Whether the point `index` of those seen at its rung, (n, d) and to be minimised, is good enough."""
        if not self.objectives:
            return True
        return position(seen[:, list(self.objectives)], index) < ceil(len(seen) / self.reduction)


def position(points: Floats, index: int) -> int:
    """Place of one point, from 0, in the order of the front, then of the front of the rest, and so on."""
    rank = ranks(points)
    peers = np.flatnonzero(rank == rank[index])
    order = peers[spread_order(points[peers])]
    return int(np.count_nonzero(rank < rank[index]) + np.flatnonzero(order == index)[0])
