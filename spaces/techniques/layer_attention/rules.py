"""Rules that say which layers are redundant, from their divergences; every one may be used in place of another.

A rule takes the divergences of all layers that were measured, in nats and from input to output, a threshold between
0 and 1, and a generator of random numbers, and gives whether each is to be skipped. Knows numbers, no networks.
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from random import Random
from typing import Protocol

import numpy as np
from scipy import stats
from scipy.stats import FitError

KAPPA = 0.05  # nats; logits correlated by 99% give 0.006, by 90% 0.05 to 0.08, independent ones 0.55 to 0.78
_EDGE = 1e-4  # divergences are mapped into this far from 0 and 1
_FLAT = 1e-12  # a variance below this says that all are equal


class Rule(Protocol):
    def __call__(self, divergences: Sequence[float], threshold: float, random: Random) -> list[bool]: ...


def quantiles(divergences: Sequence[float]) -> list[float]:
    """Where each divergence lies, from 0 to 1, in the Beta distribution fitted to all of them.

    A divergence becomes x = 1 - exp(-KL) first. The fit is that of the greatest likelihood: where some layers hardly
    differ and others do by whole nats, the Beta of the same mean and variance has half of its mass below the least of
    them. Where none can be fitted (all are equal), the uniform one stands in for it.
    """
    xs = np.clip(-np.expm1(-np.asarray(divergences, float)), _EDGE, 1 - _EDGE)
    alpha, beta = 1.0, 1.0
    if xs.var() > _FLAT:
        with suppress(FitError):
            alpha, beta, *_ = stats.beta.fit(xs, floc=0, fscale=1)
    levels: list[float] = stats.beta.cdf(xs, alpha, beta).tolist()
    return levels


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
