"""Rules that say which layers are redundant, from their divergences; every one may be used in place of another.

A rule takes the divergences of all layers that were measured, in nats and from input to output, a threshold between
0 and 1, and a generator of random numbers, and gives whether each is to be skipped. Knows numbers, no networks.
"""

import math
from collections.abc import Mapping, Sequence
from random import Random
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import betainc, betaincc, betaln

KAPPA = 0.05  # nats; logits correlated by 99% give 0.006, by 90% 0.05 to 0.08, independent ones 0.55 to 0.78
_LEAST, _MOST = 1e-6, 1 - 1e-4  # divergences are mapped to between these: what single precision tells, and 9 nats
_FLAT = 1e-12  # a variance below this says that all are equal
_BOUNDS = (-10.0, 20.0)  # of the logarithms of both parameters of a Beta distribution
_NEVER = 1e-300  # a probability, so that its logarithm is finite


class Rule(Protocol):
    def __call__(self, divergences: Sequence[float], threshold: float, random: Random) -> list[bool]: ...


def quantiles(divergences: Sequence[float]) -> list[float]:
    """Where each divergence lies, from 0 to 1, in the Beta distribution fitted to all of them.

    A divergence becomes x = 1 - exp(-KL) first. The fit is that of the greatest likelihood, in which divergences from
    `KAPPA` on count as no less than that: of how far they are above it, whole nats where others are thousandths, no
    Beta has room. Where all are equal, the uniform one stands in for it.
    """
    xs = np.clip(-np.expm1(-np.asarray(divergences, float)), _LEAST, _MOST)
    below = np.asarray(divergences) < KAPPA
    alpha, beta = 1.0, 1.0
    if below.any() and xs.var() > _FLAT:
        alpha, beta = _likeliest(xs[below], int((~below).sum()), -math.expm1(-KAPPA))
    levels: list[float] = betainc(alpha, beta, xs).tolist()
    return levels


def _likeliest(xs: NDArray[np.float64], above: int, bound: float) -> tuple[float, float]:
    """The parameters of the Beta distribution of these values and so many more above a bound."""
    ones, others = float(np.log(xs).sum()), float(np.log1p(-xs).sum())

    def loss(logs: NDArray[np.float64]) -> float:
        alpha, beta = np.exp(logs)
        left = math.log(max(float(betaincc(alpha, beta, bound)), _NEVER))
        return float(len(xs) * betaln(alpha, beta) - (alpha - 1) * ones - (beta - 1) * others) - above * left

    found = minimize(loss, np.zeros(2), method="Nelder-Mead", bounds=[_BOUNDS] * 2)
    alpha, beta = np.exp(found.x)
    return float(alpha), float(beta)


def beta_quantile(divergences: Sequence[float], threshold: float, random: Random) -> list[bool]:
    """Whose quantile is below the threshold, and whose divergence is below `KAPPA`.

    Reconstructed from the abstract of 2503.06473. Refitting the distribution makes the threshold alone a share of
    layers to skip, whatever their redundancy; `KAPPA` is what keeps layers that differ.
    """
    levels = quantiles(divergences)
    return [level < threshold and one < KAPPA for level, one in zip(levels, divergences, strict=True)]


def percentile(divergences: Sequence[float], threshold: float, random: Random) -> list[bool]:
    """The share `threshold` of the layers that diverge least, rounded to whole layers."""
    lowest = sorted(range(len(divergences)), key=lambda index: divergences[index])
    return _chosen(lowest, threshold)


def kl_threshold(divergences: Sequence[float], threshold: float, random: Random) -> list[bool]:
    """Whose divergence is below `threshold` nats."""
    return [one < threshold for one in divergences]


def at_random(divergences: Sequence[float], threshold: float, random: Random) -> list[bool]:
    """As many as `percentile` skips, whichever they are."""
    return _chosen(random.sample(range(len(divergences)), len(divergences)), threshold)


def none(divergences: Sequence[float], threshold: float, random: Random) -> list[bool]:
    """No layer: what there would be to skip is measured only."""
    return [False] * len(divergences)


RULES: Mapping[str, Rule] = {
    "beta_quantile": beta_quantile,
    "percentile": percentile,
    "kl_threshold": kl_threshold,
    "random": at_random,
    "none": none,
}


def _chosen(order: Sequence[int], share: float) -> list[bool]:
    first = set(order[: math.floor(share * len(order) + 0.5)])
    return [index in first for index in range(len(order))]
