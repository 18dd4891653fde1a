"""What a few trainings with paired seeds can say: intervals, differences, and which of these are more than chance.

Seed by seed two contenders are trained with the same order of images and tested on the same images, so that what they
have in common falls out of their difference.

An interval covers the noise of training, on this test split. It does not cover which images came to be in the split
(an accuracy p on n images is off by sqrt(p (1 - p) / n) for that alone), nor images unlike these. Knows numbers only.

    k    seeds that both of a pair have
    d    [k], differences of a pair, seed by seed
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from search.confirmation.record import Interval

CONFIDENCE = 0.95
ALPHA = 1 - CONFIDENCE


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The first of a pair less the second.

    Attributes:
        interval: of this pair alone.
        p_equal: how likely so large a difference is where there is none (two-sided paired t-test), after Holm.
        p_apart: how likely so small a one is where it is the margin or more (TOST: two one-sided tests, Schuirmann
            1987), after Holm.
    """

    interval: Interval
    p_equal: float
    p_apart: float

    @property
    def is_real(self) -> bool:
        return self.p_equal < ALPHA

    @property
    def is_within(self) -> bool:
        return self.p_apart < ALPHA


def interval(values: Sequence[float], *, least: float = 0.0) -> Interval:
    """Student's t.

    Args:
        least: a deviation below which theirs is not believed.
    """
    mean, reach = float(np.mean(values)), 0.0
    if len(values) > 1:
        reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * _error(np.asarray(values), least)
    return Interval(mean=mean, low=mean - reach, high=mean + reach)


def differences(
    results: Sequence[Mapping[int, float]], *, margin: float, images: int
) -> dict[tuple[int, int], Difference]:
    """Of all pairs with two seeds or more in common, by their places (i, j), i < j; each kind of test is one family.

    Accuracies are counted in whole images: seeds that agree to the image do not show that there is no noise. A
    deviation below that of a difference of two rounded numbers, 1 / sqrt(6) of an image, is therefore not believed.

    Args:
        results: accuracies in [0, 1], by seed, of each contender.
        margin: of accuracy, above 0.
        images: that they were counted on.
    """
    least, pairs = 1 / (math.sqrt(6) * images), dict[tuple[int, int], NDArray[np.float64]]()
    for i, j in combinations(range(len(results)), 2):
        seeds = [seed for seed in results[i] if seed in results[j]]
        if len(seeds) > 1:
            pairs[i, j] = np.array([results[i][seed] - results[j][seed] for seed in seeds])
    equal = holm([_p_equal(d, least) for d in pairs.values()])
    apart = holm([_p_apart(d, least, margin) for d in pairs.values()])
    return {
        pair: Difference(interval=interval(d.tolist(), least=least), p_equal=float(p), p_apart=float(q))
        for (pair, d), p, q in zip(pairs.items(), equal, apart, strict=True)
    }


def holm(raw: ArrayLike) -> NDArray[np.float64]:
    """P values `[n]` of one family, so corrected that all may be held against the same level (Holm 1979).

    The smallest counts n times, the next n - 1 times and at least as much as that, and so on; none is above 1.
    """
    p = np.asarray(raw, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(stepped, 1.0)
    return corrected


def _error(values: NDArray[np.float64], least: float) -> float:
    """The standard error of the mean."""
    return max(float(values.std(ddof=1)), least) / math.sqrt(len(values))


def _p_equal(d: NDArray[np.float64], least: float) -> float:
    return 2 * float(stats.t.sf(abs(d.mean()) / _error(d, least), len(d) - 1))


def _p_apart(d: NDArray[np.float64], least: float, margin: float) -> float:
    """The less likely side is that from which the difference is further away, so the other one decides."""
    return float(stats.t.sf((margin - abs(d.mean())) / _error(d, least), len(d) - 1))
