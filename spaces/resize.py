"""Give a model new channel counts, layer by layer, after the dimensions its anatomy found.

The mechanism behind `width` for every family: each parameter and buffer is cut or grown along its traced
dimensions, then the modules' own records of their sizes are corrected. Knows anatomy, nothing of choices.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from spaces.anatomy import Anatomy
from spaces.dims import Dim

SizeOf = Callable[[Dim], int]

# Attributes in which timm and torch modules keep channel counts; verified by running the result.
_COUNTS = (
    "in_channels", "out_channels", "in_features", "out_features", "num_features", "normalized_shape",
    "num_channels", "head_dim", "dim_head", "attn_dim", "dim", "dim_out", "embed_dim", "head_hidden_size",
    "key_dim", "val_dim", "val_attn_dim", "key_attn_dim", "key_attn_space", "d", "dh", "nh_kd", "channels",
    "pre_norm_dim", "in_chs", "out_chs", "feature_dim", "attn_head_dim", "mid_chs", "internal_dim",
)  # fmt: skip


def resize(model: nn.Module, anatomy: Anatomy, size_of: SizeOf) -> None:
    """Resize `model` in place so that each leaf of `anatomy.channels` has the size `size_of(leaf)`.

    New weights are drawn from the values that timm's initialisation gave the old ones, with their spread
    corrected to the new fan where the initialisation depends on it.
    """
    gain = _gain(model, anatomy, size_of)
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    sizes: dict[str, list[tuple[int, int]]] = {}
    for name, dims in anatomy.dims.items():
        tensor = tensors[name]
        shape = [_size(dim, old, size_of) for dim, old in zip(dims, tensor.shape, strict=True)]
        sizes[name] = list(zip((dim.find().size for dim in dims), shape, strict=True))
        if tuple(shape) != tuple(tensor.shape):
            constant = not tensor.requires_grad  # running statistics, fixed filters
            _replace(model, name, _repeated(tensor, shape) if constant else _redrawn(tensor, shape) * gain(name, shape))
    _correct(model, anatomy, size_of, sizes)


def _size(dim: Dim, now: int, size_of: SizeOf) -> int:
    """The new size; where nothing can change, the model's own (its classes differ from the traced ones)."""
    return now if all(leaf.fixed for leaf in dim.leaves()) else dim.evaluate(size_of)


def _redrawn(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """A tensor of a new shape whose values are drawn from those of the old one."""
    flat = tensor.detach().reshape(-1)
    if flat.is_meta:
        return torch.empty(*shape, dtype=flat.dtype, device="meta")
    return flat[torch.randint(len(flat), (math.prod(shape),), device=flat.device)].reshape(*shape)


def _repeated(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """A tensor of a new shape whose slices are those of the old one in order, from the start again where it grows."""
    for axis, size in enumerate(shape):
        tensor = tensor.index_select(axis, torch.arange(size, device=tensor.device) % tensor.shape[axis])
    return tensor


def _replace(model: nn.Module, name: str, value: Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    old = getattr(module, leaf)
    if isinstance(old, nn.Parameter):
        setattr(module, leaf, nn.Parameter(value, requires_grad=old.requires_grad))
    else:
        setattr(module, leaf, value)


def _gain(model: nn.Module, anatomy: Anatomy, size_of: SizeOf) -> Callable[[str, Sequence[int]], float]:
    """How much wider new weights spread than old ones, by the initialisation law that the model follows.

    The law of a kind of layer is the one under which its weights' standard deviations vary least: constant
    (0.02 in ViT, ConvNeXt), by fan in, by fan out (ResNet, EfficientNet), or by both.
    """
    weights = {
        f"{path}.weight": module.weight
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd) and f"{path}.weight" in anatomy.dims
    }
    kinds: dict[tuple[int, bool], list[str]] = defaultdict(list)
    for name, weight in weights.items():
        if not weight.is_meta and float(weight.detach().std()) > 0:
            kinds[weight.ndim, weight.shape[1] == 1].append(name)
    laws: dict[str, Callable[[Sequence[int], int], float]] = {}
    for names in kinds.values():
        spread = {
            law: _spread(
                [math.log(float(weights[n].detach().std()) / law(weights[n].shape, _groups(model, n))) for n in names]
            )
            for law in _LAWS
        }
        best = min(_LAWS, key=lambda law: spread[law]) if len(names) > 1 else _law_of_one(weights[names[0]])
        laws.update(dict.fromkeys(names, best))

    def gain(name: str, shape: Sequence[int]) -> float:
        if name not in laws:
            return 1.0
        old, groups = weights[name].shape, _groups(model, name)
        new_groups = max(1, groups * _groups_ratio(anatomy, name, size_of))
        return laws[name](shape, round(new_groups)) / laws[name](old, groups)

    return gain


def _groups_ratio(anatomy: Anatomy, name: str, size_of: SizeOf) -> float:
    """New groups over old groups of the convolution with this weight."""
    if name not in anatomy.conv_inputs:
        return 1.0
    channels, inner = anatomy.conv_inputs[name], anatomy.dims[name][1]
    new = _size(channels, channels.find().size, size_of) / _size(inner, inner.find().size, size_of)
    return new / (channels.find().size / inner.find().size)


def _groups(model: nn.Module, name: str) -> int:
    return int(getattr(model.get_submodule(name.rpartition(".")[0]), "groups", 1))


def _law_of_one(weight: Tensor) -> Callable[[Sequence[int], int], float]:
    """By fan in where the spread is that of LeCun (1), He (sqrt 2) or torch's default (sqrt 1/3), else constant."""
    relative = float(weight.detach().std()) / _fan_in(weight.shape, 1)
    return _fan_in if any(math.isclose(relative, k**0.5, rel_tol=0.1) for k in (1, 2, 1 / 3)) else _constant


def _spread(values: Sequence[float]) -> float:
    mean = sum(values) / len(values)
    return sum((value - mean) ** 2 for value in values)


def _fan_in(shape: Sequence[int], groups: int) -> float:
    return 1 / math.sqrt(math.prod(shape[1:]))


def _fan_out(shape: Sequence[int], groups: int) -> float:
    return 1 / math.sqrt(shape[0] // groups * math.prod(shape[2:]))


def _fan_sum(shape: Sequence[int], groups: int) -> float:
    return 1 / math.sqrt((shape[0] + shape[1]) * math.prod(shape[2:]))


def _constant(shape: Sequence[int], groups: int) -> float:
    return 1.0


_LAWS = (_fan_in, _fan_out, _fan_sum, _constant)


def _correct(
    model: nn.Module, anatomy: Anatomy, size_of: SizeOf, sizes: Mapping[str, Sequence[tuple[int, int]]]
) -> None:
    """Bring the modules' records of their own sizes in line with their new weights."""
    for path, module in model.named_modules():
        changes = _changes(path, anatomy, size_of, sizes)
        for attribute in _COUNTS:
            old = vars(module).get(attribute)
            if isinstance(old, tuple) and len(old) == 1:
                setattr(module, attribute, (changes.get(old[0], old[0]),))
            elif isinstance(old, int) and not isinstance(old, bool):
                setattr(module, attribute, changes.get(old, old))
        if isinstance(module, nn.modules.conv._ConvNd):
            _correct_convolution(module, f"{path}.weight", anatomy, size_of)
        _correct_scale(module, changes)


def _changes(
    path: str, anatomy: Anatomy, size_of: SizeOf, sizes: Mapping[str, Sequence[tuple[int, int]]]
) -> dict[int, int]:
    """Old to new sizes that occur in a module, its own parameters last, as they are the surest."""
    changes: dict[int, int] = {}
    prefix = f"{path}." if path else ""
    names = [name for name in sizes if name.startswith(prefix)]
    for name in names:
        for dim in anatomy.dims[name]:
            for part in (*dim.leaves(), *dim.find().parts):
                node = part.find()
                changes[node.size] = _size(node, node.size, size_of)
    for name in sorted(names, key=lambda name: -name.count(".")):
        changes.update(sizes[name])
    return changes


def _correct_convolution(module: Any, weight: str, anatomy: Anatomy, size_of: SizeOf) -> None:
    if weight in anatomy.conv_inputs and module.in_channels:
        inner = module.weight.shape[1]
        channels = anatomy.conv_inputs[weight]
        module.in_channels = _size(channels, module.in_channels, size_of)
        module.out_channels = module.weight.shape[0]
        module.groups = module.in_channels // inner


def _correct_scale(module: nn.Module, changes: Mapping[int, int]) -> None:
    """Attention that keeps head_dim ** -0.5 as `scale`."""
    scale = vars(module).get("scale")
    if isinstance(scale, float) and scale > 0:
        old = round(scale**-2)
        if old in changes and math.isclose(old**-0.5, scale, rel_tol=1e-6):
            module.scale = changes[old] ** -0.5
