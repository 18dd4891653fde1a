"""Which blocks of a backbone can be layers of layer attention, and where the shortcut of each is found.

A layer is a block with a residual addition, whose shortcut and output are tensors of the shape that most such
blocks of its stage have: [N, C, H, W], [N, H, W, C], or [N, tokens, C] with a square of tokens. Reads anatomies;
knows nothing of choices.
"""

import math
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from spaces.anatomy import Anatomy, Branch, channel_axis
from spaces.anatomy.dims import Dim
from spaces.anatomy.meta import meta_image, on_meta
from spaces.anatomy.stages import inside
from spaces.techniques.scaling.ends import length_of

TOKEN_RUN = 4  # blocks that see each other in a transformer, as in the reference's DeiT-base form

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Place:
    """A block that can be a layer.

    Attributes:
        block: its path.
        axis: that of the channels in what it puts out; 1 for [N, C, H, W], else the last.
        prefix: tokens in front of those of the image.
        shortcut: the module that gets or gives the shortcut of the block's first residual addition.
        given: whether the module gives it.
    """

    block: str
    axis: int
    prefix: int
    shortcut: str
    given: bool


@lru_cache(maxsize=4096)
def places(anatomy: Anatomy, stage: int) -> tuple[Place, ...]:
    """The layers of a stage; none where there are fewer than two."""
    shapes: dict[Shape, list[Place]] = defaultdict(list)
    for block in anatomy.stages[stage].blocks:
        branch = first_branch(anatomy, block)
        if branch is not None and block in anatomy.outputs:
            place = _place(anatomy, block, branch)
            if place is not None and _is_read(anatomy, place):
                shapes[_sizes(anatomy.outputs[block])].append(place)
    most = max(shapes.values(), key=len, default=[])
    return tuple(most) if len(most) > 1 else ()


def first_branch(anatomy: Anatomy, block: str) -> Branch | None:
    """The first residual branch that is added inside a block."""
    return next((branch for branch in anatomy.branches if inside(branch.module, block)), None)


def runs(places: tuple[Place, ...]) -> Iterator[tuple[Place, ...]]:
    """The layers that see each other: a whole stage of feature maps, a few blocks of tokens; none sees only itself."""
    length = len(places) if places[0].axis == 1 else TOKEN_RUN
    for start in range(0, len(places) - 1, length):
        yield places[start : start + length]


def widths(model: nn.Module, anatomy: Anatomy, places: Collection[Place]) -> dict[str, int]:
    """By block, the channels that it puts out as the model now is; it runs only where no parameter has as many."""
    channels = {place.block: anatomy.outputs[place.block][place.axis].find() for place in places}
    found = {block: length_of(model, anatomy, size) for block, size in channels.items()}
    if None in found.values():
        shapes = _shapes(model, anatomy, list(channels))
        return {place.block: shapes[place.block][1][place.axis] for place in places}
    return {block: length for block, length in found.items() if length is not None}


def _place(anatomy: Anatomy, block: str, branch: Branch) -> Place | None:
    out = anatomy.outputs[block]
    sizes, axis, prefix = _sizes(out), channel_axis(out), 0
    if len(out) == 3:
        side = math.isqrt(sizes[1])
        prefix = sizes[1] - side * side  # blocks may run before the class token is there
        if axis != 2 or side < 2 or prefix not in (0, anatomy.prefix_tokens):
            return None
    elif len(out) != 4 or axis not in (1, 3):
        return None
    givers = [path for path in branch.shortcut if path in anatomy.outputs and _sizes(anatomy.outputs[path]) == sizes]
    if not givers and (branch.shortcut or _given(anatomy).get(branch.module) != sizes):
        return None
    shortcut = givers[-1] if givers else branch.module
    return Place(block=block, axis=axis, prefix=prefix, shortcut=shortcut, given=bool(givers))


def _is_read(anatomy: Anatomy, place: Place) -> bool:
    """Whether anything looks at the image's tokens after it: not after the last block before a class token is read."""
    pooled = getattr(anatomy.model, "global_pool", None) == "token"
    return not (pooled and place.prefix and place.block == anatomy.stages[-1].blocks[-1])


def _sizes(dims: tuple[Dim, ...]) -> Shape:
    return tuple(dim.find().size for dim in dims)


@lru_cache(maxsize=64)
def _given(anatomy: Anatomy) -> dict[str, Shape]:
    """By adding module, the shape of its first argument."""
    shapes = _shapes(anatomy.model, anatomy, {branch.module for branch in anatomy.branches})
    return {path: given for path, (given, _) in shapes.items()}


def _shapes(model: nn.Module, anatomy: Anatomy, paths: Collection[str]) -> dict[str, tuple[Shape, Shape]]:
    """By module, the shapes of its first argument and of its output, from a run without data."""
    shapes: dict[str, tuple[Shape, Shape]] = {}
    shadow = on_meta(model)

    def watch(path: str) -> None:
        def hook(module: nn.Module, given: tuple[Any, ...], output: Any) -> None:
            shapes[path] = _shape(given[0] if given else None), _shape(output)

        shadow.get_submodule(path).register_forward_hook(hook)

    for path in paths:
        watch(path)
    size = anatomy.image_size
    with torch.no_grad():
        shadow(meta_image(shadow, (_image_channels(shadow, anatomy), size, size)))
    return shapes


def _shape(value: Any) -> Shape:
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def _image_channels(model: nn.Module, anatomy: Anatomy) -> int:
    """What the first convolution that runs takes in."""
    path = next(iter(anatomy.conv_inputs)).rpartition(".")[0]
    return next(module.in_channels for module in model.get_submodule(path).modules() if isinstance(module, nn.Conv2d))
