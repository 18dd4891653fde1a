"""Give a convolution other groups in place: its class, settings and as much of its weights as asked for stay.

Knows nn.Conv2d and those subclasses of timm that scale their weights by their fan in; nothing of stages.
"""

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn


def shuffles(groups: int, channels: int) -> bool:
    """Whether a shuffle of groups moves any channel."""
    return 1 < groups < channels


def regroup(conv: nn.Conv2d, groups: int, *, mixed: bool, trained: bool) -> None:
    """Cut the channels of a convolution into so many groups.

    Trained weights stay where the groups let them: the blocks on the diagonal of dense ones; where groups grow,
    what is new starts at zero, and nothing changes at first. New weights are drawn from the old ones' values,
    spread so that outputs keep their variance: by sqrt(old fan in / new fan in) (1502.01852, equation 10).

    Args:
        mixed: a channel shuffle follows; trained filters are laid out so that it brings them to their old places.
    """
    weight = conv.weight.detach()
    fan = weight[0].numel()
    size = conv.in_channels // groups
    if trained:
        order = _unshuffled(conv.out_channels, groups if mixed else 1, weight.device)
        new = _kept(weight, conv.groups, groups, order)
        for name, parameter in list(conv.named_parameters(recurse=False)):
            if name != "weight":
                _set(conv, name, parameter.detach()[order])
    else:
        shape = (conv.out_channels, size, *conv.kernel_size)
        new = _drawn(weight, shape, gain=math.sqrt(conv.in_channels // conv.groups / size))
    conv.groups = groups
    _set(conv, "weight", new)
    _rescale(conv, fan)


def separate(conv: nn.Conv2d, *, trained: bool) -> nn.Conv2d:
    """Make a convolution depthwise, and return the pointwise one of the same class that belongs after it.

    With trained weights, both are the best approximation of each input channel's filters by multiples of one
    (1404.0736, section 3.1: the first singular vectors); otherwise the depthwise filters keep the variance of
    their input and the pointwise ones that of the output.
    """
    weight = conv.weight.detach()
    inputs, taps, fan = conv.in_channels, math.prod(conv.kernel_size), weight[0].numel()
    point = _pointwise(conv)
    if trained:
        dense = _kept(weight, conv.groups, 1, torch.arange(conv.out_channels, device=weight.device))
        filters = dense.flatten(2).transpose(0, 1)  # [inputs, outputs, taps]
        _, axes = torch.linalg.eigh(filters.transpose(1, 2) @ filters)
        depth = axes[..., -1]  # of the largest eigenvalue, of length 1
        pixel = (filters @ depth.unsqueeze(-1)).squeeze(-1).T
    else:
        depth = nn.init.normal_(weight.new_empty(inputs, taps), std=taps**-0.5)
        pixel = _drawn(weight, (conv.out_channels, inputs), gain=math.sqrt(fan / inputs))
    _set(point, "weight", pixel.reshape(-1, inputs, 1, 1))
    _rescale(point, fan)
    conv.groups = conv.out_channels = inputs
    _set(conv, "weight", depth.reshape(-1, 1, *conv.kernel_size))
    conv.bias = None
    if isinstance(getattr(conv, "gain", None), Tensor):  # weight standardisation
        _set(conv, "gain", weight.new_ones(inputs, 1, 1, 1))
        conv.scale = taps**-0.5
    return point


def _pointwise(conv: nn.Conv2d) -> nn.Conv2d:
    """A copy with a kernel of one."""
    point = copy.deepcopy(conv)
    point.kernel_size = point.stride = point.dilation = (1, 1)
    point.padding, point.groups = (0, 0), 1
    point._reversed_padding_repeated_twice = [0, 0, 0, 0]
    return point


def _kept(weight: Tensor, old: int, new: int, order: Tensor) -> Tensor:
    """Weights [O, I / old, *K] of `old` groups in `new` groups, the filter of output `order[i]` in place i."""
    size = weight.shape[1]
    wide = size * old // new
    rows = torch.arange(len(order), device=weight.device)
    starts = rows // (len(order) // new) * wide - order // (len(order) // old) * size
    places = starts.unsqueeze(1) + torch.arange(wide, device=weight.device)
    there = (places >= 0) & (places < size)
    return weight[order.unsqueeze(1), places.clamp(0, size - 1)] * there[..., None, None]


def _unshuffled(channels: int, groups: int, device: torch.device) -> Tensor:
    """Where a shuffle of so many groups sends each channel."""
    return torch.arange(channels, device=device).view(-1, groups).T.flatten()


def _drawn(values: Tensor, shape: tuple[int, ...], *, gain: float) -> Tensor:
    if values.is_meta:
        return values.new_empty(shape)
    flat = values.flatten()
    return flat[torch.randint(len(flat), shape, device=flat.device)] * gain


def _set(module: nn.Module, name: str, value: Tensor) -> None:
    setattr(module, name, nn.Parameter(value, requires_grad=getattr(module, name).requires_grad))


def _rescale(conv: Any, fan: int) -> None:
    """Weight standardisation keeps gamma / sqrt(fan in) as `scale` (2101.08692, equation 3)."""
    if isinstance(getattr(conv, "gain", None), Tensor):
        conv.scale *= math.sqrt(fan / conv.weight[0].numel())
