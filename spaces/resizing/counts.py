"""The numbers in which modules keep their own sizes, brought in line with new weights.

Which numbers those are is told by their names and by the sizes they had; running the result verifies it.
"""

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from typing import Any

from torch import nn

from spaces.anatomy import Anatomy, channel_axis
from spaces.anatomy.dims import Dim, SizeOf
from spaces.anatomy.stages import ancestors

Sizes = Mapping[str, Sequence[tuple[int, int]]]

# Words in the names of attributes in which timm and torch modules keep channel counts.
_COUNTS = re.compile(
    r"chan|chs|dim|features|width|split|planes|hidden_size|input_size|attn_space|d_inner|growth_rate"
    r"|^(normalized_shape|shape|inc|num_1x1_c|d|dh|nh_kd)$"
)


def correct(model: nn.Module, anatomy: Anatomy, size_of: SizeOf, sizes: Sizes) -> None:
    """Bring the modules' records of their own sizes in line with their new weights.

    Args:
        sizes: by parameter and buffer, for each axis the size it was traced with and the size it has now.
    """
    evaluated = cache(lambda node: node.evaluate(size_of))
    known = {name: {node.size: evaluated(node) for node in nodes} for name, nodes in _free_parts(anatomy).items()}
    for path, module in model.named_modules():
        counts = {name: old for name, old in vars(module).items() if type(old) in (int, tuple, list) and _counts(name)}
        if counts or isinstance(vars(module).get("scale"), float):
            own = _own(path, anatomy, sizes)
            changes = _changes(path, anatomy, known, sizes)
            changes |= {node.size: evaluated(node) for node in _passed(anatomy).get(path, ())}
            changes |= own
            for attribute, old in counts.items():
                if (new := _exchanged(old, changes, own)) != old:
                    setattr(module, attribute, new)
        if isinstance(module, nn.Linear):
            module.out_features, module.in_features = module.weight.shape
        elif isinstance(module, nn.GroupNorm):
            module.num_groups = math.gcd(module.num_groups, module.num_channels)
        elif isinstance(module, nn.modules.conv._ConvNd):
            _correct_convolution(module, f"{path}.weight", anatomy, size_of)
        if isinstance(vars(module).get("scale"), float):
            _correct_scale(module, changes)
    _correct_features(model, anatomy, size_of)


@cache
def _counts(attribute: str) -> bool:
    """Whether an attribute is known for channel counts."""
    return bool(_COUNTS.search(attribute)) and not attribute.startswith("_")


def _exchanged(value: Any, changes: Mapping[int, int], own: Mapping[int, int]) -> Any:
    """A count, or a row of counts, brought up to date; it may be a multiple of the one size that a module changed."""
    if type(value) in (tuple, list):
        return type(value)(_exchanged(item, changes, own) for item in value)
    if type(value) is not int or value in changes:
        return changes.get(value, value) if type(value) is int else value
    unit = next(iter(own)) if len(own) == 1 else 0
    return value // unit * own[unit] if unit and value % unit == 0 else value


def _free(dims: Sequence[Dim]) -> tuple[Dim, ...]:
    """Those axes, and what they are made of, that can change."""
    nodes = [part.find() for dim in dims for part in (*dim.leaves(), *dim.find().parts, dim)]
    return tuple(node for node in nodes if not node.is_fixed)


@lru_cache(maxsize=256)
def free_sizes(anatomy: Anatomy) -> dict[str, tuple[Dim | None, ...]]:
    """By parameter and buffer each axis, None where it cannot change."""
    return {name: tuple(None if dim.is_fixed else dim.find() for dim in dims) for name, dims in anatomy.dims.items()}


@lru_cache(maxsize=256)
def _free_parts(anatomy: Anatomy) -> dict[str, tuple[Dim, ...]]:
    """By parameter and buffer."""
    return {name: _free(dims) for name, dims in anatomy.dims.items()}


@lru_cache(maxsize=256)
def _passed(anatomy: Anatomy) -> dict[str, tuple[Dim, ...]]:
    """By module, of what goes in and what comes out."""
    paths = dict.fromkeys((*anatomy.inputs, *anatomy.outputs))
    return {path: _free(anatomy.inputs.get(path, ())) + _free(anatomy.outputs.get(path, ())) for path in paths}


@lru_cache(maxsize=256)
def _inside(anatomy: Anatomy) -> dict[str, tuple[str, ...]]:
    """By module, the parameters and buffers in it."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in anatomy.dims:
        for path in (*ancestors(name.rpartition(".")[0]), ""):
            found[path].append(name)
    return {path: tuple(names) for path, names in found.items()}


def _changes(path: str, anatomy: Anatomy, known: Mapping[str, Mapping[int, int]], sizes: Sizes) -> dict[int, int]:
    """Old to new sizes inside a module; what is nearest to it counts most."""
    names = _inside(anatomy).get(path, ())
    changes: dict[int, int] = {}
    for name in names:
        changes.update(known[name])
    for name in sorted(names, key=lambda name: -name.count(".")):
        changes.update((old, new) for old, new in sizes[name] if old != new)
    return changes


def _own(path: str, anatomy: Anatomy, sizes: Sizes) -> dict[int, int]:
    """Old to new sizes of a module's own parameters and buffers, as sure as its output."""
    own = (name for name in _inside(anatomy).get(path, ()) if name.rpartition(".")[0] == path)
    return {old: new for name in own for old, new in sizes[name] if old != new}


def _correct_convolution(module: Any, weight: str, anatomy: Anatomy, size_of: SizeOf) -> None:
    """A convolution in groups keeps the width of a group; a `scale` is that of standardised weights, by fan in."""
    if weight not in anatomy.conv_inputs:
        return
    if isinstance(vars(module).get("scale"), float):
        module.scale *= math.sqrt(anatomy.dims[weight][1].find().size / module.weight.shape[1])
    channels = anatomy.conv_inputs[weight]
    if not channels.is_fixed:
        module.in_channels = channels.evaluate(size_of)
    else:
        module.in_channels = module.weight.shape[0] if module.transposed else module.groups * module.weight.shape[1]
    module.out_channels = module.weight.shape[1 if module.transposed else 0]
    if not module.transposed:
        module.groups = module.in_channels // module.weight.shape[1]


def _correct_scale(module: nn.Module, changes: Mapping[int, int]) -> None:
    """Attention that keeps head_dim ** -0.5 as `scale`."""
    scale = vars(module)["scale"]
    if scale > 0:
        old = round(scale**-2)
        if old in changes and math.isclose(old**-0.5, scale, rel_tol=1e-6):
            module.scale = changes[old] ** -0.5


def _correct_features(model: nn.Module, anatomy: Anatomy, size_of: SizeOf) -> None:
    """timm's list of what comes out where; it may be shared by all models of one class, so a new one is made."""
    infos = getattr(model, "feature_info", None)
    if not isinstance(infos, list):
        return
    now = [{**info, "num_chs": _channels_out(anatomy, info["module"], info["num_chs"], size_of)} for info in infos]
    vars(model)["feature_info"] = now


def _channels_out(anatomy: Anatomy, path: str, channels: int, size_of: SizeOf) -> int:
    dims = anatomy.outputs.get(path, ())
    axis = dims[channel_axis(dims)] if dims else None
    return axis.evaluate(size_of) if axis is not None and axis.find().size == channels else channels
