"""Rules that say which layers are redundant, from their divergences; every one may be used in place of another.

A rule takes the divergences of all layers that were measured, in nats and from input to output, a threshold between
0 and 1, and a generator of random numbers, and gives whether each is to be skipped. Knows numbers, no networks.
"""

import math
from collections.abc import Mapping, Sequence
from random import Random
from typing import Protocol

from scipy.special import betainc

KAPPA = 0.05  # nats; logits correlated by 99% give 0.006, by 90% 0.05 to 0.08, independent ones 0.55 to 0.78
_EDGE = 1e-4  # divergences are mapped into this far from 0 and 1
_FLAT = 1e-12  # a variance below this says that all are equal


class Rule(Protocol):
    def __call__(self, divergences: Sequence[float], threshold: float, random: Random) -> list[bool]: ...


def quantiles(divergences: Sequence[float]) -> list[float]:
    """Where each divergence lies, from 0 to 1, in the Beta distribution that has their mean and variance.

    A divergence becomes x = 1 - exp(-KL) first. Where no Beta fits (all equal, or spread wider than any), the
    uniform one stands in for it.
    """
    xs = [min(max(1 - math.exp(-divergence), _EDGE), 1 - _EDGE) for divergence in divergences]
    mean = sum(xs) / len(xs)
    variance = sum((x - mean) ** 2 for x in xs) / len(xs)
    count = mean * (1 - mean) / variance - 1 if variance > _FLAT else 0.0
    alpha, beta = (mean * count, (1 - mean) * count) if count > 0 else (1.0, 1.0)
    return [float(betainc(alpha, beta, x)) for x in xs]


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
