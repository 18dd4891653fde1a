"""scaling: how strongly a layer or its channels count, by factors at its end.

A layer is a residual branch; in a stage in which nothing is added to a shortcut, a block. A model's own
LayerScale is left by `keep`, removed by `none` and replaced by any other choice. A scale takes over from a
zero-initialised norm gain at the end of a branch (timm's ResNets): that gain starts at one instead, since a
product of two zeros never learns. Norms stay where they are, also under `rezero` and `skipinit`, which were
published for networks without.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import ClassVar, final

import torch
from torch import nn

from spaces.anatomy import Anatomy
from spaces.anatomy.dims import Dim
from spaces.backbone import LARGEST_NUMBER
from spaces.fold import fold_own
from spaces.resizing.sizing import divisors, sizes, stages_of
from spaces.techniques.base import Choice, Knob, NotApplicable, PerStage, Technique, kind_of, values_of
from spaces.techniques.scaling.ends import End, channels_of, ends_of, free_gain, own_starts, remove_own
from spaces.techniques.scaling.removed import removable
from spaces.techniques.scaling.scales import (
    EfficientAttention,
    Fixed,
    Gate,
    Learned,
    Scale,
    SqueezeExcite,
    is_own_scale,
)
from spaces.techniques.width import chosen_scales
from spaces.techniques.wrapping import append

# On digits (15 epochs, 255 steps of AdamW at 2e-3) static gates remove, of an over-deep ResNet's 16, ConvNeXt's 12 and
# ViT's 12 branches: 0, 3, 2 at 1e-3; 0, 10, 3 at 1e-2; 1, 12, 6 at 2e-2; 2, 12, 8 at 3e-2; 7, 12, 10 at 1e-1. The
# accuracy is within 0.3 points before and after. Against the plain networks it is -1.7, -0.3, +4.2 points at 1e-2 and
# -2.5, +0.3, -4.7 at 1e-1. Conditioned gates remove 1, 10, 10 at 1e-2; from 3e-2 on all of the ViT's, which then fails.
GATE_PENALTY = 0.01
_RESIDUAL = ("rezero", "skipinit", "layerscale", "adaptive")
Made = tuple[tuple[int, float, float], ...]  # by layer: how many learned factors, their start, their penalty


def layerscale_start(depth: int) -> float:
    """Initial LayerScale by depth in blocks (2103.17239, section 2): 0.1 to 18, 1e-5 to 24, 1e-6 beyond."""
    return 0.1 if depth <= 18 else 1e-5 if depth <= 24 else 1e-6


@final
class Scaling(Technique):
    name: ClassVar[str] = "scaling"
    default: ClassVar[Choice] = "keep"
    choices: ClassVar[Mapping[str, str]] = {
        "keep": "the backbone's own scales, if it has any",
        "none": "no scales",
        "uniform": "one fixed factor",
        "rezero": "one learnable factor a branch, starting at 0",
        "skipinit": "one learnable factor a branch, starting at 1/sqrt(number of branches); norms stay",
        "layerscale": "one learnable factor a channel of a branch, starting small by depth",
        "layerwise": "one learnable factor a layer, starting at 1",
        "groupwise": "one learnable factor a group of channels, starting at 1",
        "channel": "one learnable factor a channel, starting at 1, with an L1 penalty",
        "se": "a factor a channel from the mean of every channel, by two layers",
        "eca": "a factor a channel from the means of the channels beside it",
        "adaptive": "a learnable gate a branch with a penalty; what dies can be removed (no publication by that name)",
    }
    knobs: ClassVar[Mapping[str, Knob]] = {
        "factor": Knob(kinds=("uniform",), default=0.5, above=0.0, high=16.0, meaning="what each layer is times"),
        "groups": Knob(
            kinds=("groupwise",), default=8, low=1, high=LARGEST_NUMBER, whole=True, meaning="groups of channels"
        ),
        "penalty": Knob(
            kinds=("channel", "adaptive"),
            default=1e-4,  # 1708.06519, section 4.2, for VGG
            defaults={"adaptive": GATE_PENALTY},
            low=0.0,
            high=1.0,
            meaning="s of the penalty s * sum |factor|",
        ),
        "reduction": Knob(
            kinds=("se",), default=16, low=1, high=1024, whole=True, meaning="channels over the width inside"
        ),  # 1709.01507, section 6.1
        "conditioned": Knob(
            kinds=("adaptive",), default=False, allowed=(False, True), meaning="the gate depends on the image"
        ),
        "removed": Knob(
            kinds=("adaptive",),
            default="",
            pattern="([0-9]{1,4}(,[0-9]{1,4}){0,499})?",
            example="1,3",
            meaning="branches of the stage that are gone, counted from 0, as 1,3",
        ),
    }
    after: ClassVar[tuple[str, ...]] = ("width",)
    paper: ClassVar[str] = (
        "2003.04887 (ReZero), 2002.10444 (SkipInit), 2103.17239 (LayerScale), 1708.06519 (slimming), "
        "1709.01507 (SE), 1910.03151 (ECA), 1707.01213 (SSS, the idea of adaptive)"
    )

    def canonical(self, choices: PerStage, anatomy: Anatomy, before: Mapping[str, PerStage]) -> PerStage:
        residual = {branch.stage for branch in anatomy.branches}
        if not residual and any(kind_of(choice) in _RESIDUAL for choice in choices):
            raise NotApplicable("it has no residual branches")
        effects: list[Choice] = []
        for stage, choice in enumerate(choices):
            lacks = kind_of(choice) in _RESIDUAL and stage not in residual  # as the first stage of MobileNets
            effects.append("keep" if lacks else self._effect(choice, anatomy, stage, before))
        return tuple(effects)

    def sees(self, anatomy: Anatomy, stage: int) -> Collection[int]:
        try:
            leaves = {leaf for axis in _axes(anatomy, stage) for leaf in axis.leaves()}
        except NotApplicable:  # and so does no choice
            return ()
        return {stages_of(anatomy)[leaf] for leaf in leaves if leaf in stages_of(anatomy)}

    def rewrite(self, model: nn.Module, choices: PerStage, anatomy: Anatomy, *, trained: bool) -> None:
        changed = [(stage, choice) for stage, choice in enumerate(choices) if choice != "keep"]
        own = [name for stage, _ in changed for name in _own(anatomy, stage)]
        if own and trained:
            fold_own(model, own, anatomy.image_size)
        if own:
            image = torch.empty(2, 3, anatomy.image_size, anatomy.image_size, device="meta")
            remove_own(model, own, anatomy.model, image)
        for stage, choice in changed:
            if choice != "none":
                self._scale(model, choice, anatomy, stage, trained=trained)

    def label(self, choice: Choice) -> str:
        words = [str(kind_of(choice))]
        for name, value in values_of(choice).items():
            words.append(
                name if value is True else f"{len(_indices(str(value)))}gone" if name == "removed" else f"{value:g}"
            )
        prefix = "scale=" if words[0] in ("keep", "none", "uniform", "channel") else ""
        return prefix + ":".join(words)

    def _scale(self, model: nn.Module, choice: Choice, anatomy: Anatomy, stage: int, *, trained: bool) -> None:
        gone = _indices(self.value(choice, "removed"))
        for stand_in in removable(anatomy, stage, gone).plan if gone else ():
            stand_in.put(model)
        for index, end in enumerate(ends_of(anatomy, stage)):
            if index not in gone:
                if end.branch.residual and not trained:
                    free_gain(model, end.branch)
                append(model, end.path, self._made(choice, end, model, anatomy))

    def _made(self, choice: Choice, end: End, model: nn.Module, anatomy: Anatomy) -> Scale:
        """The scale of a choice for the end of one layer of a model."""
        kind, place, trailing = kind_of(choice), end.path, end.trailing
        channels = channels_of(model, anatomy, end)
        device = next(model.parameters()).device
        if kind == "uniform":
            return Fixed(place, trailing, self.value(choice, "factor"))
        if kind == "se":
            hidden = squeezed(channels, self.value(choice, "reduction"))
            return SqueezeExcite(place, trailing, channels=channels, hidden=hidden, device=device)
        if kind == "eca":
            return EfficientAttention(place, trailing, channels=channels, device=device)
        if kind == "adaptive" and self.value(choice, "conditioned"):
            strength = self.value(choice, "penalty")
            return Gate(place, trailing, channels=channels, strength=strength, device=device)
        count, start, strength = self._learned(choice, channels, anatomy)
        return Learned(place, trailing, channels=channels, count=count, start=start, strength=strength, device=device)

    def _learned(self, choice: Choice, channels: int, anatomy: Anatomy) -> tuple[int, float, float]:
        """How many factors are learned for so many channels, their start and penalty."""
        kind = kind_of(choice)
        if kind == "rezero":
            return 1, 0.0, 0.0
        if kind == "skipinit":
            return 1, 1 / math.sqrt(max(1, len(anatomy.branches))), 0.0  # 2002.10444, section 3: at most 1/sqrt(depth)
        if kind == "layerscale":
            return channels, layerscale_start(sum(len(stage.blocks) for stage in anatomy.stages)), 0.0
        if kind == "groupwise":
            return nearest_divisor(channels, self.value(choice, "groups")), 1.0, 0.0
        if kind == "channel":
            return channels, 1.0, self.value(choice, "penalty")
        return 1, 1.0, self.value(choice, "penalty") if kind == "adaptive" else 0.0

    def _effect(self, choice: Choice, anatomy: Anatomy, stage: int, before: Mapping[str, PerStage]) -> Choice:
        kind = kind_of(choice)
        if kind == "none" or (kind == "uniform" and self.value(choice, "factor") == 1):
            return "none" if _own(anatomy, stage) else "keep"
        if kind == "keep":
            return choice
        ends = ends_of(anatomy, stage)
        if kind == "adaptive":
            choice = self._adaptive(choice, anatomy, stage)
        if kind in ("uniform", "eca") or self.value(choice, "conditioned") or self.value(choice, "removed"):
            return choice
        size_of = sizes(anatomy, chosen_scales(anatomy, before))
        channels = tuple(axis.evaluate(size_of) for axis in _axes(anatomy, stage))
        if kind == "se":
            return self._squeeze(choice, channels)
        wanted = self._all(choice, channels, anatomy)
        known = [own_starts(anatomy).get(end.own_scale or "") for end in ends]
        own = tuple((size if one[0] else 1, one[1], 0.0) for one, size in zip(known, channels, strict=True) if one)
        if own == tuple((count, _single(start), strength) for count, start, strength in wanted):
            return "keep"
        simpler = self._simpler(choice, wanted)
        return next((other for other in simpler if self._all(other, channels, anatomy) == wanted), choice)

    def _all(self, choice: Choice, channels: Sequence[int], anatomy: Anatomy) -> Made:
        return tuple(self._learned(choice, size, anatomy) for size in channels)

    def _simpler(self, choice: Choice, wanted: Made) -> Iterator[Choice]:
        """Choices in fewer words that may come to the same; the real number of groups before any other."""
        unpenalised: Choice = {"kind": "channel", "penalty": 0.0}
        yield from ("layerwise", "rezero", "skipinit", "layerscale", unpenalised)
        if kind_of(choice) == "groupwise":
            real = sorted({count for count, _, _ in wanted})
            for groups in (*real, self.knobs["groups"].default, *range(1, self.value(choice, "groups"))):
                yield self.check({"kind": "groupwise", "groups": groups})

    def _squeeze(self, choice: Choice, channels: Sequence[int]) -> Choice:
        """The default reduction, else the least, with the same inner widths."""
        given, default = self.value(choice, "reduction"), self.knobs["reduction"].default
        wanted = {size: squeezed(size, given) for size in channels}
        for reduction in (default, *range(1, given)):
            if all(squeezed(size, reduction) == inner for size, inner in wanted.items()):
                return self.check({"kind": "se", "reduction": reduction})
        return choice

    def _adaptive(self, choice: Choice, anatomy: Anatomy, stage: int) -> Choice:
        """With `removed` in its normal form; knobs of gates go where all gates are gone."""
        gone, count = _indices(self.value(choice, "removed")), len(ends_of(anatomy, stage))
        if not gone:
            return choice
        if gone[-1] >= count:
            raise NotApplicable(f"stage {stage + 1} has {count} branches; {gone[-1]}, counted from 0, is none of them")
        found = removable(anatomy, stage, gone)
        for index, reason in found.refused.items():
            raise NotApplicable(f"branch {index} of stage {stage + 1} cannot be removed: {reason}")
        gone = tuple(sorted({*gone, *found.inside}))
        values = values_of(choice) if len(gone) < count else {}
        return self.check({**values, "kind": "adaptive", "removed": ",".join(map(str, gone))})


def nearest_divisor(channels: int, groups: int) -> int:
    """The number next to `groups` that divides the channels, the smaller of two as near."""
    return min(divisors(channels), key=lambda d: (abs(d - groups), d))


def squeezed(channels: int, reduction: int) -> int:
    """Width inside squeeze-and-excitation; at least 8 as in timm, since a few units can all be dead at the start."""
    return max(8, channels // reduction)


def _indices(text: str) -> tuple[int, ...]:
    """`3,1` -> (1, 3)."""
    return tuple(sorted({int(part) for part in text.split(",") if part}))


def _own(anatomy: Anatomy, stage: int) -> list[str]:
    """The model's own scales in a stage."""
    names = [branch.own_scale for branch in anatomy.branches if branch.stage == stage]
    return [name for name in names if name and is_own_scale(anatomy.model, name)]


def _single(value: float) -> float:
    """As a parameter of single precision holds it."""
    return torch.tensor(value, dtype=torch.float32, device="cpu").item()


def _axes(anatomy: Anatomy, stage: int) -> list[Dim]:
    """The channels at the end of each layer of a stage."""
    widths = [end.branch.width for end in ends_of(anatomy, stage)]
    return [anatomy.dims[width[0]][width[1]] for width in widths if width is not None]
