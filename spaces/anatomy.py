"""The anatomy of a timm model: stages, blocks, residual branches and channels, read from the model itself.

No table of families: everything here follows from one watched forward pass (`spaces.trace`). Techniques act
on what they find here, and say why where it is missing.
"""

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from spaces.backbone import create
from spaces.dims import PRODUCT, Dim
from spaces.errors import SpaceError
from spaces.trace import Addition, Trace


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A run of blocks.

    Attributes:
        root: the module that holds the stage and nothing of another, as `layer1` or `stages.0`.
        blocks: its blocks in order of execution.
    """

    root: str
    blocks: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Branch:
    """A residual branch.

    Attributes:
        stage: index of its stage.
        module: the module in whose forward it is added to the shortcut.
        target: the module whose output is the branch; None where the end of the branch is no module.
        producers: the modules that put out the branch as it is added, the innermost first.
        own_scale: the parameter with which the model itself scales the branch, if any.
        trailing: axes after the channels (2 for NCHW, 0 for tokens).
        width: a parameter and its axis that is as long as the branch has channels.
    """

    stage: int
    module: str
    target: str | None
    producers: tuple[str, ...]
    own_scale: str | None
    trailing: int
    width: tuple[str, int] | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Anatomy:
    """What a backbone is made of, traced on the meta device with 3 channels and 10 classes.

    Attributes:
        image_size: the side of the image it was traced with.
        model: the traced model, on the meta device; never changed.
        dims: dimensions of every parameter and buffer that takes part in the forward pass.
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
    conv_inputs: Mapping[str, Dim]
    channels: Mapping[Dim, int]
    factors: Mapping[Dim, int]
    notes: tuple[str, ...]

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
    stages = tuple(_stages(model, trace))
    owners = _owners(model, trace, stages)
    channels, factors = _channels(trace, owners)
    return Anatomy(
        backbone=backbone,
        kwargs=kwargs,
        image_size=size,
        model=model,
        stages=stages,
        branches=tuple(_branches(model, trace, stages)),
        dims=trace.dims,
        conv_inputs=trace.conv_inputs,
        channels=channels,
        factors=factors,
        notes=tuple(trace.notes),
    )


def input_size(model: nn.Module, kwargs: Mapping[str, Any]) -> int:
    """The side of the image a timm model expects: its `img_size`, else that of its default configuration."""
    size = kwargs.get("img_size")
    if isinstance(size, list | tuple):
        size = size[-1]
    config: Any = model.pretrained_cfg
    return int(size or config.get("input_size", (3, 224, 224))[-1])


def _inside(path: str, parent: str) -> bool:
    return path == parent or path.startswith(f"{parent}.")


def _ancestors(path: str) -> Iterator[str]:
    """The path itself, then its parents, without the root."""
    while path:
        yield path
        path = path.rpartition(".")[0]


def _stages(model: nn.Module, trace: Trace) -> Iterator[Stage]:
    """The containers in which residual additions happen, in order of execution."""
    containers: list[str] = []
    for addition in trace.additions:
        container = _container(model, addition)
        if container and container not in containers:
            containers.append(container)
    for container in containers:
        root = container
        for parent in _ancestors(container.rpartition(".")[0]):
            if any(_inside(other, parent) for other in containers if other != container):
                break
            root = parent
        children = [name for name, _ in model.get_submodule(container).named_children()]
        blocks = [f"{container}.{name}" for name in children]
        yield Stage(root=root, blocks=tuple(sorted(blocks, key=_rank(trace))))


def _rank(trace: Trace) -> Any:
    return lambda path: trace.order.index(path) if path in trace.order else len(trace.order)


def _container(model: nn.Module, addition: Addition) -> str:
    """The innermost sequence of blocks around an addition, else the parent of the adding module."""
    parent = addition.module.rpartition(".")[0]
    for path in _ancestors(parent):
        if isinstance(model.get_submodule(path), nn.Sequential | nn.ModuleList):
            return path
    return parent


def _stage_of(path: str, stages: tuple[Stage, ...]) -> int | None:
    return next((index for index, stage in enumerate(stages) if _inside(path, stage.root)), None)


def _branches(model: nn.Module, trace: Trace, stages: tuple[Stage, ...]) -> Iterator[Branch]:
    for addition in trace.additions:
        stage = _stage_of(addition.module, stages)
        if stage is None:
            continue
        axis = _channel_axis(addition)
        channels = addition.dims[axis].find()
        width = next(
            ((n, i) for n, dims in trace.dims.items() for i, dim in enumerate(dims) if dim.find() is channels),
            None,
        )
        yield Branch(
            stage=stage,
            module=addition.module,
            target=_target(model, addition),
            producers=addition.producers,
            own_scale=addition.scale,
            trailing=len(addition.dims) - 1 - axis,
            width=width,
        )


def _channel_axis(addition: Addition) -> int:
    """The last axis that can change; where none can, the usual place: 1 of NCHW, else the last."""
    free = [axis for axis, dim in enumerate(addition.dims) if not all(leaf.fixed for leaf in dim.leaves())]
    return free[-1] if free else (1 if len(addition.dims) == 4 else len(addition.dims) - 1)


def _target(model: nn.Module, addition: Addition) -> str | None:
    """Where a scale goes: an empty slot (nn.Identity) of the adding module, else its last part."""
    parts = [path for path in addition.producers if path.rpartition(".")[0] == addition.module]
    empty = [path for path in parts if type(model.get_submodule(path)) is nn.Identity]
    return next(iter([*empty, *reversed(parts), *reversed(addition.producers)]), None)


def _owners(model: nn.Module, trace: Trace, stages: tuple[Stage, ...]) -> dict[str, int | None]:
    """The stage whose width a parameter follows; what runs before a stage belongs to it, the head to none."""
    rank = _rank(trace)
    starts = [min(rank(stage.root), *(rank(block) for block in stage.blocks)) for stage in stages]
    owners: dict[str, int | None] = {}
    for name in trace.dims:
        path = name.rpartition(".")[0]
        stage = _stage_of(path, stages)
        if stage is None:
            place = rank(path) if path else -1
            stage = next((index for index, start in enumerate(starts) if place < start), None)
            if not stages:
                stage = 0
        owners[name] = stage
    return owners


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
