"""Give a model new channel counts, layer by layer, after the dimensions its anatomy found.

The mechanism behind `width` for every family: each parameter and buffer is cut or grown along its traced
dimensions, then the modules' own records of their sizes are corrected. Knows anatomy, nothing of choices.
"""

import math
from collections.abc import Mapping, Sequence
from functools import cache

import torch
from torch import Tensor, nn

from spaces.anatomy import Anatomy
from spaces.anatomy.dims import PRODUCT, Dim, SizeOf, traced
from spaces.resizing.counts import correct, free_sizes
from spaces.resizing.spread import gain_of

Kept = Mapping[Dim, Tensor]


def resize(
    model: nn.Module, anatomy: Anatomy, size_of: SizeOf, *, kept: Kept | None = None, fresh: nn.Module | None = None
) -> None:
    """Resize `model` in place so that each leaf of `anatomy.channels` has the size `size_of(leaf)`.

    New weights are drawn from the values that timm's initialisation gave the old ones, with their spread
    corrected to the new fan where the initialisation depends on it.

    Args:
        kept: by leaf, the old indices that live on with their weights, in ascending order; what else its new
            size has room for is new. Without it everything that changes its shape is new.
        fresh: the same backbone with initial weights, to draw from where those of `model` are trained.
    """
    source = fresh or model
    modules, tensors = dict(model.named_modules()), _tensors(model)
    initial = tensors if source is model else _tensors(source)
    gain = None if next(model.parameters()).is_meta else gain_of(source, anatomy, size_of)
    evaluated = cache(lambda node: node.evaluate(size_of))
    sizes: dict[str, list[tuple[int, int]]] = {}
    for name, dims in free_sizes(anatomy).items():
        tensor = tensors[name]
        old = tuple(tensor.shape)  # where nothing can change, the model's own: its classes differ from the traced ones
        shape = tuple(now if dim is None else evaluated(dim) for dim, now in zip(dims, old, strict=True))
        sizes[name] = [(dim.find().size, now) for dim, now in zip(anatomy.dims[name], shape, strict=True)]
        value = tensor
        if shape != old:
            if gain is None:
                value = torch.empty(shape, dtype=tensor.dtype, device="meta")
            elif tensor.requires_grad:
                value = _redrawn(initial[name], shape) * gain(name, shape)
            else:
                value = _selected(initial[name], [_spread_out(dim, size_of) for dim in anatomy.dims[name]])
        if kept is not None:
            value = inherited(tensor.detach(), value, [indices(dim, size_of, kept) for dim in anatomy.dims[name]])
        if value is not tensor:
            path, _, leaf = name.rpartition(".")
            is_parameter = isinstance(tensor, nn.Parameter)
            setattr(modules[path], leaf, nn.Parameter(value, tensor.requires_grad) if is_parameter else value)
    correct(model, anatomy, size_of, sizes)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def indices(dim: Dim, size_of: SizeOf, kept: Kept, before: SizeOf = traced) -> Tensor | None:
    """For each new index the old one that it continues, -1 for none; None where all stay.

    Args:
        before: the size that each leaf had; by default that of the unmodified backbone.
    """
    node = dim.find()
    if node.is_fixed:
        return None
    if node.kind is None:
        size = size_of(node)
        old = kept.get(node, torch.arange(min(size, before(node))))
        return torch.cat([old, old.new_full((size - len(old),), -1)])
    parts = [(part.evaluate(before), indices(part, size_of, kept, before)) for part in node.parts]
    known = [(size, torch.arange(size) if continued is None else continued) for size, continued in parts]
    total = known[0][1] if node.kind == PRODUCT else torch.empty(0, dtype=torch.long)
    offset = 0
    for size, continued in known[1:] if node.kind == PRODUCT else known:
        if node.kind == PRODUCT:
            outer, inner = total[:, None], continued[None, :]
            total = torch.where((outer < 0) | (inner < 0), -1, outer * size + inner).flatten()
        else:
            total = torch.cat([total, torch.where(continued < 0, -1, continued + offset)])
            offset += size
    return total


def _spread_out(dim: Dim, size_of: SizeOf) -> Tensor | None:
    """For each new index of a constant (a filter, a table, a statistic) an old one: each second one, or each twice."""
    every = {leaf: torch.arange(size_of(leaf)) * leaf.size // size_of(leaf) for leaf in dim.leaves()}
    return indices(dim, size_of, every)


def _selected(tensor: Tensor, continued: Sequence[Tensor | None]) -> Tensor:
    for place, axis in enumerate(continued):
        if axis is not None:
            tensor = tensor.index_select(place, axis.to(tensor.device))
    return tensor


def inherited(old: Tensor, new: Tensor, continued: Sequence[Tensor | None]) -> Tensor:
    """The new tensor with the old values wherever every axis continues an old index (of `indices`)."""
    if all(axis is None for axis in continued):
        return new
    inherits = torch.ones((), dtype=torch.bool, device=old.device)
    for place, axis in enumerate(continued):
        if axis is not None:
            inherits = inherits & (axis >= 0).to(old.device).view(-1, *[1] * (old.ndim - 1 - place))
    values = _selected(old, [axis if axis is None else axis.clamp(min=0) for axis in continued])
    return torch.where(inherits, values, new.detach())


def _redrawn(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """A tensor of a new shape whose values are drawn from those of the old one."""
    flat = tensor.detach().reshape(-1)
    if flat.is_meta:
        return torch.empty(*shape, dtype=flat.dtype, device="meta")
    return flat[torch.randint(len(flat), (math.prod(shape),), device=flat.device)].reshape(*shape)
