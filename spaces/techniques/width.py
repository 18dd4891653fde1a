"""width: a multiplier of all channels of stem and stages, for the network or per stage.

Sizes are rounded to multiples of 8 (and of the number of heads) as MobileNet does, never below 90% of the exact
size; the number of heads of a transformer and the group width of a grouped convolution stay; the head keeps
its size, as in MobileNetV2 (1801.04381, section 6) for multipliers below one.
"""

import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import ClassVar

from timm.layers import make_divisible
from torch import nn

from spaces.anatomy import Anatomy
from spaces.dims import Dim
from spaces.resize import resize
from spaces.techniques.base import Choice, NotApplicable, PerStage, Technique

MULTIPLE = 8  # channels, as in MobileNet's reference implementation
LARGEST = 8.0  # a bound against slips such as a channel count in place of a multiplier
# Equal networks get the multiplier with the first of these denominators that gives them.
_DENOMINATORS = (1, 2, 4, 5, 8, 10, 16, 20, 32, 50, 64, 100, 128, 200, 500, 1000, 10_000)


class Width(Technique):
    name: ClassVar[str] = "width"
    default: ClassVar[Choice] = 1.0
    choices: ClassVar[Mapping[str, str]] = {"0.5": "a multiplier of the channels, above 0 and up to 8"}
    paper: ClassVar[str] = "1704.04861 (MobileNet)"

    def check(self, choice: object) -> Choice:
        number = isinstance(choice, int | float) and not isinstance(choice, bool)
        if not number or not 0 < choice <= LARGEST:  # type: ignore[operator]
            raise ValueError(f"{choice!r} is no width; give a multiplier above 0 and up to {LARGEST:g}, as 0.5")
        return float(choice)  # type: ignore[arg-type]

    def canonical(self, choices: PerStage, anatomy: Anatomy) -> PerStage:
        for branch in anatomy.branches:
            name, axis = branch.width or ("", 0)
            if not name or not any(leaf in anatomy.channels for leaf in anatomy.dims[name][axis].leaves()):
                reasons = "; ".join(anatomy.notes[:2]) or "they are fixed"
                raise NotApplicable(f"the channels that {branch.module} adds cannot be followed: {reasons}")
        if not anatomy.channels:
            raise NotApplicable("it has no channels that could change")
        return tuple(_simplest(anatomy, stage, float(choice)) for stage, choice in enumerate(choices))  # type: ignore[arg-type]

    def rewrite(self, model: nn.Module, choices: PerStage, anatomy: Anatomy) -> None:
        resize(model, anatomy, sizes(anatomy, tuple(float(choice) for choice in choices)))  # type: ignore[arg-type]

    def label(self, choice: Choice) -> str:
        return f"w={choice}"


@lru_cache(maxsize=1024)
def _units(anatomy: Anatomy) -> dict[Dim, int]:
    """What the whole of each leaf is rounded to; equal ones of a stage alike, as embedding and heads x head_dim."""
    units: dict[tuple[int, int], int] = {}
    for leaf, stage in anatomy.channels.items():
        factor = anatomy.factors.get(leaf, 1)
        key = stage, leaf.size * factor
        units[key] = math.lcm(units.get(key, MULTIPLE), factor)
    return {leaf: units[stage, leaf.size * anatomy.factors.get(leaf, 1)] for leaf, stage in anatomy.channels.items()}


def scaled(anatomy: Anatomy, leaf: Dim, multiplier: float) -> int:
    """The size of a leaf at a width; it comes with a constant factor, and the whole is rounded."""
    if multiplier == 1:
        return leaf.size
    factor = anatomy.factors.get(leaf, 1)
    whole: int = make_divisible(leaf.size * factor * multiplier, _units(anatomy)[leaf])
    return whole // factor


def sizes(anatomy: Anatomy, multipliers: tuple[float, ...]) -> Callable[[Dim], int]:
    def size_of(leaf: Dim) -> int:
        stage = anatomy.channels.get(leaf)
        return leaf.size if stage is None else scaled(anatomy, leaf, multipliers[stage])

    return size_of


@lru_cache(maxsize=4096)
def _channels_at(anatomy: Anatomy, stage: int, multiplier: float) -> tuple[int, ...]:
    return tuple(scaled(anatomy, leaf, multiplier) for leaf, of in anatomy.channels.items() if of == stage)


def _simplest(anatomy: Anatomy, stage: int, multiplier: float) -> float:
    """The same stage by the multiplier with the smallest denominator; `1.0` where nothing changes."""
    wanted = _channels_at(anatomy, stage, multiplier)
    if wanted == _channels_at(anatomy, stage, 1.0):
        return 1.0
    for denominator in _DENOMINATORS:
        lowest = math.floor(multiplier * denominator)
        fits = [n for n in (lowest, lowest + 1) if n > 0 and _channels_at(anatomy, stage, n / denominator) == wanted]
        if fits:
            best = fits[0]
            while best > 1 and _channels_at(anatomy, stage, (best - 1) / denominator) == wanted:
                best -= 1
            return best / denominator
    return multiplier
