"""A network without data: a copy on the meta device, and an image that it takes, for watching one forward pass.

Knows torch and what timm's models say of themselves, nothing of techniques.
"""

import copy

import torch
from torch import Tensor, nn

from spaces.anatomy import input_size
from spaces.errors import SpaceError

InputSize = tuple[int, int, int]


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
