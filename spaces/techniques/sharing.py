"""sharing: one set of weights for several blocks.

Blocks of equal make share the weights of their layers: of Linear and convolution modules and other `weight`
matrices, with their biases. Private to each use stay norms (unless asked for) and always their running
statistics, scales, gates and tables of positions. Of blocks that share, the first one's weights are used.
Each kind is an assignment of N blocks, in order of execution, to sets of weights (`assignment`).
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Mapping, Sequence
from itertools import product
from typing import ClassVar

import torch
from torch import Tensor, nn

from spaces.anatomy import Anatomy
from spaces.techniques.alike import CONVOLUTION, Group, changes, groups, seen, shapes, weights
from spaces.techniques.base import Choice, Knob, NotApplicable, PerStage, Scalar, Technique, kind_of, values_of
from spaces.techniques.wrapping import append

_CYCLES = ("sequence", "cycle", "cycle_rev")
_SHARED = ("stage", "all", *_CYCLES, "sandwich")
_SCOPES = {
    "block": "layers",
    "attention": "layers inside attention",
    "mlp": "linear or 1x1 layers outside attention",
    "spatial_conv": "convolutions with a kernel above 1",
}
_KNOBS = (tuple(_SCOPES), (False, True), (False, True))  # scope, norms, transform
_Outside = frozenset[tuple[Hashable, str]]


class PerUse(nn.Module):
    """x -> factor * x, one factor a channel, starting at 1: what one use of a shared layer has for itself.

    The idea is MiniViT's weight transformation (2204.07154) in its simplest form: there the heads
    of attention are mixed by a linear layer before and after the softmax, and the MLP gets a depthwise convolution.

    Args:
        trailing: axes of x after the channels (2 for NCHW, 0 for [N, tokens, C]).
    """

    def __init__(self, channels: int, trailing: int, device: torch.device):
        super().__init__()
        self.factor = nn.Parameter(torch.ones(channels, device=device))  # one axis: no weight decay
        self._shape = (-1, *[1] * trailing)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor.view(self._shape)

    def extra_repr(self) -> str:
        return f"{len(self.factor)}"


class Sharing(Technique):
    name: ClassVar[str] = "sharing"
    default: ClassVar[Choice] = "none"
    choices: ClassVar[Mapping[str, str]] = {
        "none": "every block has its own weights",
        "stage": "blocks of equal make share one set of weights within their stage",
        "all": "blocks of equal make share one set of weights in the whole network",
        "sequence": "`unique` sets a stage: runs of blocks that follow each other share one",
        "cycle": "`unique` sets a stage, taken in turn",
        "cycle_rev": "as cycle, but the last `unique` blocks take them in reverse",
        "sandwich": "all but the first and the last block of a stage share one set of weights",
    }
    knobs: ClassVar[Mapping[str, Knob]] = {
        "unique": Knob(
            kinds=_CYCLES, default=2, low=1, high=1000, whole=True, meaning="sets of weights, M in 2104.06022"
        ),
        "scope": Knob(
            kinds=_SHARED,
            default="block",
            allowed=tuple(_SCOPES),
            meaning="shared layers: all of the block, those inside its attention, other linear and 1x1 layers, "
            "or convolutions with a kernel above 1",
        ),
        "norms": Knob(kinds=_SHARED, default=False, allowed=(False, True), meaning="share the block's norms too"),
        "transform": Knob(
            kinds=_SHARED,
            default=False,
            allowed=(False, True),
            meaning="every use of a shared layer learns a factor per output channel",
        ),
    }
    after: ClassVar[tuple[str, ...]] = ("width", "group_size", "norm")
    paper: ClassVar[str] = (
        "1909.11942 (ALBERT), 1702.08782 (ShaResNet), 2104.06022 (sequence, cycle), "
        "2101.00234 (sandwich: Subformer), 2204.07154 (transform: MiniViT)"
    )

    def canonical(self, choices: PerStage, anatomy: Anatomy, before: Mapping[str, PerStage]) -> PerStage:
        for choice in choices:
            if choice != self.default:
                self._refuse(choice, anatomy)
        stages = groups(anatomy, changes(before, anatomy)) if before else groups(anatomy)
        return tuple(
            self._simplest(choice, stage, self._outside(index, choices, stages))
            for index, (choice, stage) in enumerate(zip(choices, stages, strict=True))
        )

    def sees(self, anatomy: Anatomy, stage: int) -> Collection[int]:
        return seen(anatomy, stage)

    def rewrite(self, model: nn.Module, choices: PerStage, anatomy: Anatomy, *, trained: bool) -> None:
        uses: dict[Hashable, list[str]] = defaultdict(list)
        transformed = set()
        found = {block: weights(model, block, anatomy) for stage in anatomy.stages for block in stage.blocks}
        stages = groups(anatomy, lambda block: shapes(model, block, found[block]))
        for index, (choice, stage) in enumerate(zip(choices, stages, strict=True)):
            place = None if kind_of(choice) == "all" else index
            for group in stage if choice != self.default else ():
                for block, label in zip(group.blocks, self._labels(choice, len(group.blocks)), strict=True):
                    for name in self._names(choice, found[block]):
                        path = f"{block}.{name}"
                        uses[place, group.make, label, name].append(path)
                        if self.value(choice, "transform") and "module" in found[block][name]:
                            transformed.add(path)
        shared = [paths for paths in uses.values() if len(paths) > 1]
        for first, *others in shared:
            for path in others:
                owner, _, name = path.rpartition(".")
                setattr(model.get_submodule(owner), name, model.get_parameter(first))
        for path in (path for paths in shared for path in paths if path in transformed):
            _transform(model, path)

    def label(self, choice: Choice) -> str:
        words = (name if value is True else str(value) for name, value in values_of(choice).items())
        return f"share={':'.join([str(kind_of(choice)), *words])}"

    def _refuse(self, choice: Choice, anatomy: Anatomy) -> None:
        """NotApplicable where the network has no blocks, or its blocks of equal make have nothing in scope."""
        everywhere = [group for stage in groups(anatomy) for group in stage]
        if not everywhere:
            raise NotApplicable("it has no blocks")
        count = Counter(group.make for group in everywhere for _ in group.blocks)
        whole = kind_of(choice) == "all"
        twice = [group for group in everywhere if (count[group.make] if whole else len(group.blocks)) > 1]
        if twice and not any(self._names(choice, group.weights) for group in twice):
            raise NotApplicable(f"its blocks of equal make have no {_SCOPES[self.value(choice, 'scope')]}")

    def _labels(self, choice: Choice, count: int) -> tuple[int, ...]:
        kind = str(kind_of(choice))
        return assignment(kind, count, self.value(choice, "unique") if self.takes(kind, "unique") else 1)

    def _names(self, choice: Choice, found: Mapping[str, frozenset[str]]) -> frozenset[str]:
        """The parameters of a block that a choice ties: its layers in scope and, where there are any, its norms."""
        layers = {name for name, words in found.items() if self.value(choice, "scope") in words}
        norms = {name for name, words in found.items() if "norm" in words and self.value(choice, "norms")}
        return frozenset(layers | norms) if layers else frozenset()

    def _outside(self, index: int, choices: PerStage, stages: Sequence[Sequence[Group]]) -> _Outside:
        """What `all` ties in other stages: makes of blocks and their parameters."""
        return frozenset(
            (group.make, name)
            for other, (choice, stage) in enumerate(zip(choices, stages, strict=True))
            if kind_of(choice) == "all" and other != index
            for group in stage
            for name in self._names(choice, group.weights)
        )

    def _effect(self, choice: Choice, stage: Sequence[Group], outside: _Outside) -> list[tuple[object, ...]]:
        """What a choice ties, group by group: which blocks, which parameters, and which with other stages."""
        effect: list[tuple[object, ...]] = []
        for group in stage:
            labels, names = self._labels(choice, len(group.blocks)), self._names(choice, group.weights)
            beyond = {name for name in names if (group.make, name) in outside and kind_of(choice) == "all"}
            tied = names if len(set(labels)) < len(labels) else beyond
            if tied:
                transform = self.value(choice, "transform") and any("module" in group.weights[name] for name in tied)
                effect.append((group.make, labels, tied, beyond, transform))
        return effect

    def _simplest(self, choice: Choice, stage: Sequence[Group], outside: _Outside) -> Choice:
        """The first choice, in a fixed order, with the same effect."""
        wanted = self._effect(choice, stage, outside)
        if not wanted:
            return self.default
        sets = {make: labels for make, labels, *_ in wanted}
        tied = [group for group in stage if group.make in sets]
        longest = max(len(group.blocks) for group in stage)
        uniques: list[dict[str, Scalar]] = [{"unique": unique} for unique in range(1, longest + 1)]
        for kind in _SHARED:
            for own in uniques if kind in _CYCLES else [{}]:
                assigned: dict[str, Scalar] = {"kind": kind, **own}
                if any(self._labels(assigned, len(group.blocks)) != sets[group.make] for group in tied):
                    continue
                for scope, norms, transform in product(*_KNOBS):
                    simple = {**assigned, "scope": scope, "norms": norms, "transform": transform}
                    if self._effect(simple, stage, outside) == wanted:
                        return self.check(simple)
        raise AssertionError("every choice has the effect that it has")


def assignment(kind: str, count: int, unique: int) -> tuple[int, ...]:
    """The set of weights that each of `count` blocks uses, numbered by first use.

    With M = `unique` (2104.06022, section 2; the authors' code is fairseq/models/transformer.py in
    takase/share_layer_params): sequence floor(i M / N), cycle i mod M, cycle_rev cycle for the first N - M and the
    last M in reverse. Where M does not divide N the authors' code takes ceil(N / M) blocks a set in a sequence, and
    where N < 2 M it starts cycle_rev with M new sets.
    """
    if kind == "none" or unique >= count:
        sets = list(range(count))
    elif kind in ("stage", "all"):
        sets = [0] * count
    elif kind == "sequence":
        sets = [i * unique // count for i in range(count)]
    elif kind == "cycle":
        sets = [i % unique for i in range(count)]
    elif kind == "cycle_rev":
        sets = [i % unique if i < count - unique else count - 1 - i for i in range(count)]
    else:
        sets = [0, *[1] * (count - 2), 2]
    order = list(dict.fromkeys(sets))
    return tuple(order.index(number) for number in sets)


def _transform(model: nn.Module, path: str) -> None:
    """Give the layer with the weight at `path` its own factor per output channel."""
    owner = path.rpartition(".")[0]
    layer = model.get_submodule(owner)
    if isinstance(layer, nn.Linear):
        append(model, owner, PerUse(layer.out_features, 0, layer.weight.device))
    elif isinstance(layer, CONVOLUTION):
        append(model, owner, PerUse(layer.out_channels, len(layer.kernel_size), layer.weight.device))
