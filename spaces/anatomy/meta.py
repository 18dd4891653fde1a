"""A network without data, or without most of it: copies on the meta device, and an image that such a copy takes.

Knows torch and what timm's models say of themselves, nothing of techniques.
"""

import copy
import math
from functools import cache
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from spaces.anatomy import input_size
from spaces.errors import SpaceError

InputSize = tuple[int, int, int]


SMALL = 1 << 18  # numbers: above any vector or mask of timm's networks at 512 pixels, below what takes memory


@final
class OnlySmall(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """What is made under it is on the meta device where it has more numbers than `SMALL`, else as it would be.

    A network of billions so takes little memory and yet has its norms, scales, tables and their values.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        first = args[0] if args else None
        if _has_device(func) and not (isinstance(first, Tensor) and first.is_meta):
            sizes = first.shape if isinstance(first, Tensor) else first if isinstance(first, list | tuple) else ()
            if math.prod(sizes) > SMALL:
                kwargs["device"] = torch.device("meta")
            elif str(kwargs.get("device")) == "meta":  # as a large one beside it
                kwargs["device"] = torch.device("cpu")
        return func(*args, **kwargs)


@final
class Unfilled(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """What would write values into a tensor on the meta device, as all initialisation, is left out under it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if _fills(func) and args[0].is_meta:
            return args[0]
        return func(*args, **(kwargs or {}))


@cache
def _fills(func: Any) -> bool:
    """Whether an operator changes its first argument, and not the shape of it."""
    return torch.Tag.inplace in func.tags and torch.Tag.inplace_view not in func.tags and len(func._schema.returns) == 1


def _has_device(func: Any) -> bool:
    return any(argument.name == "device" for argument in func._schema.arguments)


def on_meta(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode whose tensors hold nothing; tied tensors stay tied."""
    twins = {
        id(parameter): nn.Parameter(parameter.to("meta"), parameter.requires_grad) for parameter in model.parameters()
    } | {id(buffer): buffer.to("meta") for buffer in model.buffers()}
    return copy.deepcopy(model, twins).eval()


def meta_image(model: nn.Module, size: InputSize | None = None) -> Tensor:
    """Two images [2, C, H, W] without data, of the size (C, H, W) or of the one that the model itself names.

    Raises:
        SpaceError: the model names no size, or has no convolution that takes an image.
    """
    kernel = next((parameter for parameter in model.parameters() if parameter.ndim == 4), None)
    if size is None:
        if kernel is None or not hasattr(model, "pretrained_cfg"):
            raise SpaceError("the model does not say what images it takes; give their size, as (3, 224, 224)")
        side = input_size(model, {"img_size": getattr(getattr(model, "patch_embed", None), "img_size", None)})
        size = (kernel.shape[1], side, side)
    return torch.empty(2, *size, device="meta", dtype=None if kernel is None else kernel.dtype)
