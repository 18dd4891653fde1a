"""How long each size of a network becomes when the channels of a stage are multiplied, rounded as they must be.

Knows anatomy and dimensions, nothing of choices or tensors.
"""

import math
from dataclasses import dataclass
from functools import cache, lru_cache

from timm.layers import make_divisible

from spaces.anatomy import Anatomy
from spaces.anatomy.dims import SUM, Dim, SizeOf


@dataclass(frozen=True, kw_only=True)
class Scale:
    """What the channels of a stage are multiplied with, and what the result is rounded to."""

    multiplier: float
    multiple: int


def sizes(anatomy: Anatomy, scales: tuple[Scale, ...]) -> SizeOf:
    """The size of each leaf; it comes with a constant factor, and the whole is rounded."""

    def size_of(leaf: Dim) -> int:
        stage = stages_of(anatomy).get(leaf)
        return leaf.size if stage is None else scaled(anatomy, leaf, scales[stage])

    return cache(size_of)


def scaled(anatomy: Anatomy, leaf: Dim, scale: Scale) -> int:
    """The size of a leaf of a stage with this scale; a multiplier of 1 leaves it as it is."""
    return leaf.size if scale.multiplier == 1 else rounded(anatomy, leaf, scale)


def rounded(anatomy: Anatomy, leaf: Dim, scale: Scale) -> int:
    """As `make_divisible` of MobileNet, also where the multiplier is 1; it never falls when the multiplier rises."""
    if leaf not in stages_of(anatomy):
        return leaf.size
    factor = factors_of(anatomy)[leaf]
    head = leaf not in anatomy.channels and factor == 1
    if head and scale.multiplier <= 1:
        return leaf.size
    follows = leaf.near or _twins(anatomy).get(leaf)
    if follows is not None:
        return follows.evaluate(lambda part: rounded(anatomy, part, scale)) // (1 if leaf.near else factor)
    whole: int = make_divisible(leaf.size * factor * scale.multiplier, _units(anatomy, scale.multiple)[leaf])
    return max(whole // factor, leaf.size if head else 1)


@lru_cache(maxsize=4096)
def divisors(number: int) -> tuple[int, ...]:
    return tuple(n for n in range(1, number + 1) if number % n == 0)


@lru_cache(maxsize=1024)
def stages_of(anatomy: Anatomy) -> dict[Dim, int]:
    """The stage whose width each leaf follows; what layers of the head put out follows the last."""
    found = dict(anatomy.channels)
    for name, dims in anatomy.dims.items():
        if len(dims) >= 2 and anatomy.owner(name.rpartition(".")[0]) is None:
            for leaf in dims[0].leaves():
                if not leaf.fixed:
                    found.setdefault(leaf, max(1, len(anatomy.stages)) - 1)
    return found


@lru_cache(maxsize=1024)
def factors_of(anatomy: Anatomy) -> dict[Dim, int]:
    """How often each leaf is repeated in memory: head_dim as often as there are heads (of q, k and v once)."""
    stages, tables = stages_of(anatomy), dict(anatomy.model.named_buffers())
    found: dict[Dim, set[int]] = {leaf: set() for leaf in stages}
    for dim in (dim.find() for name, dims in anatomy.dims.items() if name not in tables for dim in dims):
        leaves = {leaf for leaf in dim.leaves() if leaf in stages}
        if len(leaves) == 1 and dim.evaluate(lambda leaf: leaf.size * (1 + (leaf in stages))) == 2 * dim.size:
            leaf = leaves.pop()
            found[leaf].add(dim.size // leaf.size)
    plain = {(stages[leaf], leaf.size) for leaf, factors in found.items() if 1 in factors}
    result = {}
    for leaf, factors in found.items():
        whole = [n for n in sorted(factors) if (stages[leaf], leaf.size * n) in plain]  # as long as an embedding
        result[leaf] = 1 if 1 in factors else next(iter([*whole, *sorted(factors), anatomy.factors.get(leaf, 1)]))
    return result


@lru_cache(maxsize=1024)
def _units(anatomy: Anatomy, multiple: int) -> dict[Dim, int]:
    """What the whole of each leaf is rounded to; equal ones of a stage alike, as embedding and heads x head_dim."""
    units: dict[tuple[int, int], int] = {}
    factors = factors_of(anatomy)
    keys = {leaf: (stage, leaf.size * factors[leaf]) for leaf, stage in stages_of(anatomy).items()}
    for leaf, key in keys.items():
        units[key] = math.lcm(units.get(key, multiple), factors[leaf])
    return {leaf: units[key] for leaf, key in keys.items()}


@lru_cache(maxsize=1024)
def _twins(anatomy: Anatomy) -> dict[Dim, Dim]:
    """For head_dim the concatenation of the same stage that is as long as heads x head_dim, which must stay so."""
    stages, factors = stages_of(anatomy), factors_of(anatomy)
    nodes = {dim.find() for dims in anatomy.dims.values() for dim in dims}
    sums = {(stages.get(next(node.leaves())), node.size): node for node in nodes if node.kind == SUM}
    heads = {leaf: (stage, leaf.size * factors[leaf]) for leaf, stage in stages.items() if factors[leaf] > 1}
    return {leaf: sums[key] for leaf, key in heads.items() if key in sums and leaf not in sums[key].leaves()}
