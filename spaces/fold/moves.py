"""Moving a factor back through operators, until weights take it.

f * operator(x) is operator(f * x), or the operator with weights times f: one rule an operator. Knows
operators and tensors, nothing of models.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from spaces.anatomy.operators import aten


class Stuck(Exception):
    """Why a factor cannot be moved further, as a clause."""


@dataclass(eq=False)
class Value:
    """A tensor of the forward pass.

    Attributes:
        shape: its shape.
        op, args: the operator that made it, with tensors as values; None for what was there before.
        index: its place among the operator's outputs.
        name: the parameter it is.
        uses: how many operators take it.
    """

    shape: tuple[int, ...]
    op: Any = None
    args: tuple[Any, ...] = ()
    index: int = 0
    name: str | None = None
    uses: int = 0


Edits = list[tuple[str, Tensor]]  # parameters, and what each is multiplied by


def root(value: Value) -> Value:
    """What a value is a view of."""
    while value.op in _VIEWS or value.op in (aten.permute, aten.transpose, aten.alias):
        value = value.args[0]
    return value


def absorbed(value: Value, factor: Tensor) -> Edits:
    """The changes of parameters that multiply `value` by `factor`, which has as many axes."""
    if value.uses > 1:
        raise Stuck("the weights are shared" if value.name else "what it scales is used elsewhere too")
    if value.name is not None:
        return [(value.name, _fitted(factor, value.shape))]
    rule = _RULES.get(value.op)
    if rule is None or value.index:
        raise Stuck(f"it comes after {value.op}" if value.op else "it comes after something that has no weights")
    return rule(value, factor)


def _fitted(factor: Tensor, shape: Sequence[int]) -> Tensor:
    """The factor for one operand of a broadcast: without axes that this does not have."""
    extra = factor.ndim - len(shape)
    if any(size != 1 for size in factor.shape[:extra]):
        raise Stuck("it has more axes than the weights")
    factor = factor.reshape(factor.shape[extra:])
    if any(size not in (1, whole) for size, whole in zip(factor.shape, shape, strict=True)):
        raise Stuck("the weights are the same for all its factors")
    return factor


def _only(factor: Tensor, axis: int) -> Tensor:
    """[C] or [1]: a factor that differs along one axis at most."""
    if factor.numel() != factor.shape[axis]:
        raise Stuck("it differs along other axes than the channels")
    return factor.flatten()


def _layer(weight: Value, bias: Value | None, factor: Tensor, axis: int = 0) -> Edits:
    """Weights with the output channels along `axis`, and their bias."""
    shape = [1] * len(weight.shape)
    shape[axis] = -1
    edits = absorbed(weight, factor.reshape(shape))
    return edits + (absorbed(bias, factor) if bias is not None else [])


def _convolution(value: Value, factor: Tensor) -> Edits:
    if value.args[6]:
        raise Stuck("it comes after a transposed convolution")
    return _layer(value.args[1], value.args[2], _only(factor, 1))


def _addmm(value: Value, factor: Tensor) -> Edits:
    return _layer(value.args[2], value.args[0], _only(factor, 1), axis=1)


def _product(value: Value, factor: Tensor) -> Edits:
    return absorbed(value.args[1], _fitted(factor, (*value.args[1].shape[:-2], 1, value.args[1].shape[-1])))


def _linear(value: Value, factor: Tensor) -> Edits:
    bias = value.args[2] if len(value.args) > 2 else None
    return _layer(value.args[1], bias, _only(factor, factor.ndim - 1))


def _norm(value: Value, factor: Tensor) -> Edits:
    weight, bias = value.args[1:3]
    if weight is None:
        raise Stuck("the norm before it has no weights")
    return _layer(weight, bias, _only(factor, 1))


def _layer_norm(value: Value, factor: Tensor) -> Edits:
    weight = value.args[2]
    if weight is None:
        raise Stuck("the norm before it has no weights")
    biases = [item for item in value.args[3:4] if isinstance(item, Value)]  # none in RMSNorm
    return [edit for part in (weight, *biases) for edit in absorbed(part, _fitted(factor, part.shape))]


def _times(value: Value, factor: Tensor) -> Edits:
    """One of the operands takes it, rather a parameter than data."""
    operands = [item for item in value.args[-2:] if isinstance(item, Value)]
    reasons = []
    for operand in sorted(operands, key=lambda item: root(item).name is None):
        try:
            return absorbed(operand, _fitted(factor, operand.shape))
        except Stuck as stuck:
            reasons.append(stuck)
    raise next(iter(reasons), Stuck("it comes after a product of constants"))


def _divided(value: Value, factor: Tensor) -> Edits:
    return absorbed(value.args[0], _fitted(factor, value.args[0].shape))


def _sum(value: Value, factor: Tensor) -> Edits:
    edits: Edits = []
    for operand in value.args[:2]:
        if not isinstance(operand, Value):
            raise Stuck("it comes after the addition of a constant")
        edits += absorbed(operand, _fitted(factor, operand.shape))
    return edits


def _addcmul(value: Value, factor: Tensor) -> Edits:
    return absorbed(value.args[0], _fitted(factor, value.args[0].shape)) + _times(value, factor)


def _viewed(value: Value, factor: Tensor) -> Edits:
    """The one axis along which it differs must be an axis of the input as well."""
    before = value.args[0].shape
    shape = [1] * len(before)
    if factor.numel() > 1:
        axis = next(axis for axis, size in enumerate(factor.shape) if size > 1)
        _only(factor, axis)
        after = prod(value.shape[axis + 1 :])
        same = [i for i, n in enumerate(before) if n == value.shape[axis] and prod(before[i + 1 :]) == after]
        if not same:
            raise Stuck("the channels are reshaped before it")
        shape[same[0]] = -1
    return absorbed(value.args[0], factor.reshape(shape))


def _permuted(value: Value, factor: Tensor) -> Edits:
    if value.op is aten.permute:
        order = list(value.args[1])
    else:
        order = list(range(factor.ndim))
        one, two = value.args[1:3] if len(value.args) > 1 else (0, -1)
        order[one], order[two] = order[two], order[one]
    back = sorted(range(len(order)), key=lambda axis: order[axis] % len(order))
    return absorbed(value.args[0], factor.permute(back))


def _kept(value: Value, factor: Tensor) -> Edits:
    """Operators that are linear and leave the channels alone: the others' axes may move."""
    if value.op in (aten.roll, aten.flip) and any(factor.shape[axis] > 1 for axis in value.args[-1]):
        raise Stuck("the channels are moved before it")
    if value.op is aten.constant_pad_nd and any(value.args[2:]):
        raise Stuck("it comes after padding with other values than 0")
    return absorbed(value.args[0], _fitted(factor, value.args[0].shape))


def _homogeneous(value: Value, factor: Tensor) -> Edits:
    """act(f * x) = f * act(x) for f above 0."""
    if bool((factor < 0).any()):
        raise Stuck(f"it has factors below 0 and comes after {value.op}")
    return _kept(value, factor)


def _concatenated(value: Value, factor: Tensor) -> Edits:
    parts, axis = value.args[0], (value.args[1] if len(value.args) > 1 else 0) % factor.ndim
    sizes = [part.shape[axis] for part in parts]
    factors = torch.split(factor, sizes, axis) if factor.shape[axis] > 1 else [factor] * len(parts)
    return [edit for part, own in zip(parts, factors, strict=True) for edit in absorbed(part, own)]


MULTIPLY = {aten.mul, aten.mul_}
_VIEWS = {aten.view, aten._unsafe_view, aten.reshape, aten._reshape_alias, aten.unsqueeze, aten.squeeze}
_RULES: dict[Any, Callable[[Value, Tensor], Edits]] = {
    aten.convolution: _convolution, aten.addmm: _addmm, aten.mm: _product, aten.bmm: _product, aten.matmul: _product,
    aten.linear: _linear, aten.native_layer_norm: _layer_norm, aten._fused_rms_norm: _layer_norm,
    aten.mul: _times, aten.mul_: _times, aten.div: _divided, aten.div_: _divided, aten.addcmul: _addcmul,
    aten.permute: _permuted, aten.transpose: _permuted, aten.t: _permuted, aten.cat: _concatenated,
    **dict.fromkeys((aten.add, aten.add_, aten.sub, aten.sub_), _sum),
    **dict.fromkeys(_VIEWS, _viewed),
    **dict.fromkeys((
        aten.native_batch_norm, aten._native_batch_norm_legit_no_training, aten._native_batch_norm_legit,
        aten.cudnn_batch_norm, aten.native_group_norm,
    ), _norm),
    **dict.fromkeys((
        aten.alias, aten.clone, aten.detach, aten._to_copy, aten.contiguous, aten.neg, aten.roll, aten.flip, aten.slice,
        aten.avg_pool2d, aten._adaptive_avg_pool2d, aten.upsample_nearest2d, aten.upsample_bilinear2d,
        aten.upsample_bicubic2d, aten.constant_pad_nd,
    ), _kept),
    **dict.fromkeys((
        aten.relu, aten.relu_, aten.leaky_relu, aten.leaky_relu_, aten.max_pool2d_with_indices, aten.max_pool2d,
    ), _homogeneous),
}  # fmt: skip
