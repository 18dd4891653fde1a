"""Gain: by how much an outcome would enlarge the front's hypervolume, and what to expect of that in a second.

Costs are exact: only what is learnt by training is uncertain. All objectives are to be minimised.

m candidates, d objectives, s samples of the outcome, b boxes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self, final

import numpy as np
from numpy.typing import NDArray
from optuna._hypervolume.box_decomposition import get_non_dominated_box_bounds
from scipy.stats import norm, qmc

from search.pareto import Floats, non_dominated
from search.samplers.ehvi.surrogate import Moments

LOOKS, OUTCOMES = 12, 12  # samples of what the next measurement says, and of what is uncertain after it
CHUNK = 2_000_000  # numbers at a time


@final
@dataclass(frozen=True, kw_only=True)
class Boxes:
    """What no member of the front dominates, up to the reference point, cut into boxes (arXiv:2006.05078).

    Attributes:
        low, high: corners (b, d).
    """

    low: Floats
    high: Floats

    @classmethod
    def beyond(cls, front: Floats, reference: Floats) -> Self:
        """
        Args:
            front: (n, d), any points.
        """
        front = front[(front < reference).all(axis=1)]
        if len(reference) == 1:
            return cls(low=np.array([[-np.inf]]), high=np.vstack([front, reference]).min(axis=0)[None])
        if not len(front):
            return cls(low=np.full((1, len(reference)), -np.inf), high=reference[None])
        front = np.unique(front[non_dominated(front)], axis=0)
        low, high = get_non_dominated_box_bounds(front, reference)
        return cls(low=low, high=high)

    def gain(self, exact: Floats, known: NDArray[np.bool_], outcomes: Floats) -> Floats:
        """(m, s) hypervolume that each outcome adds.

        Args:
            exact: (m, known objectives).
            known: (d,) which objectives those are.
            outcomes: (m, s, the others).
        """
        found = np.empty(outcomes.shape[:2])
        step = max(1, CHUNK // max(1, outcomes.shape[1] * len(self.low)))
        for start in range(0, len(exact), step):
            part = slice(start, start + step)
            sides = self.high[:, known] - np.maximum(exact[part, None], self.low[:, known])
            sides = np.maximum(sides, 0.0).prod(axis=2)
            some = sides.any(axis=0)  # boxes that any candidate reaches at all
            low, high = self.low[some][:, ~known], self.high[some][:, ~known]
            inside = high - np.maximum(outcomes[part, :, None], low)
            found[part] = np.einsum("msb,mb->ms", np.maximum(inside, 0.0).prod(axis=3), sides[:, some])
        return found


def spread_samples(count: int, dimensions: int) -> Floats:
    """(count, dimensions) of the standard normal distribution, evenly spread: quantiles, or a Halton sequence."""
    if dimensions == 1:
        return np.asarray(norm.ppf((np.arange(count) + 0.5) / count))[:, None]
    drawn = qmc.Halton(dimensions, scramble=True, seed=0).random(count)
    return np.asarray(norm.ppf(np.clip(drawn, 1e-3, 1 - 1e-3)))


Gain = Callable[[Floats, NDArray[np.int64]], Floats]
"""Outcomes (m', s, uncertain objectives), warped, of the candidates with these indices (m') -> gains (m', s)."""


def expected_gain(gain: Gain, beliefs: list[Moments], which: NDArray[np.int64]) -> Floats:
    """(m',) expected gain of full training."""
    drawn = spread_samples(OUTCOMES, len(beliefs))
    means = np.stack([belief.mean[which] for belief in beliefs], axis=1)
    spread = np.stack([belief.deviation[which] for belief in beliefs], axis=1)
    return np.asarray(gain(means[:, None] + spread[:, None] * drawn, which).mean(axis=1))


def reservation_rates(
    gain: Gain, beliefs: list[Moments], which: NDArray[np.int64], step_s: Floats, rest_s: Floats
) -> Floats:
    """(m',) the gain in a second at which it makes no difference whether a candidate is trained on.

    It costs `step_s` to the next measurement; only where that promises a better rate than others do is `rest_s` spent
    too. This is the reservation value of Pandora's boxes (Weitzman 1979, doi:10.2307/1910412) for rates: with the
    outlooks E_1 >= E_2 >= ... after the measurement, each as likely, the largest over j of
    mean(E_1 ... E_j) j / s / (step + rest j / s). Where nothing is left to spend it is the expected gain in a second.

    Args:
        step_s, rest_s: (m',), seconds.
    """
    looks, outcomes = spread_samples(LOOKS, len(beliefs)), spread_samples(OUTCOMES, len(beliefs))
    mean, told, left = (
        np.stack([np.asarray(part)[which] for part in parts], axis=1)
        for parts in zip(*((b.mean, b.told, b.left) for b in beliefs), strict=True)
    )
    centres = mean[:, None, None] + told[:, None, None] * looks[None, :, None]
    drawn = centres + left[:, None, None] * outcomes[None, None]
    outlook = gain(drawn.reshape(len(which), -1, len(beliefs)), which).reshape(len(which), LOOKS, OUTCOMES).mean(axis=2)
    best_first = -np.sort(-outlook, axis=1)
    shares = np.arange(1, LOOKS + 1) / LOOKS
    rates = np.cumsum(best_first, axis=1) / LOOKS / (step_s[:, None] + rest_s[:, None] * shares)
    return np.asarray(rates.max(axis=1))
