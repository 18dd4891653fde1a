"""Pareto laws on plain arrays: dominance, fronts, ranks, spread, knee, hypervolume. numpy only; knows no trials.

Everything is minimised inside; `Objectives.minimised` is the one place where a sign flips. NaN and inf are
never values: every function refuses them.

Shapes: n points, d objectives.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Direction = Literal["maximize", "minimize"]


@dataclass(frozen=True, kw_only=True)
class Objectives:
    """What is optimised, in a fixed order.

    Attributes:
        directions: by name of the objective.
    """

    directions: Mapping[str, Direction]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.directions)

    def minimised(self, values: Iterable[Mapping[str, float]]) -> Floats:
        """Values in their own directions, by objective -> (n, d), all to be minimised.

        Raises:
            ValueError: an objective is missing, NaN or infinite.
        """
        rows = []
        for row in values:
            for name in self.directions:
                if name not in row:
                    raise ValueError(f"no value for objective {name!r}; there are {sorted(row)}")
            rows.append([row[name] for name in self.directions])
        signs = [-1.0 if direction == "maximize" else 1.0 for direction in self.directions.values()]
        return _checked(np.asarray(rows, dtype=np.float64).reshape(len(rows), len(signs)) * np.asarray(signs))


def non_dominated(points: ArrayLike) -> NDArray[np.bool_]:
    """(n, d) -> (n,): True where no other point is at least as good in everything and better in something.

    Equal points do not dominate each other.
    """
    return np.equal(ranks(points, deepest=0), 0)


def ranks(points: ArrayLike, *, deepest: int | None = None) -> NDArray[np.int64]:
    """(n, d) -> (n,): 0 on the front, 1 on the front of the rest, and so on.

    Args:
        deepest: fronts beyond this rank are not told apart; their points all get `deepest + 1`.
    """
    unique, inverse = np.unique(_checked(points), axis=0, return_inverse=True)
    limit = len(unique) if deepest is None else deepest
    if unique.shape[1] == 1:
        found = np.minimum(np.arange(len(unique)), limit + 1)
    else:
        found = _ranks_2d(unique, limit) if unique.shape[1] == 2 else _ranks_nd(unique, limit)
    return found[inverse.reshape(-1)]


def _ranks_2d(unique: Floats, limit: int) -> NDArray[np.int64]:
    """Distinct points in lexicographic order, in n log n.

    A front dominates a point exactly where the front's lowest second objective so far is not above its own.
    """
    lowest: list[float] = []  # of each front; never falls with the rank
    found = np.empty(len(unique), dtype=np.int64)
    for index, second in enumerate(unique[:, 1].tolist()):
        rank = bisect_right(lowest, second)
        lowest[rank : rank + 1] = [second]
        found[index] = rank
    return np.minimum(found, limit + 1)


def _ranks_nd(unique: Floats, limit: int) -> NDArray[np.int64]:
    """Distinct points in lexicographic order; efficient non-dominated sort with binary search (ENS-BS)."""
    fronts: list[list[int]] = []
    found = np.empty(len(unique), dtype=np.int64)
    for index, point in enumerate(unique):
        low, high = 0, min(len(fronts), limit + 1)
        while low < high:
            middle = (low + high) // 2
            if (unique[fronts[middle]] <= point).all(axis=1).any():
                low = middle + 1
            else:
                high = middle
        found[index] = low
        if low <= limit:
            if low == len(fronts):
                fronts.append([])
            fronts[low].append(index)
    return found


def spread_order(points: ArrayLike, count: int | None = None) -> NDArray[np.int64]:
    """(n, d) -> the first `count` indices: the best first objective, then always the farthest from those taken.

    Every prefix covers the points evenly (an epsilon-net, arXiv:2106.12639 section 3). Distances are
    Euclidean, each objective scaled to the points' own range; ties go to the lower index.
    """
    array = _checked(points)
    if len(array) == 0:
        return np.empty(0, dtype=np.int64)
    scaled = _to_own_range(array)
    order = [int(np.argmin(scaled[:, 0]))]
    distance = np.full(len(array), np.inf)
    for _ in range(1, len(array) if count is None else min(count, len(array))):
        distance = np.minimum(distance, np.linalg.norm(scaled - scaled[order[-1]], axis=1))
        distance[order[-1]] = -1.0
        order.append(int(np.argmax(distance)))
    return np.asarray(order, dtype=np.int64)


def knee(points: ArrayLike) -> int:
    """Index of the point of a front (n, d), n > 0, that gives most for least: where the front bends most.

    It is farthest, towards the ideal point, from the hyperplane through the best point in each objective, with each
    objective scaled to the front's own range (Das 1999, doi:10.1007/BF01195985). Where those points span no
    hyperplane, as in a front of one point, it is that through the unit points. Ties go to the lower index.
    """
    array = _checked(points)
    scaled = _to_own_range(array)
    extremes = scaled[np.argmin(scaled, axis=0)]
    ones = np.ones(len(extremes))
    spanned = np.linalg.matrix_rank(extremes) == len(extremes)
    normal = np.linalg.solve(extremes, ones) if spanned else ones  # of the hyperplane: normal @ x = 1
    return int(np.argmax(np.round(1.0 - scaled @ normal, 12)))  # rounded, so that equal distances are equal


def _to_own_range(points: Floats) -> Floats:
    """Each objective from 0 to 1; 0 where all have the same."""
    low, high = points.min(axis=0), points.max(axis=0)
    scaled: Floats = (points - low) / np.where(high > low, high - low, 1.0)
    return scaled


def hypervolume(points: ArrayLike, reference: ArrayLike) -> float:
    """Volume that the points (n, d) dominate up to the reference (d,), exact.

    A point that is not better than the reference in every objective adds nothing.
    """
    bound = _checked(np.atleast_2d(np.asarray(reference, dtype=np.float64)))[0]
    array = _checked(np.asarray(points, dtype=np.float64).reshape(-1, len(bound)))
    return _volume(array[(array < bound).all(axis=1)], bound)


def _volume(points: Floats, bound: Floats) -> float:
    """Slices along the last objective; each is its thickness times the volume of what lies below it."""
    if len(points) == 0:
        return 0.0
    if len(bound) == 1:
        return float(bound[0] - points.min())
    if len(bound) == 2:
        return _area(points, bound)
    points = points[np.argsort(points[:, -1], kind="stable")]
    edges = np.append(points[:, -1], bound[-1])
    thickness = np.diff(edges)
    return float(
        sum(thick * _volume(points[: index + 1, :-1], bound[:-1]) for index, thick in enumerate(thickness) if thick > 0)
    )


def _area(points: Floats, bound: Floats) -> float:
    points = points[np.lexsort((points[:, 1], points[:, 0]))]
    lowest = np.minimum.accumulate(points[:, 1])
    widths = np.diff(np.append(points[:, 0], bound[0]))
    return float(np.sum(widths * (bound[1] - lowest)))


def _checked(points: ArrayLike) -> Floats:
    array = np.asarray(points, dtype=np.float64)
    if array.ndim != 2:
        raise ValueError(f"points are an array of shape (n, d), not {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError("NaN and infinity are not values of an objective")
    return array
