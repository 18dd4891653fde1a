"""Parameters and multiply-accumulates counted in another way than the product counts them."""

import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode


def stored_parameters(file: Path, model: nn.Module) -> int:
    """Numbers in a safetensors file that are no buffers: shared tensors stand there once."""
    buffers = {name for name, _ in model.named_buffers(remove_duplicate=False)}
    with safe_open(file, framework="pt") as content:
        names = [name for name in content.keys() if name not in buffers]  # noqa: SIM118
        return sum(math.prod(content.get_slice(name).get_shape()) for name in names)


class _Products(TorchFunctionMode):
    """Adds up the products in every call of a convolution, a linear layer, a matrix product, an attention, a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.macs = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            query, key, value = args[:3]
            pairs = math.prod(query.shape[:-1]) * key.shape[-2]
            self.macs += pairs * (query.shape[-1] + value.shape[-1])
            with torch._C.DisableTorchFunction():
                return func(*args, **kwargs)
        result = func(*args, **kwargs)
        if func in _CONVOLUTIONS:
            weight = args[1] if len(args) > 1 else kwargs["weight"]
            self.macs += result.numel() * math.prod(weight.shape[1:])
        elif func is F.linear or func in _MATMULS:
            self.macs += result.numel() * args[0].shape[-1]
        elif func is torch.addcmul and args[0].shape in ((), result.shape):  # not bias + gain * x
            self.macs += result.numel()
        return result


_CONVOLUTIONS = (F.conv1d, F.conv2d)
_MATMULS = (torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, Tensor.bmm)


def called_macs(model: nn.Module, size: tuple[int, ...]) -> int:
    """Of one image, from the calls that the model's own code makes."""
    counter = _Products()
    training = model.training
    with torch.no_grad(), counter:
        model.eval()(torch.zeros(1, *size))
    model.train(training)
    return counter.macs


def _sum(total: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return 2 * math.prod(out_shape) if total in ((), out_shape) else 0


def torch_macs(model: nn.Module, size: tuple[int, ...]) -> int:
    """Of one image, by torch's FlopCounterMode, which is told of weighted sums; the model is on the meta device."""
    addcmul = torch.ops.aten.addcmul
    with (
        torch.device("meta"),
        torch.no_grad(),
        FlopCounterMode(display=False, custom_mapping={addcmul: _sum}) as counter,
    ):
        model.eval()(torch.empty(1, *size))
    return int(counter.get_total_flops()) // 2
