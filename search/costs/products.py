"""Multiply-accumulates of each operator that runs: convolutions, matrix products, attention, weighted sums.

By torch's own formulas (`torch.utils.flop_counter`), and one for sums by `addcmul`: layer attention so adds up the
feature maps of many layers, which is as much work as its convolutions. Norms, activations and additions are not
counted, as is usual. Knows operators, nothing of modules.
"""

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from search.costs.cost import InputSize

aten = torch.ops.aten


class Products(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what runs under it.

    Attributes:
        macs: so far.
        reshaped: whether an operator has changed the shape of a tensor in place.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.macs = 0
        self.reshaped = False

    def on(self, model: nn.Module, input_size: InputSize) -> None:
        """Counts a forward pass of one image [1, *input_size] on the meta device."""
        with torch.device("meta"), torch.no_grad(), self:
            model(torch.empty(1, *input_size))

    def __torch_dispatch__(self, func: Any, types: Iterable[type], args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if is_composite(func):
            with self:
                return func.decompose(*args, **kwargs)
        result = func(*args, **kwargs)
        if func.overloadpacket in _FORMULAS:  # torch counts a multiply-accumulate as two operations
            self.macs += _FORMULAS[func.overloadpacket](*args, **kwargs, out_val=result) // 2
        self.reshaped |= reshapes(func)
        return result


@cache
def is_composite(func: Any) -> bool:
    """Whether an operator without a formula is made of others, which may have one."""
    made = torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")
    return made and func.overloadpacket not in _FORMULAS


@cache
def reshapes(func: Any) -> bool:
    """Whether an operator changes the shape of a tensor in place."""
    return torch.Tag.inplace_view in func.tags


def weighted_sum(total: Tensor, *_: Any, out_val: Tensor, **__: Any) -> int:
    """Floating point operations of total + one * two; none where that is bias + gain * x, with which norms end."""
    return 2 * out_val.numel() if total.ndim == 0 or total.shape == out_val.shape else 0


_FORMULAS: dict[Any, Callable[..., int]] = {**flop_registry, aten.addcmul: weighted_sum, aten.addcmul_: weighted_sum}
