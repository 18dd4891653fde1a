"""Normalisation layers of every kind for every layout: what torch and timm lack, and how one is swapped for another.

Knows modules and shapes, nothing of stages or choices.
"""

from collections.abc import Callable
from typing import Any

import torch
from timm import layers
from torch import Tensor, nn

from spaces.techniques.wrapping import After

GROUPS = 32  # 1803.08494, section 4.1
ALPHA = 0.5  # 2503.10622, section 4


class DyT(nn.Module):
    """Dynamic tanh (2503.10622, equation 1): y = weight * tanh(alpha x) + bias, with one alpha a layer.

    Args:
        trailing: axes of x after the channels (2 for NCHW, 0 for [N, tokens, C]).
        affine: whether there are a weight and a bias, one number a channel.
    """

    def __init__(self, channels: int, *, trailing: int, affine: bool = True, **factory: Any):
        super().__init__()
        self.num_features, self.trailing = channels, trailing
        self.alpha = nn.Parameter(torch.full((1,), ALPHA, **factory))
        self.weight = nn.Parameter(torch.ones(channels, **factory)) if affine else None
        self.bias = nn.Parameter(torch.zeros(channels, **factory)) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.alpha * x)
        if self.weight is None or self.bias is None:
            return x
        shape = (-1, *[1] * self.trailing)
        return x * self.weight.view(shape) + self.bias.view(shape)

    def extra_repr(self) -> str:
        return f"{self.num_features}, trailing={self.trailing}"


class TokenBatchNorm(nn.BatchNorm1d):
    """Batch norm of [..., C]: statistics of each channel over all other axes."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.reshape(-1, x.shape[-1])).reshape(x.shape)


class _Swapped(nn.Module):
    """A norm that wants its channels at the other end: axis 1 and the last change places, and back."""

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = super().forward(x.transpose(1, -1))
        return normed.transpose(1, -1)


class TokenGroupNorm(_Swapped, nn.GroupNorm):
    """Group norm of [N, ..., C]: statistics of each group of channels over the axes between."""


class SwappedLayerNorm(_Swapped, nn.LayerNorm):
    """Layer norm of [N, C, ...] over C."""


class SwappedRmsNorm(_Swapped, nn.RMSNorm):
    """Root mean square norm of [N, C, ...] over C."""


RMS = (nn.RMSNorm, layers.RmsNorm, layers.RmsNorm2d, layers.RmsNormFp32, layers.RmsNorm2dFp32)
SIMPLE = (layers.SimpleNorm, layers.SimpleNorm2d, layers.SimpleNormFp32, layers.SimpleNorm2dFp32)
BATCH, INSTANCE = nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm
NORMS = (BATCH, INSTANCE, nn.LayerNorm, nn.GroupNorm, DyT, layers.FilterResponseNormAct2d, *RMS, *SIMPLE)
# Norm and activation in one formula: nothing can take the place of the norm alone.
FUSED = (
    *(layers.EvoNorm2dB0, layers.EvoNorm2dB1, layers.EvoNorm2dB2),
    *(layers.EvoNorm2dS0, layers.EvoNorm2dS1, layers.EvoNorm2dS2, layers.FilterResponseNormTlu2d),
)


def groups(channels: int, positions: int) -> int:
    """32, or the nearest divisor of the channels below; over a single position, groups have 8 channels or more.

    Normalised alone, one or two numbers come out the same whatever they are, so nothing before them would learn.
    """
    most = GROUPS if positions > 1 else max(1, min(GROUPS, channels // 8))
    return next(count for count in range(most, 0, -1) if channels % count == 0)


def is_a(norm: nn.Module, kind: str, channels: int, positions: int) -> bool:
    """Whether a norm is of a kind already, whatever its epsilon; `group` also asks for the number of groups."""
    if isinstance(norm, nn.GroupNorm):
        return kind == "group" and norm.num_groups == groups(channels, positions)
    classes: dict[str, Any] = {"batch": BATCH, "layer": nn.LayerNorm, "rms": RMS, "dyt": DyT}
    return kind in classes and isinstance(norm, classes[kind])


def channels_of(norm: Any) -> int:
    """Length of the axis that it normalises or has a gain for."""
    if isinstance(norm.weight, Tensor):
        return len(norm.weight)
    size = norm.num_channels if isinstance(norm, nn.GroupNorm) else getattr(norm, "num_features", None)
    return int(size or norm.normalized_shape[-1])


_STATELESS: dict[str, tuple[Callable[..., nn.Module], ...]] = {
    "layer": (nn.LayerNorm, layers.LayerNorm2d, SwappedLayerNorm),
    "rms": (nn.RMSNorm, layers.RmsNorm2d, SwappedRmsNorm),
}


def replaced(old: Any, kind: str, *, rank: int, last: bool, positions: int) -> nn.Module:
    """A norm of another kind in place of `old`, with its gain and bias, and the dropout and activation fused to it.

    Where `old` has no gain, neither has the new one; where it has no bias, the new one starts at zero; `rms` has
    none (1910.07467). Epsilon is torch's 1e-5 for `batch` and `group`, ConvNeXt's 1e-6 for `layer` and `rms`.

    Args:
        rank: axes of what comes in.
        last: whether the channels are the last of them; they are axis 1 otherwise.
        positions: what there is beside batch and channels, as H x W.
    """
    tensor = next((t for t in (*old.parameters(), *old.buffers()) if t.is_floating_point()), torch.empty(0))
    factory: dict[str, Any] = {"device": tensor.device, "dtype": tensor.dtype}
    channels, affine = channels_of(old), old.weight is not None
    new: Any
    if kind == "dyt":
        new = DyT(channels, trailing=0 if last else rank - 2, affine=affine, **factory)
    elif kind == "group":
        new = (TokenGroupNorm if last else nn.GroupNorm)(
            groups(channels, positions), channels, eps=1e-5, affine=affine, **factory
        )
    elif kind == "batch":
        batch = TokenBatchNorm if last else nn.BatchNorm2d if rank == 4 else nn.BatchNorm1d
        new = batch(channels, eps=1e-5, affine=affine, **factory)
    else:
        tokens, images, other = _STATELESS[kind]
        new = (tokens if last else images if rank == 4 else other)(channels, 1e-6, affine, **factory)
    for name in ("weight", "bias"):
        if getattr(old, name, None) is not None and getattr(new, name, None) is not None:
            setattr(new, name, getattr(old, name))
    parts = (getattr(old, name, None) for name in ("drop", "act"))
    rest = [part for part in parts if part is not None and type(part) is not nn.Identity]
    return (After(new, *rest) if rest else new).train(old.training)
