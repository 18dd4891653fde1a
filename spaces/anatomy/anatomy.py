"""The anatomy of a timm model: stages, blocks, residual branches and channels, read from the model itself.

No table of families: everything here follows from one watched forward pass (`spaces.anatomy.trace`). Techniques act
on what they find here, and say why where it is missing.
"""

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from spaces.anatomy.dims import PRODUCT, Dim
from spaces.anatomy.stages import Places, Stage, inside
from spaces.anatomy.trace import Addition, Trace
from spaces.backbone import create
from spaces.errors import SpaceError

__all__ = ["Anatomy", "Branch", "Stage", "anatomy_of", "channel_axis", "input_size"]


@dataclass(frozen=True, kw_only=True)
class Branch:
    """A residual branch, or where there are none (`Anatomy.ends`) a block as if it were one.

    Attributes:
        stage: index of its stage.
        residual: whether it is added to a shortcut.
        module: the module in whose forward it is added to the shortcut.
        target: the module whose output is the branch; None where the end of the branch is no module.
        producers: the modules that put out the branch as it is added, the innermost first.
        own_scale: the parameter with which the model itself scales the branch, if any.
        trailing: axes after the channels (2 for NCHW, 0 for tokens).
        width: a parameter and its axis that is as long as the branch has channels.
        parameters: those that the branch goes through and its shortcut does not.
        shortcut: the modules that put out the shortcut, the innermost first; none where it is the input of `module`.
    """

    stage: int
    residual: bool = True
    module: str
    target: str | None
    producers: tuple[str, ...]
    own_scale: str | None
    trailing: int
    width: tuple[str, int] | None
    parameters: frozenset[str] = frozenset()
    shortcut: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Anatomy:
    """What a backbone is made of, traced on the meta device with 3 channels and 10 classes.

    Attributes:
        image_size: the side of the image it was traced with.
        model: the traced model, on the meta device; never changed.
        dims: dimensions of every parameter and buffer that takes part in the forward pass.
        inputs: dimensions of the first tensor that each called module is given.
        outputs: dimensions of what each called module returns, where that is one tensor; the batch is 2.
        called: the modules whose forward ran.
        attentions: modules that weigh values by a softmax over products of queries and keys.
        prefix_tokens: class and register tokens in front of the image's.
        conv_inputs: by weight, the channels that go into a convolution.
        channels: stage index by leaf that `width` scales; stem with the first stage, head not at all.
        factors: by leaf, the constant it is multiplied with in memory (heads, group width).
        notes: what could not be followed.
    """

    backbone: str
    kwargs: Mapping[str, Any]
    image_size: int
    model: nn.Module
    stages: tuple[Stage, ...]
    branches: tuple[Branch, ...]
    dims: Mapping[str, list[Dim]]
    inputs: Mapping[str, tuple[Dim, ...]]
    outputs: Mapping[str, tuple[Dim, ...]]
    called: frozenset[str]
    attentions: frozenset[str]
    prefix_tokens: int
    conv_inputs: Mapping[str, Dim]
    channels: Mapping[Dim, int]
    factors: Mapping[Dim, int]
    notes: tuple[str, ...]
    places: Places
    blocks: tuple[Branch, ...]

    def ends(self, stage: int) -> tuple[Branch, ...]:
        """Where a layer's output can be scaled: the residual branches of a stage, else its blocks."""
        residual = tuple(branch for branch in self.branches if branch.stage == stage)
        return residual or tuple(block for block in self.blocks if block.stage == stage)

    def owner(self, path: str) -> int | None:
        """The stage that a module goes with: what runs before a stage belongs to it, the head to none."""
        return self.places.owner(path)

    def convolutions(self, stage: int) -> tuple[str, ...]:
        """The convolutions with a kernel above one inside the blocks of a stage, in order of execution."""
        paths = [
            name.rpartition(".")[0] for name, dims in self.dims.items() if name in self.conv_inputs and _spatial(dims)
        ]
        blocks = self.stages[stage].blocks
        held = [path for path in paths if any(inside(path, block) for block in blocks)]
        return tuple(sorted(held, key=self.places.rank))

    def alike(self, stage: int) -> list[tuple[str, ...]]:
        """The blocks of a stage in groups of equal make: same modules, settings and shapes."""
        groups: dict[str, list[str]] = defaultdict(list)
        for path in self.stages[stage].blocks:
            groups[_make(self.model.get_submodule(path))].append(path)
        return [tuple(group) for group in groups.values()]


def anatomy_of(backbone: str, kwargs: Mapping[str, Any]) -> Anatomy:
    """Read a backbone; cached by name and arguments.

    Raises:
        SpaceError: timm has no such model, cannot build it so, or it does not run on the meta device.
    """
    return _anatomy(backbone, json.dumps(dict(kwargs), sort_keys=True))


@lru_cache(maxsize=1024)
def _anatomy(backbone: str, kwargs_json: str) -> Anatomy:
    kwargs = json.loads(kwargs_json)
    with torch.device("meta"):
        model = create(backbone, kwargs, num_classes=10, in_chans=3).eval()
        size = input_size(model, kwargs)
        image = torch.empty(2, 3, size, size)
    try:
        trace = Trace(model, image)
    except Exception as error:  # whatever a forward pass raises
        raise SpaceError(f"{backbone} does not run on an image of {size} x {size}: {error}") from None
    places = Places(model, trace)
    owners = {name: places.owner(name.rpartition(".")[0]) for name in trace.dims}
    channels, factors = _channels(trace, owners)
    return Anatomy(
        backbone=backbone,
        kwargs=kwargs,
        image_size=size,
        model=model,
        stages=places.stages,
        branches=tuple(_branches(model, trace, places)),
        blocks=tuple(_blocks(trace, places)),
        dims=trace.dims,
        inputs=trace.inputs,
        outputs=trace.outputs,
        called=frozenset(trace.order),
        attentions=frozenset(trace.attentions),
        prefix_tokens=int(getattr(model, "num_prefix_tokens", 0)),
        conv_inputs=trace.conv_inputs,
        channels=channels,
        factors=factors,
        notes=tuple(trace.notes),
        places=places,
    )


def input_size(model: nn.Module, kwargs: Mapping[str, Any]) -> int:
    """The side of the image a timm model expects: its `img_size`, else that of its default configuration."""
    size = kwargs.get("img_size")
    if isinstance(size, list | tuple):
        size = size[-1]
    config: Any = model.pretrained_cfg
    return int(size or config.get("input_size", (3, 224, 224))[-1])


def _spatial(dims: Sequence[Dim]) -> bool:
    return any(dim.find().size > 1 for dim in dims[2:])


def _branches(model: nn.Module, trace: Trace, places: Places) -> Iterator[Branch]:
    for addition in trace.additions:
        stage = places.stage_of(addition.module)
        if stage is not None:
            yield Branch(
                stage=stage,
                module=addition.module,
                target=_target(model, addition),
                producers=addition.producers,
                own_scale=addition.scale,
                parameters=addition.parameters,
                shortcut=addition.shortcut,
                **_layout(addition.dims, trace),
            )


def _blocks(trace: Trace, places: Places) -> Iterator[Branch]:
    """Blocks with one output; a convolution is taken together with the norm after it."""
    for index, stage in enumerate(places.stages):
        for block in stage.blocks:
            end = places.normed(block) if f"{block}.weight" in trace.conv_inputs else block
            if end in trace.outputs:
                layout = _layout(trace.outputs[end], trace)
                yield Branch(
                    stage=index, residual=False, module=block, target=end, producers=(end,), own_scale=None, **layout
                )


def _layout(dims: Sequence[Dim], trace: Trace) -> dict[str, Any]:
    """Axes after the channels, and a parameter that is as long as they are."""
    axis = channel_axis(dims)
    channels = dims[axis].find()
    found = ((n, i) for n, axes in trace.dims.items() for i, dim in enumerate(axes) if dim.find() is channels)
    return {"trailing": len(dims) - 1 - axis, "width": next(found, None)}


def channel_axis(dims: Sequence[Dim]) -> int:
    """The last axis that can change; where none can, the usual place: 1 of NCHW, else the last."""
    free = [axis for axis, dim in enumerate(dims) if not all(leaf.fixed for leaf in dim.leaves())]
    return free[-1] if free else (1 if len(dims) == 4 else len(dims) - 1)


def _target(model: nn.Module, addition: Addition) -> str | None:
    """Where a scale goes: an empty slot (nn.Identity) of the adding module, else its last part."""
    parts = [path for path in addition.producers if path.rpartition(".")[0] == addition.module]
    empty = [path for path in parts if type(model.get_submodule(path)) is nn.Identity]
    return next(iter([*empty, *reversed(parts), *reversed(addition.producers)]), None)


def _channels(trace: Trace, owners: Mapping[str, int | None]) -> tuple[dict[Dim, int], dict[Dim, int]]:
    """Which leaves are channels of which stage, and the constant factor each comes with."""
    channels: dict[Dim, int] = {}
    factors: dict[Dim, int] = {}
    for name, dims in trace.dims.items():
        stage = owners[name]
        if stage is not None and len(dims) >= 2:
            for leaf in dims[0].leaves():
                if not leaf.fixed:
                    channels[leaf] = min(stage, channels.get(leaf, stage))
        for dim in dims:
            for leaf, factor in _factors(dim, 1):
                factors[leaf] = min(factor, factors.get(leaf, factor))
    return channels, factors


def _factors(dim: Dim, outer: int) -> Iterator[tuple[Dim, int]]:
    node = dim.find()
    if node.kind is None:
        if not node.fixed:
            yield node, outer
        return
    constant = math.prod(part.find().size for part in node.parts if part.find().fixed) if node.kind == PRODUCT else 1
    for part in node.parts:
        yield from _factors(part, outer * constant)


def _make(block: nn.Module) -> str:
    """A block's modules, settings and shapes in words; dropout and stochastic depth (absent at rate 0) do not count."""
    words = []
    for path, module in block.named_modules():
        if type(module) is nn.Identity or "Drop" in type(module).__name__:
            continue
        settings = module.extra_repr()
        shapes = [(name, tuple(parameter.shape)) for name, parameter in module.named_parameters(recurse=False)]
        words.append(f"{path}:{type(module).__qualname__}({settings}){shapes}")
    return ";".join(words)
