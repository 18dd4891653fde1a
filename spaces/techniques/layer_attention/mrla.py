"""Multi-head recurrent layer attention (MRLA, 2302.03985): a layer retrieves from the layers before it.

Modules alone: a layer is a block of a network and such an attention after it. Knows tensors and how they lie in
memory; nothing of models, stages or choices.

Symbols: B images, C channels, g heads of d channels (C = g d), T layers so far, N tokens.
"""

import math
from collections.abc import Sequence
from typing import Any, Protocol, final

import torch
from timm.layers import DropPath
from torch import Tensor, nn


def kernel_of(channels: int) -> int:
    """Taps of the convolutions that make Q and K: |(log2 C + 1) / 2|, made odd; 5, 5, 5, 7 for C = 256 .. 2048."""
    taps = int(abs((math.log2(channels) + 1) / 2))
    return taps if taps % 2 else taps + 1


@final
class History:
    """What the layers of a stage left for later ones in this forward pass; empty between passes.

    Attributes:
        keys: [B, g, d] of each layer.
        values: [B, C, H, W] of each layer.
        logits: [B, g, t] of the t-th layer against itself and those before it.
    """

    def __init__(self) -> None:
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.logits: list[Tensor] = []
        self._position = -1

    def arrive(self, position: int) -> None:
        """The layer at `position` runs; at one not after the last position a new pass has begun."""
        if position <= self._position:
            self.clear()
        self._position = position

    def clear(self) -> None:
        self._position = -1
        self.keys.clear()
        self.values.clear()
        self.logits.clear()


@final
class Tap:
    """A hook that puts aside what a module gets or gives, until it is taken."""

    def __init__(self) -> None:
        self._held: list[Tensor] = []

    def __call__(self, module: nn.Module, given: Any, output: Any = None) -> None:
        self._held[:] = [given[0] if output is None else output]

    def take(self) -> Tensor:
        return self._held.pop()


class Gate(Protocol):
    """Decides whether a layer retrieves at all, and watches it when it does (see `ela`)."""

    @property
    def open(self) -> bool: ...

    def observe(self, history: History) -> None: ...


@final
class Retrieval(nn.Module):
    """Query, key and value of one layer: [B, C, H, W] -> [B, g, d], [B, g, d], [B, C, H, W] (section 3.2).

    Args:
        head_dim: channels of a head; divides `channels`.
        kaiming: draw the value's kernels as the reference's ResNets do; else torch's own way, as its DeiTs do.
    """

    def __init__(self, channels: int, head_dim: int, *, kaiming: bool):
        super().__init__()
        taps = kernel_of(channels)
        self.shape = (channels // head_dim, head_dim)
        self.query = nn.Conv1d(1, 1, taps, padding=taps // 2, bias=False)
        self.key = nn.Conv1d(1, 1, taps, padding=taps // 2, bias=False)
        self.value = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        if kaiming:
            nn.init.kaiming_normal_(self.value.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        pooled = maps.mean((2, 3)).unsqueeze(1)
        query, key = (one(pooled).squeeze(1).unflatten(1, self.shape) for one in (self.query, self.key))
        return query, key, self.value(maps)


def _products(query: Tensor, key: Tensor) -> Tensor:
    """Q . K / sqrt(d) over the last axis, in at least single precision."""
    exact = torch.promote_types(query.dtype, torch.float32)
    return (query.to(exact) * key.to(exact)).sum(-1) / math.sqrt(query.shape[-1])


def _per_channel(weights: Tensor, head_dim: int) -> Tensor:
    """[B, g, T] -> [B, C, T, 1, 1]."""
    return weights.repeat_interleave(head_dim, 1)[..., None, None]


def _weighted_sum(weights: Sequence[Tensor], maps: Sequence[Tensor]) -> Tensor:
    """Sum of weight times map, by multiply-accumulates alone, so that they are counted as such."""
    total = maps[0].new_zeros(())
    for weight, one in zip(weights, maps, strict=True):
        total = torch.addcmul(total, weight, one)
    return total


@final
class BaseAttention(nn.Module):
    """O_t = concat_h softmax_{s <= t}(Q_h . K_{s,h} / sqrt(d)) V_{s,h} (equation 6); [B, C, H, W] -> the same.

    Leaves its key, value and logits in `history`. The sum runs over the values where they lie: no copy of them
    is made, so memory grows with the number of layers and not with its square.

    Args:
        first: of its run. Over one layer the softmax is 1 whatever the query: it stands there as published, and
            is not trained.
    """

    def __init__(self, channels: int, head_dim: int, history: History, *, first: bool, kaiming: bool):
        super().__init__()
        self.retrieval = Retrieval(channels, head_dim, kaiming=kaiming)
        self.retrieval.query.requires_grad_(not first)
        self.history = history

    def forward(self, maps: Tensor) -> Tensor:
        past = self.history
        query, key, value = self.retrieval(maps)
        past.keys.append(key)
        past.values.append(value)
        logits = _products(query.unsqueeze(2), torch.stack(past.keys, 2))
        past.logits.append(logits)
        weights = _per_channel(logits.softmax(-1).to(value.dtype), query.shape[-1]).unbind(2)
        return _weighted_sum(weights, past.values)


@final
class LightAttention(nn.Module):
    """O_t = sigmoid(Q_h . K_{t,h} / sqrt(d)) V_t + lambda_t O_{t-1} (equation 8), lambda per channel from N(0, 1).

    Args:
        activation: what V goes through: none in ResNets, GELU in DeiT.
    """

    def __init__(self, channels: int, head_dim: int, activation: nn.Module, *, kaiming: bool):
        super().__init__()
        self.retrieval = Retrieval(channels, head_dim, kaiming=kaiming)
        self.activation = activation
        self.carry = nn.Parameter(torch.randn(channels))  # lambda

    def forward(self, maps: Tensor, previous: Tensor) -> Tensor:
        """[B, C, H, W] and O_{t-1} of the same shape -> O_t."""
        query, key, value = self.retrieval(maps)
        weights = torch.sigmoid(_products(query, key)).to(value.dtype)
        weight = _per_channel(weights.unsqueeze(2), query.shape[-1])[:, :, 0]
        return _weighted_sum((self.carry.view(-1, 1, 1), weight), (previous, self.activation(value)))


@final
class OnMaps(nn.Module):
    """x -> x + DropPath(BN(O)), with a ReLU after the norm for the base form; x is [B, C, H, W]."""

    def __init__(self, attention: nn.Module, channels: int, *, relu: bool, drop_path: float):
        super().__init__()
        self.attention = attention
        self.norm = nn.BatchNorm2d(channels)
        self.activation = nn.ReLU() if relu else nn.Identity()
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor, *previous: Tensor) -> Tensor:
        update: Tensor = self.drop_path(self.activation(self.norm(self.attention(x, *previous))))
        return x + update


@final
class OnTokens(nn.Module):
    """x -> x + O of LN(x); x is [B, N, C] or [B, H, W, C].

    Class and register tokens, the first `prefix` of N, take no part: of them only LN(x) is added. The others
    form a square. The light form has a norm of its own on O_{t-1}.
    """

    def __init__(self, attention: nn.Module, channels: int, *, prefix: int, carries: bool):
        super().__init__()
        self.attention = attention
        self.prefix = prefix
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.norm_previous = nn.LayerNorm(channels, eps=1e-6) if carries else nn.Identity()

    def forward(self, x: Tensor, *previous: Tensor) -> Tensor:
        normed = self.norm(x)
        before = [self._maps(self.norm_previous(one)) for one in previous]
        update: Tensor = self.attention(self._maps(normed), *before).permute(0, 2, 3, 1)
        if x.ndim == 3:
            update = torch.cat((normed[:, : self.prefix], update.flatten(1, 2)), dim=1)
        return x + update

    def _maps(self, x: Tensor) -> Tensor:
        """Tokens that are parts of the image as [B, C, H, W]."""
        if x.ndim == 3:
            count = x.shape[1] - self.prefix
            side = math.isqrt(count)
            if side * side != count:
                raise ValueError(f"layer attention needs tokens that form a square, not {count}")
            x = x[:, self.prefix :].reshape(x.shape[0], side, side, -1)
        return x.permute(0, 3, 1, 2)


@final
class BaseLayer(nn.Module):
    """The base form after one block: [..] -> the same, with what it retrieves from the layers before it added.

    Args:
        update: `OnMaps` or `OnTokens` around a `BaseAttention` with this history.
        position: place in the run of layers that see each other, from 0.
        gate: where it is closed, x stays as it is, and later layers do not see this one.
    """

    def __init__(self, update: nn.Module, history: History, position: int, *, last: bool, gate: Gate | None = None):
        super().__init__()
        self.update, self.history, self.position, self.last, self.gate = update, history, position, last, gate

    def forward(self, x: Tensor) -> Tensor:
        self.history.arrive(self.position)
        if self.gate is None or self.gate.open:
            x = self.update(x)
            if self.gate is not None:
                self.gate.observe(self.history)
        if self.last:
            self.history.clear()
        return x


@final
class LightLayer(nn.Module):
    """The light form after one block; the shortcut of its residual addition, from `tap`, stands for O_{t-1}."""

    def __init__(self, update: nn.Module, tap: Tap):
        super().__init__()
        self.update, self.tap = update, tap

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.update(x, self.tap.take())
        return output


@final
class Following:
    """A forward hook: what a block puts out goes through `layer`. The block itself and its name stay as they are."""

    def __init__(self, layer: nn.Module):
        self.layer = layer

    def __call__(self, block: nn.Module, given: Any, output: Tensor) -> Any:
        return self.layer(output)
