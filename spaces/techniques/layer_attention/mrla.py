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

from spaces.techniques.layer_attention.history import History, Openable, per_channel, products, recomputing


def kernel_of(channels: int) -> int:
    """Taps of the convolutions that make Q and K: |(log2 C + 1) / 2|, made odd; 5, 5, 5, 7 for C = 256 .. 2048."""
    taps = int(abs((math.log2(channels) + 1) / 2))
    return taps if taps % 2 else taps + 1


@final
class Tap:
    """A hook that puts aside what a module gets or gives, until it is taken."""

    def __init__(self) -> None:
        self._held: list[Tensor] = []

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()

    def __call__(self, module: nn.Module, given: Any, output: Any = None) -> None:
        self._held[:] = [given[0] if output is None else output]

    def take(self) -> Tensor:
        return self._held.pop()


class Gate(Openable, Protocol):
    """Decides whether a layer retrieves at all, and watches it when it does (see `ela`)."""

    def observe(self, logits: Sequence[Tensor]) -> None: ...


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


@final
class BaseAttention(nn.Module):
    """O_t = concat_h softmax_{s <= t}(Q_h . K_{s,h} / sqrt(d)) V_{s,h} (equation 6); [B, C, H, W] -> the same.

    Args:
        position: in its run. The first attends to itself alone, where the softmax is 1 whatever the query: it stands
            there as published, and is not trained.
    """

    def __init__(self, channels: int, head_dim: int, history: History, position: int, *, kaiming: bool):
        super().__init__()
        self.retrieval = Retrieval(channels, head_dim, kaiming=kaiming)
        self.retrieval.query.requires_grad_(position > 0)
        self.history, self.position = history, position

    def forward(self, maps: Tensor) -> Tensor:
        return self.history.attend(self.position, *self.retrieval(maps))


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
        weights = torch.sigmoid(products(query, key)).to(value.dtype)
        weight = per_channel(weights.unsqueeze(2), query.shape[-1])[:, :, 0]
        carried = torch.addcmul(value.new_zeros(()), self.carry.view(-1, 1, 1), previous)
        return torch.addcmul(carried, weight, self.activation(value))


@final
class OnMaps(nn.Module):
    """x -> x + DropPath(BN(O)), with a ReLU after the norm for the base form; x is [B, C, H, W]."""

    def __init__(self, attention: nn.Module, channels: int, *, relu: bool, drop_path: float):
        super().__init__()
        self.attention = attention
        self.norm = nn.BatchNorm2d(channels)
        self.activation = nn.ReLU(inplace=True) if relu else nn.Identity()
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
            if self.gate is not None and not recomputing():
                self.gate.observe(self.history.logits)
        if self.last:
            self.history.leave()
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
