"""group_size: channels per group of the spatial convolutions of a stage.

A number is rounded, in ratio, to the nearest size that divides the channels of a convolution; different
convolutions of a stage may so get different sizes. `depthwise` puts a depthwise and a pointwise convolution in
the place of one, with nothing between (1610.02357, section 3). Convolutions with a kernel of one never change.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, ClassVar

from torch import nn

from spaces.anatomy import Anatomy
from spaces.backbone import LARGEST_NUMBER
from spaces.techniques.base import Choice, Knob, NotApplicable, PerStage, Scalar, Technique, kind_of
from spaces.techniques.grouping import regroup, separate, shuffles
from spaces.techniques.width import Width
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
        fits = [n for n in range(1, self.inputs + 1) if self.inputs % n == 0 and self.outputs % (self.inputs // n) == 0]
        return min(fits, key=lambda n: (max(n / size, size / n), n))


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
            raise ValueError(f"{given!r} is no group size; give keep, depthwise or a whole number from 1, as 8")
        return int(given)  # type: ignore[call-overload, no-any-return]

    def takes(self, kind: Scalar, knob: str) -> bool:
        return knob in self.knobs and isinstance(kind, int)

    def offers(self, anatomy: Anatomy) -> tuple[Choice, ...]:
        """With the sizes of ResNeXt-50 32x4d, RegNetX-200MF and RegNetY-800MF."""
        return ("keep", 4, 8, 16, "depthwise")

    def canonical(self, choices: PerStage, anatomy: Anatomy, before: Mapping[str, PerStage]) -> PerStage:
        stages = [_convolutions(anatomy, stage, before) for stage in range(len(anatomy.stages))]
        if not any(stages) and any(choice != "keep" for choice in choices):
            raise NotApplicable("it has no spatial convolutions in its blocks")
        return tuple(self._effect(choice, convs) for choice, convs in zip(choices, stages or [[]], strict=True))

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


def _paths(anatomy: Anatomy, stage: int) -> tuple[str, ...]:
    """Those that can be cut into groups: in the image's own colours there are none."""
    paths = anatomy.convolutions(stage)
    return tuple(
        path
        for path in paths
        if isinstance(anatomy.model.get_submodule(path), nn.Conv2d)
        and anatomy.conv_inputs[f"{path}.weight"].find().size != COLOURS
    )


def _convolutions(anatomy: Anatomy, stage: int, before: Mapping[str, PerStage]) -> list[Convolution]:
    """The spatial convolutions of a stage at the width that was chosen."""
    width = Width()
    size_of = width.sizes(anatomy, before.get(width.name, (width.default,) * len(anatomy.stages)))
    found = []
    for path in _paths(anatomy, stage):
        weight = f"{path}.weight"
        axes = anatomy.conv_inputs[weight], *anatomy.dims[weight][:2]
        inputs, outputs, size = (axis.evaluate(size_of) for axis in axes)
        found.append(Convolution(inputs=inputs, outputs=outputs, size=size))
    return found
