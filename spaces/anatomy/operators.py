"""What each operator does to the dimensions of its tensors, one rule an operator.

Rules get the operator's arguments, the dimensions of its tensor inputs and its outputs, and merge or cut
dimensions as the operator demands. Knows `spaces.anatomy.dims` and shapes, nothing of models.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from spaces.anatomy.dims import SUM, Dim, DimError, product_of, reshape, split, sum_of, unify

aten = torch.ops.aten


def dims_after(func: Any, args: Any, axes: list[list[Dim]], outputs: Sequence[Tensor]) -> list[list[Dim]]:
    """The dimensions of each output of an aten operator.

    Raises:
        DimError: there is no rule for it, or sizes that it makes equal cannot be.
    """
    packet = func.overloadpacket
    if packet in _RULES:
        return _RULES[packet](args, axes, outputs)
    if not axes:
        return [[Dim(size, fixed=True) for size in tensor.shape] for tensor in outputs]
    if torch.Tag.pointwise in func.tags or packet in _POINTWISE:
        return [_pointwise(axes, tensor) for tensor in outputs]
    if packet in _SPATIAL:
        return [_same_sizes(axes[0], tensor) for tensor in outputs]
    raise DimError("no rule for this operator")


def _convolution(args: Any, axes: list[list[Dim]], outputs: Sequence[Tensor]) -> list[list[Dim]]:
    """[N, C, *S] with weight [O, I, *K]: C is groups x I, O is groups x (O / groups)."""
    data, weight, groups, transposed = axes[0], axes[1], args[8], args[6]
    for kernel in weight[2:]:
        kernel.fix()
    if groups == 1:
        source, target = reversed(weight[:2]) if not transposed else weight[:2]
        unify(data[1], source)
    elif transposed:
        raise DimError("a transposed convolution in groups")
    else:
        target = weight[0]
        inward = split(data[1], [groups, weight[1].find().size], free=0)
        outward = split(target, [groups, target.find().size // groups], free=0)
        unify(inward[0], outward[0])
        unify(inward[1], weight[1])
    if len(axes) > 2:
        unify(axes[2][0], target)
    return [_same_sizes([data[0], target, *data[2:]], outputs[0])]


def _pointwise(axes: Sequence[list[Dim]], out: Tensor) -> list[Dim]:
    """Broadcasting: sizes that meet are one size."""
    result: list[Dim] = [Dim(1) for _ in out.shape]
    for dims in axes:
        for place in range(1, len(dims) + 1):
            if dims[-place].find().size != 1:
                known = result[-place]
                result[-place] = dims[-place] if known.find().size == 1 else unify(known, dims[-place])
    return result


def _same_sizes(dims: Sequence[Dim], out: Tensor) -> list[Dim]:
    """Pooling, padding, softmax: an axis that keeps its size stays, any other cannot change."""
    if len(dims) != out.ndim:
        raise DimError(f"{len(dims)} axes become {out.ndim}")
    for dim, size in zip(dims, out.shape, strict=True):
        if dim.find().size != size:
            dim.fix()
    return [
        dim if dim.find().size == size else Dim(size, fixed=True) for dim, size in zip(dims, out.shape, strict=True)
    ]


def _reduced(args: Any, axes: Any, outputs: Sequence[Tensor]) -> list[list[Dim]]:
    dims, places = axes[0], args[1] if len(args) > 1 else None
    places = range(len(dims)) if not places and places != 0 else [places] if isinstance(places, int) else places
    gone = {place % len(dims) for place in places}
    if outputs[0].ndim == len(dims):
        left = [Dim(1) if place in gone else dim for place, dim in enumerate(dims)]
    else:
        left = [dim for place, dim in enumerate(dims) if place not in gone]
    return [left for _ in outputs]


def _permuted(args: Any, axes: Any, outputs: Any) -> list[list[Dim]]:
    return [[axes[0][place] for place in args[1]]]


def _transposed(args: Any, axes: Any, outputs: Any) -> list[list[Dim]]:
    dims = list(axes[0])
    one, two = args[1:3] if len(args) > 1 else (0, -1)
    if dims:
        dims[one], dims[two] = dims[two], dims[one]
    return [dims]


def _viewed(args: Any, axes: Any, outputs: Any) -> list[list[Dim]]:
    return [reshape(axes[0], outputs[0].shape)]


def _expanded(args: Any, axes: Any, outputs: Any) -> list[list[Dim]]:
    """Copies along an axis: as many as what they meet has."""
    old, shape = axes[0], outputs[0].shape
    padded = [Dim(1)] * (len(shape) - len(old)) + list(old)
    return [[dim if dim.find().size == size else Dim(size) for dim, size in zip(padded, shape, strict=True)]]


def _matmul(args: Any, axes: Any, outputs: Any) -> list[list[Dim]]:
    """[.., n, k] @ [.., k, m]."""
    left, right = axes
    unify(left[-1], right[-2])
    batch = [unify(one, two) for one, two in zip(left[:-2], right[:-2], strict=True)]
    return [[*batch, left[-2], right[-1]]]


def _addmm(args: Any, axes: Any, outputs: Any) -> list[list[Dim]]:
    bias, left, right = axes
    unify(left[-1], right[-2])
    if bias[-1].find().size != 1:
        unify(bias[-1], right[-1])
    return [[left[0], right[-1]]]


def _batch_norm(args: Any, axes: Any, outputs: Any) -> list[list[Dim]]:
    for dims in axes[1:]:
        unify(dims[0], axes[0][1])
    return [list(axes[0]), *([Dim(size, fixed=True) for size in tensor.shape] for tensor in outputs[1:])]


def _layer_norm(args: Any, axes: Any, outputs: Any) -> list[list[Dim]]:
    for dims in axes[1:]:
        for place in range(1, len(dims) + 1):
            unify(dims[-place], axes[0][-place])
    return [list(axes[0]), *([Dim(size, fixed=True) for size in tensor.shape] for tensor in outputs[1:])]


def _group_norm(args: Any, axes: Any, outputs: Any) -> list[list[Dim]]:
    groups = args[6]
    if groups > 1:
        split(axes[0][1], [groups, axes[0][1].find().size // groups])
    return _batch_norm(args, axes, outputs)


def _cat(args: Any, axes: Any, outputs: Any) -> list[list[Dim]]:
    place = args[1] if len(args) > 1 else 0
    axes = [dims for dims in axes if len(dims) == outputs[0].ndim]
    place %= outputs[0].ndim
    result = list(axes[0])
    for dims in axes[1:]:
        result = [one if i == place else unify(one, two) for i, (one, two) in enumerate(zip(result, dims, strict=True))]
    result[place] = sum_of(dims[place] for dims in axes)
    return [result]


def _stacked(args: Any, axes: Any, outputs: Any) -> list[list[Dim]]:
    place = (args[1] if len(args) > 1 else 0) % outputs[0].ndim
    result = list(axes[0])
    for dims in axes[1:]:
        result = [unify(one, two) for one, two in zip(result, dims, strict=True)]
    return [[*result[:place], Dim(len(axes), fixed=True), *result[place:]]]


def _split(args: Any, axes: Any, outputs: Any) -> list[list[Dim]]:
    dims = axes[0]
    place = (args[2] if len(args) > 2 else 0) % len(dims)
    sizes = [tensor.shape[place] for tensor in outputs]
    parts = split(dims[place], sizes, SUM)
    if isinstance(args[1], int) and sizes[-1] < sizes[0]:
        parts[-1].find().near = parts[0]
    return [[*dims[:place], part, *dims[place + 1 :]] for part in parts]


def _unbound(args: Any, axes: Any, outputs: Any) -> list[list[Dim]]:
    dims = axes[0]
    place = (args[1] if len(args) > 1 else 0) % len(dims)
    dims[place].fix()
    return [[*dims[:place], *dims[place + 1 :]] for _ in outputs]


def _sliced(args: Any, axes: Any, outputs: Any) -> list[list[Dim]]:
    dims, place = axes[0], (args[1] if len(args) > 1 else 0) % len(axes[0])
    whole, size = dims[place].find().size, outputs[0].shape[place]
    if size == whole:
        return [list(dims)]
    start = args[2] if len(args) > 2 and args[2] is not None else 0
    start = max(0, start + whole if start < 0 else start)
    step = args[4] if len(args) > 4 else 1
    if step > 1 and whole % step == 0 and size * step == whole:
        part = split(dims[place], [size, step], free=0)[0]
    elif step != 1 or dims[place].is_fixed:
        dims[place].fix()
        part = Dim(size, fixed=True)
    else:
        sizes = [piece for piece in (start, size, whole - start - size) if piece]
        part = split(dims[place], sizes, SUM)[1 if start else 0]
    return [[*dims[:place], part, *dims[place + 1 :]]]


def _squeezed(args: Any, axes: Any, outputs: Any) -> list[list[Dim]]:
    kept = [dim for dim in axes[0] if dim.find().size != 1]
    shape, result = outputs[0].shape, []
    for size in shape:
        result.append(Dim(1) if size == 1 else kept.pop(0))
    return [result]


def _indexed(args: Any, axes: Any, outputs: Any) -> list[list[Dim]]:
    """A look-up x[:, i, j]: neighbouring axes with indices become the axes of the (broadcast) indices."""
    places = [place for place, index in enumerate(args[1]) if index is not None]
    first, last = places[0], places[-1]
    mask = any(args[1][place].dtype == torch.bool for place in places)
    if mask or places != list(range(first, last + 1)):
        raise DimError("an index by truth values, or on axes that are no neighbours")
    for dim in (*(axes[0][place] for place in places), *(dim for index in axes[1:] for dim in index)):
        dim.fix()
    count = outputs[0].ndim - (len(axes[0]) - len(places))
    looked_up = [Dim(size, fixed=True) for size in outputs[0].shape[first : first + count]]
    return [[*axes[0][:first], *looked_up, *axes[0][last + 1 :]]]


def _selected(args: Any, axes: Any, outputs: Any) -> list[list[Dim]]:
    place = args[1] % len(axes[0])
    for dim in (axes[0][place], *axes[1]):
        dim.fix()
    return [[*axes[0][:place], Dim(outputs[0].shape[place], fixed=True), *axes[0][place + 1 :]]]


def _repeated(args: Any, axes: Any, outputs: Any) -> list[list[Dim]]:
    times = args[1]
    padded = [Dim(1)] * (len(times) - len(axes[0])) + list(axes[0])
    return [[product_of([Dim(count, fixed=True), dim]) for count, dim in zip(times, padded, strict=True)]]


def _unfolded(args: Any, axes: Any, outputs: Any) -> list[list[Dim]]:
    """Windows along one axis: their number stays in its place, their length comes last."""
    place, dims = args[1] % len(axes[0]), list(axes[0])
    dims[place].fix()
    dims[place] = Dim(outputs[0].shape[place], fixed=True)
    return [[*dims, Dim(args[2], fixed=True)]]


def _patches(args: Any, axes: Any, outputs: Any) -> list[list[Dim]]:
    """[N, C, H, W] -> [N, C x kernel, L], as nn.Unfold."""
    batch, channels = axes[0][:2]
    kernel = Dim(math.prod(args[1]), fixed=True)
    return [[batch, product_of([channels, kernel]), Dim(outputs[0].shape[2], fixed=True)]]


def _unpatched(args: Any, axes: Any, outputs: Any) -> list[list[Dim]]:
    """[N, C x kernel, L] -> [N, C, H, W], as nn.Fold."""
    batch, joined = axes[0][:2]
    channels = split(joined, [outputs[0].shape[1], math.prod(args[2])], free=0)[0]
    return [[batch, channels, *(Dim(size, fixed=True) for size in outputs[0].shape[2:])]]


_POINTWISE = {
    aten.clone, aten.alias, aten.detach, aten._to_copy, aten.contiguous, aten.lift_fresh, aten.copy_,
    aten.hardswish, aten.hardswish_, aten.hardsigmoid, aten.hardsigmoid_,
}  # fmt: skip
_SPATIAL = {
    aten.avg_pool2d, aten._adaptive_avg_pool2d, aten.adaptive_avg_pool2d, aten.max_pool2d_with_indices,
    aten.max_pool2d, aten.constant_pad_nd, aten.roll, aten._softmax, aten._safe_softmax, aten._log_softmax,
    aten.upsample_bilinear2d, aten.upsample_nearest2d, aten.upsample_bicubic2d, aten.reflection_pad2d,
    aten._upsample_bilinear2d_aa, aten._upsample_bicubic2d_aa, aten.cumsum, aten.flip, aten.zeros_like,
    aten.ones_like, aten.empty_like, aten.adaptive_max_pool2d, aten.avg_pool1d,
    aten.upsample_linear1d, aten.upsample_nearest1d, aten.avg_pool3d,
    aten.as_strided_,
}  # fmt: skip
_RULES: dict[Any, Callable[[Any, Any, Any], list[list[Dim]]]] = {
    aten.convolution: _convolution,
    aten.view: _viewed, aten._unsafe_view: _viewed, aten.reshape: _viewed, aten._reshape_alias: _viewed,
    aten.unsqueeze: _squeezed, aten.squeeze: _squeezed, aten.permute: _permuted, aten.transpose: _transposed,
    aten.t: _transposed, aten.expand: _expanded, aten.mm: _matmul, aten.bmm: _matmul, aten.addmm: _addmm,
    aten.native_batch_norm: _batch_norm, aten._native_batch_norm_legit_no_training: _batch_norm,
    aten._native_batch_norm_legit: _batch_norm, aten.cudnn_batch_norm: _batch_norm,
    aten.native_layer_norm: _layer_norm, aten.native_group_norm: _group_norm, aten.cat: _cat,
    aten.stack: _stacked, aten.split: _split, aten.split_with_sizes: _split, aten.unbind: _unbound,
    aten.select: _unbound, aten.slice: _sliced, aten.mean: _reduced, aten.sum: _reduced, aten.amax: _reduced,
    aten.amin: _reduced, aten.var: _reduced, aten.std: _reduced,
    aten.linalg_vector_norm: lambda args, axes, outputs: _reduced([args[0], args[2]], axes, outputs),
    aten.index: _indexed, aten.index_select: _selected, aten.repeat: _repeated, aten.unfold: _unfolded,
    aten.im2col: _patches, aten.col2im: _unpatched, aten.unsafe_split: _split, aten.unsafe_split_with_sizes: _split,
}  # fmt: skip
