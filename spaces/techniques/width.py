"""width: how many channels stem and stages have, for the network or per stage.

A number up to 8 multiplies all channels of a stage; a whole number above 8 is how many channels its blocks put
out, and its other channels keep their proportion to them. Sizes are rounded to multiples (of the number of
heads too) as MobileNet does, never below 90% of the exact size. The number of heads of a transformer and the
group width of a grouped convolution stay. Layers of the head grow with the last stage, but never shrink
(MobileNetV2, 1801.04381, section 6). Of trained weights the most important channels are kept.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import ClassVar

from torch import nn

from spaces.anatomy import Anatomy, Branch
from spaces.anatomy.dims import Dim, SizeOf
from spaces.backbone import LARGEST_NUMBER, create
from spaces.errors import shown
from spaces.resizing.importance import Scores, most_important, scores
from spaces.resizing.resize import resize
from spaces.resizing.sizing import Scale, factors_of, rounded, scaled, sizes, stages_of
from spaces.techniques.base import Choice, Knob, NotApplicable, PerStage, Scalar, Technique, kind_of

LARGEST = 8.0  # multipliers; a whole number above it is a channel count
MULTIPLE = 8  # channels, as in MobileNet's reference implementation
COARSEST = 256
# Equal networks get the first of these multiples, and with it the multiplier with the first of these denominators,
# that gives them.
_MULTIPLES = tuple(dict.fromkeys((MULTIPLE, 256, 128, 64, 32, 16, 4, 2, 1, *range(COARSEST, 0, -1))))
_DENOMINATORS = (1, 2, 4, 5, 8, 10, 16, 20, 32, 50, 64, 100, 128, 200, 500, 1000, 10_000)


class Width(Technique):
    name: ClassVar[str] = "width"
    default: ClassVar[Choice] = 1.0
    choices: ClassVar[Mapping[str, str]] = {
        "0.5": "a multiplier of the channels, above 0 and up to 8",
        "96": "how many channels the blocks put out, above 8; a stage's other channels in proportion",
    }
    knobs: ClassVar[Mapping[str, Knob]] = {
        "multiple": Knob(
            default=MULTIPLE, low=1, high=COARSEST, whole=True, meaning="what numbers of channels are rounded to"
        )
    }
    paper: ClassVar[str] = "1704.04861 (MobileNet)"

    def kind(self, given: object) -> Scalar:
        number = isinstance(given, int | float) and not isinstance(given, bool)
        if number and 0 < given <= LARGEST:  # type: ignore[operator]
            return float(given)  # type: ignore[arg-type]
        if number and LARGEST < given <= LARGEST_NUMBER and given == int(given):  # type: ignore[operator, call-overload]
            return int(given)  # type: ignore[call-overload, no-any-return]
        raise ValueError(
            f"{shown(given)} is no width; give a multiplier above 0 and up to {LARGEST:g}, as 0.5, "
            f"or a whole number of channels above {LARGEST:g}"
        )

    def canonical(self, choices: PerStage, anatomy: Anatomy, before: Mapping[str, PerStage]) -> PerStage:
        for stage in range(len(anatomy.stages)):
            branches = [branch for branch in anatomy.branches if branch.stage == stage]
            if branches and not any(_followed(anatomy, branch) for branch in branches):
                reasons = "; ".join(anatomy.notes[:2]) or "they are fixed"
                raise NotApplicable(f"the channels that {branches[0].module} adds cannot be followed: {reasons}")
        if not anatomy.channels:
            raise NotApplicable("it has no channels that could change")
        return tuple(
            _simplest(anatomy, stage, self._scale(choice, anatomy, stage)) for stage, choice in enumerate(choices)
        )

    def rewrite(
        self,
        model: nn.Module,
        choices: PerStage,
        anatomy: Anatomy,
        *,
        trained: bool,
        importance: Scores | None = None,
    ) -> None:
        """As `Technique.rewrite`; `importance` tells which trained channels are kept, by default that of `scores`."""
        size_of = self.sizes(anatomy, choices)
        if not trained:
            resize(model, anatomy, size_of)
            return
        importance = scores(model, anatomy) if importance is None else importance
        kept = {leaf: most_important(score, size_of(leaf)) for leaf, score in importance.items()}
        grows = any(size_of(leaf) > leaf.size for leaf in stages_of(anatomy))
        fresh = create(anatomy.backbone, anatomy.kwargs, num_classes=10, in_chans=3) if grows else None
        resize(model, anatomy, size_of, kept=kept, fresh=fresh)

    def sizes(self, anatomy: Anatomy, choices: PerStage) -> SizeOf:
        """The size that each leaf gets."""
        return sizes(anatomy, self.scales(anatomy, choices))

    def scales(self, anatomy: Anatomy, choices: PerStage) -> tuple[Scale, ...]:
        return tuple(self._scale(choice, anatomy, stage) for stage, choice in enumerate(choices))

    def offers(self, anatomy: Anatomy) -> tuple[Choice, ...]:
        return 0.5, 0.75, 1.5

    def label(self, choice: Choice) -> str:
        multiple = self.value(choice, "multiple")
        return f"w={kind_of(choice)}" + (f":{multiple}" if multiple != MULTIPLE else "")

    def _scale(self, choice: Choice, anatomy: Anatomy, stage: int) -> Scale:
        """The multiplier that a choice comes to."""
        width, multiple = kind_of(choice), int(self.value(choice, "multiple"))
        assert isinstance(width, int | float)
        if width <= LARGEST:
            return Scale(multiplier=float(width), multiple=multiple)
        channels = _put_out(anatomy, stage)
        if width > LARGEST * channels:
            raise NotApplicable(f"{width} channels are more than {LARGEST:g} times the {channels} of stage {stage + 1}")
        return Scale(multiplier=width / channels, multiple=multiple)


def chosen_scales(anatomy: Anatomy, before: Mapping[str, PerStage]) -> tuple[Scale, ...]:
    """What the width that was chosen before comes to in each stage."""
    width = Width()
    return width.scales(anatomy, before.get(width.name, (width.default,) * max(1, len(anatomy.stages))))


def _followed(anatomy: Anatomy, branch: Branch) -> bool:
    name, axis = branch.width or ("", 0)
    return bool(name) and any(leaf in anatomy.channels for leaf in anatomy.dims[name][axis].leaves())


def _put_out(anatomy: Anatomy, stage: int) -> int:
    """How many channels the blocks of a stage put out."""
    ends = anatomy.ends(stage) if stage < len(anatomy.stages) else ()
    for branch in reversed(ends):
        name, axis = branch.width or ("", 0)
        if name and any(stages_of(anatomy).get(leaf) == stage for leaf in anatomy.dims[name][axis].leaves()):
            return anatomy.dims[name][axis].find().size
    raise NotApplicable(f"stage {stage + 1} has no output channels of its own; give a multiplier")


@lru_cache(maxsize=4096)
def _simplest(anatomy: Anatomy, stage: int, scale: Scale) -> Choice:
    """The one choice for the sizes that a scale gives a stage; `1.0` where nothing changes.

    That is the default multiple if any multiplier gives these sizes with it, else the largest power of two that
    does; then the multiplier with the smallest denominator, and of these the smallest.
    """
    leaves = [leaf for leaf, of in stages_of(anatomy).items() if of == stage]
    wanted = [scaled(anatomy, leaf, scale) for leaf in leaves]
    if wanted == [leaf.size for leaf in leaves]:
        return 1.0
    wholes = [size * factors_of(anatomy)[leaf] for leaf, size in zip(leaves, wanted, strict=True)]
    step = math.gcd(*(whole for leaf, whole in zip(leaves, wholes, strict=True) if leaf in anatomy.channels))
    for multiple in _MULTIPLES:
        multiplier = _multiplier(anatomy, leaves, wanted, multiple) if step % multiple == 0 else None
        if multiplier is not None:
            return multiplier if multiple == MULTIPLE else {"kind": multiplier, "multiple": multiple}
    raise AssertionError("the given scale gives the given sizes")


def _multiplier(anatomy: Anatomy, leaves: Sequence[Dim], wanted: Sequence[int], multiple: int) -> float | None:
    """The simplest multiplier that gives these sizes with a multiple; None where there is none."""

    def gives(multiplier: float, size: Callable[[Anatomy, Dim, Scale], int] = scaled) -> bool:
        scale = Scale(multiplier=multiplier, multiple=multiple)
        return all(size(anatomy, leaf, scale) == now for leaf, now in zip(leaves, wanted, strict=True))

    low, high = 0.0, LARGEST
    while low < (middle := (low + high) / 2) < high:
        scale = Scale(multiplier=middle, multiple=multiple)
        if all(rounded(anatomy, leaf, scale) >= now for leaf, now in zip(leaves, wanted, strict=True)):
            high = middle
        else:
            low = middle
    if not gives(high, rounded):
        return None
    return next((n for d in _DENOMINATORS if gives(n := math.ceil(high * d) / d)), high)
