"""group_size: channels per group of the spatial convolutions of a stage.

A number is rounded, in ratio, to the nearest size that divides the channels of a convolution; different
convolutions of a stage may so get different sizes. `depthwise` puts a depthwise and a pointwise convolution in
the place of one, with nothing between (1610.02357, section 3). Convolutions with a kernel of one never change.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any, ClassVar

from torch import nn

from spaces.anatomy import Anatomy
from spaces.anatomy.dims import Dim
from spaces.backbone import LARGEST_NUMBER
from spaces.errors import shown
from spaces.resizing.sizing import Scale, divisors, sizes, stages_of
from spaces.techniques.base import Choice, Knob, NotApplicable, PerStage, Scalar, Technique, kind_of
from spaces.techniques.grouping import regroup, separate, shuffles
from spaces.techniques.width import chosen_scales
from spaces.techniques.wrapping import append

COLOURS = 3  # channels of the image with which an anatomy is read; a layer of a network has more


@dataclass(frozen=True, kw_only=True)
class Convolution:
    """Channels that go into and come out of a convolution, and how many of the former make a group."""

    inputs: int
    outputs: int
    size: int

    def nearest(self, size: int) -> int:
        """The size that divides its channels and is nearest in ratio; the smaller of two."""
        return min(_sizes(self.inputs, self.outputs), key=lambda n: (max(n / size, size / n), n))


class GroupSize(Technique):
    name: ClassVar[str] = "group_size"
    default: ClassVar[Choice] = "keep"
    choices: ClassVar[Mapping[str, str]] = {
        "keep": "the groups of the backbone",
        "8": "so many channels a group, any whole number from 1",
        "depthwise": "a depthwise and a pointwise convolution in place of each",
    }
    knobs: ClassVar[Mapping[str, Knob]] = {
        "shuffle": Knob(
            kinds=("8",),
            default=False,
            allowed=(False, True),
            meaning="mix the channels of the groups after each grouped convolution (1707.01083)",
        )
    }
    after: ClassVar[tuple[str, ...]] = ("width",)
    paper: ClassVar[str] = "1611.05431 (ResNeXt), 1704.04861 (depthwise), 1707.01083 (shuffle)"

    def kind(self, given: object) -> Scalar:
        if given in ("keep", "depthwise"):
            return str(given)
        number = isinstance(given, int | float) and not isinstance(given, bool)
        if not number or not 1 <= given <= LARGEST_NUMBER or given != int(given):  # type: ignore[operator, call-overload]
            raise ValueError(f"{shown(given)} is no group size; give keep, depthwise or a whole number from 1, as 8")
        return int(given)  # type: ignore[call-overload, no-any-return]

    def takes(self, kind: Scalar, knob: str) -> bool:
        return knob in self.knobs and isinstance(kind, int)

    def offers(self, anatomy: Anatomy) -> tuple[Choice, ...]:
        """With the sizes of ResNeXt-50 32x4d, RegNetX-200MF and RegNetY-800MF."""
        return ("keep", 4, 8, 16, "depthwise")

    def sees(self, anatomy: Anatomy, stage: int) -> Collection[int]:
        axes = [axis for path in _paths(anatomy, stage) for axis in _axes(anatomy, path)] if anatomy.stages else []
        return {stages_of(anatomy)[leaf] for axis in axes for leaf in axis.leaves() if leaf in stages_of(anatomy)}

    def canonical(self, choices: PerStage, anatomy: Anatomy, before: Mapping[str, PerStage]) -> PerStage:
        changed = any(choice != "keep" for choice in choices)
        if changed and not any(_paths(anatomy, stage) for stage in range(len(anatomy.stages))):
            raise NotApplicable("it has no spatial convolutions in its blocks")
        scales = chosen_scales(anatomy, before) if changed else ()
        return tuple(
            choice if choice == "keep" else self._effect(choice, _convolutions(anatomy, stage, scales))
            for stage, choice in enumerate(choices)
        )

    def _effect(self, choice: Choice, convs: Sequence[Convolution]) -> Choice:
        """The same stage in one way of many: the size that its convolutions really get."""
        kind = kind_of(choice)
        if not isinstance(kind, int):
            return "keep" if all(conv.size == 1 for conv in convs) else choice
        wanted = [conv.nearest(kind) for conv in convs]
        groups = [conv.inputs // size for conv, size in zip(convs, wanted, strict=True)]
        mixed = self.value(choice, "shuffle") and any(map(shuffles, groups, (conv.outputs for conv in convs)))
        if not mixed and wanted == [conv.size for conv in convs]:
            return "keep"
        numbers = chain(sorted(set(wanted)), range(1, kind + 1))
        number = next(n for n in numbers if [conv.nearest(n) for conv in convs] == wanted)
        return {"kind": number, "shuffle": True} if mixed else number

    def rewrite(self, model: nn.Module, choices: PerStage, anatomy: Anatomy, *, trained: bool) -> None:
        for stage, choice in enumerate(choices):
            for path in _paths(anatomy, stage) if choice != "keep" else ():
                self._rewrite_one(model, path, choice, trained)

    def _rewrite_one(self, model: nn.Module, path: str, choice: Choice, trained: bool) -> None:
        conv: Any = model.get_submodule(path)
        kind = kind_of(choice)
        if not isinstance(kind, int):
            if conv.groups < conv.in_channels:
                append(model, path, separate(conv, trained=trained))
            return
        here = Convolution(inputs=conv.in_channels, outputs=conv.out_channels, size=conv.in_channels // conv.groups)
        groups = here.inputs // here.nearest(kind)
        mixed = bool(self.value(choice, "shuffle")) and shuffles(groups, here.outputs)
        if groups != conv.groups or mixed:
            regroup(conv, groups, mixed=mixed, trained=trained)
        if mixed:
            append(model, path, nn.ChannelShuffle(groups))


@lru_cache(maxsize=4096)
def _paths(anatomy: Anatomy, stage: int) -> tuple[str, ...]:
    """Those that can be cut into groups: in the image's own colours there are none."""
    paths = anatomy.convolutions(stage)
    return tuple(
        path
        for path in paths
        if isinstance(anatomy.model.get_submodule(path), nn.Conv2d)
        and anatomy.conv_inputs[f"{path}.weight"].find().size != COLOURS
    )


@lru_cache(maxsize=4096)
def _convolutions(anatomy: Anatomy, stage: int, scales: tuple[Scale, ...]) -> list[Convolution]:
    """The spatial convolutions of a stage at the widths that were chosen."""
    size_of, found = sizes(anatomy, scales), []
    for path in _paths(anatomy, stage):
        inputs, outputs, size = (axis.evaluate(size_of) for axis in _axes(anatomy, path))
        found.append(Convolution(inputs=inputs, outputs=outputs, size=size))
    return found


def _axes(anatomy: Anatomy, path: str) -> tuple[Dim, Dim, Dim]:
    """Channels that go in, that come out, and that make a group."""
    weight = f"{path}.weight"
    outputs, size = anatomy.dims[weight][:2]
    return anatomy.conv_inputs[weight], outputs, size


@lru_cache(maxsize=4096)
def _sizes(inputs: int, outputs: int) -> tuple[int, ...]:
    """Channels per group with which a convolution can be."""
    return tuple(n for n in divisors(inputs) if outputs % (inputs // n) == 0)
