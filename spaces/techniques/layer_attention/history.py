"""What the layers of a run leave for later ones in a forward pass, and the weighted sum of their values.

The values lie in one buffer a pass, written once each, so that a layer's sum is one batched matrix product over what
is there: memory grows with the number of layers, not with its square, and no value is copied for a later layer.
Knows tensors alone. Symbols as in `mrla`: B images, C channels, g heads of d channels, T layers.
"""

import math
import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, final

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Openable(Protocol):
    """Decides whether a layer attends in this pass."""

    @property
    def open(self) -> bool: ...


@final
class History:
    """Of one run of layers; empty between passes, in copies and in pickles.

    Under activation checkpointing a part of the run is computed again, and then sees what the layers before it left
    in the pass that it belongs to. That takes `use_reentrant=False`, and one pass at a time between forward and
    backward.

    Attributes:
        gates: of the run's layers in order, None for one that always attends.
        keys: [B, g, d] of each layer that attended so far.
        logits: [B, g, t] of the t-th of them against itself and those before it.
    """

    def __init__(self, gates: Sequence[Openable | None]):
        self.gates = gates
        self.keys: list[Tensor] = []
        self.logits: list[Tensor] = []
        self._positions: list[int] = []
        self._maps: list[Tensor] = []  # where the graph is to be seen whole, and after that; see `attend`
        self._values: _Values | None = None
        self._link: Tensor | None = None  # see `_Sum`
        self._last: weakref.ref[_Values] | None = None
        self._waiting = weakref.WeakSet[_Values]()

    def __getstate__(self) -> dict[str, Any]:
        return {"gates": self.gates}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["gates"])

    def arrive(self, position: int) -> None:
        """The layer at `position` runs, of a new pass if it is the first."""
        if recomputing():
            self._return(position)
        elif position == 0:
            self._forget()

    def leave(self) -> None:
        """The last layer has run."""
        if self._values is not None and torch.is_grad_enabled() and not recomputing():
            keys = [key.detach().requires_grad_(key.requires_grad) for key in self.keys]
            self._values.left = _Left(tuple(self._positions), keys, self.logits)
            self._last = weakref.ref(self._values)
            self._waiting.add(self._values)
        self._forget()

    def attend(self, position: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Sum over the layers so far and this one of softmax(Q . K / sqrt(d)) V, [B, C, H, W].

        Args:
            query, key: [B, g, d].
            value: [B, C, H, W].
        """
        self.keys.append(key)
        self._positions.append(position)
        logits = products(query.unsqueeze(2), torch.stack(self.keys, 2))
        self.logits.append(logits.detach())
        weights = logits.softmax(-1).to(value.dtype)
        if _whole() or self._maps:
            self._maps.append(value)
            if len(self._maps) < len(self.keys):
                raise RuntimeError(
                    "layer attention: a block that is compiled follows blocks that are not, and does not see what they"
                    " left; compile the whole model, or every block of the stage"
                )
            total = value.new_zeros(())
            for weight, one in zip(per_channel(weights, query.shape[-1]).unbind(2), self._maps, strict=True):
                total = torch.addcmul(total, weight, one)
            return total
        if self._values is None:
            self._values = _Values(value, query.shape[1], sum(gate is None or gate.open for gate in self.gates))
        summed: Tensor
        summed, self._link = _Sum.apply(weights, value, self._link, self._values)
        return summed

    def _forget(self) -> None:
        self.keys, self.logits, self._positions, self._maps = [], [], [], []
        self._values = self._link = None

    def _return(self, position: int) -> None:
        """To the pass that went before, as it was when the layer at `position` came."""
        values = self._last() if self._last else None
        if values is None or values.left is None:
            raise RuntimeError(
                "layer attention is computed again for a backward pass, and what it saw is gone: activation"
                " checkpointing needs use_reentrant=False, and one backward pass for each forward pass"
            )
        if sum(one.left is not None for one in self._waiting) > 1:
            raise RuntimeError(
                "layer attention under activation checkpointing needs a backward pass after each forward pass: more"
                " than one forward pass waits for it, and which is computed again cannot be told"
            )
        count = sum(one < position for one in values.left.positions)
        self._values, self._positions = values, list(values.left.positions[:count])
        self.keys, self.logits = values.left.keys[:count], values.left.logits[:count]


class _Left(NamedTuple):
    """What a pass leaves for layers that are computed again."""

    positions: tuple[int, ...]
    keys: list[Tensor]
    logits: list[Tensor]


@final
class _Values:
    """The values of one pass, and in its backward pass the gradients of those that were reached.

    Attributes:
        maps: [B, g, T, d H W].
        left: None before the last layer has run, and after the backward pass.
    """

    def __init__(self, like: Tensor, heads: int, layers: int):
        batch, channels, height, width = like.shape
        self.maps: Tensor | None = like.detach().new_empty(batch, heads, layers, channels // heads * height * width)
        self.left: _Left | None = None
        self._gradients: Tensor | None = None
        self._task = -1

    def gradients(self, weights: Tensor, given: Tensor | None) -> Tensor | None:
        """[B g, t, d H W], with the weighted gradient of a sum over t layers added; later layers came before.

        Args:
            weights: [B g, t, 1].
            given: the gradient of the sum, [B g, 1, d H W]; None where nothing depends on it.
        """
        task = torch._C._current_graph_task_id()
        count = weights.shape[1]
        found = self._gradients[:, :count] if self._gradients is not None and task == self._task else None
        if given is not None:
            found = torch.bmm(weights, given) if found is None else found.baddbmm_(weights, given)
        self._gradients, self._task = found, task
        if count == 1:  # a loss that is kept keeps this too: let it be small
            self._gradients = self.maps = self.left = None
        return found


@final
class _Sum(torch.autograd.Function):
    """The weighted sum over the values of a pass, of which the last is new; see `History.attend`.

    The gradient of a value is complete when the backward pass comes to the layer that it is of, after every later
    one. So it is summed up in one place, and handed on there. What a layer gives beside its sum, and the next one
    takes, is a number without meaning that makes it so, even where nothing else leads from one to the other.
    """

    @staticmethod
    def forward(
        ctx: Any, weights: Tensor, value: Tensor, link: Tensor | None, values: _Values
    ) -> tuple[Tensor, Tensor]:
        assert values.maps is not None
        batch, heads, count = weights.shape
        maps = values.maps.data  # not through the version counter: what earlier layers saved of it stays as it is
        maps[:, :, count - 1].view(batch, heads, -1, *value.shape[2:]).copy_(
            value.view(batch, heads, -1, *value.shape[2:])
        )
        total = torch.bmm(weights.reshape(batch * heads, 1, count), maps.flatten(0, 1)[:, :count]).to(value.dtype)
        ctx.save_for_backward(weights, values.maps)
        ctx.set_materialize_grads(False)
        ctx.values, ctx.shape, ctx.linked = values, value.shape, link is not None
        total = total.view(value.shape)
        return total if value.is_contiguous() else torch.empty_like(value).copy_(total), value.new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, given: Tensor | None, link: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        weights, maps = ctx.saved_tensors
        batch, heads, count = weights.shape
        products = None
        if given is not None:
            given = given.reshape(batch * heads, 1, -1)
            products = torch.bmm(given, maps.flatten(0, 1)[:, :count].transpose(1, 2)).view_as(weights)
        gradients = ctx.values.gradients(weights.reshape(batch * heads, count, 1), given)
        last = None if gradients is None else gradients[:, -1].reshape(ctx.shape)
        return products, last, maps.new_zeros(()) if ctx.linked else None, None


def products(query: Tensor, key: Tensor) -> Tensor:
    """Q . K / sqrt(d) over the last axis, in at least single precision."""
    exact = torch.promote_types(query.dtype, torch.float32)
    return (query.to(exact) * key.to(exact)).sum(-1) / math.sqrt(query.shape[-1])


def per_channel(weights: Tensor, head_dim: int) -> Tensor:
    """[B, g, T] -> [B, C, T, 1, 1]."""
    return weights.repeat_interleave(head_dim, 1)[..., None, None]


def recomputing() -> bool:
    """Whether this is a forward pass inside a backward one: activation checkpointing."""
    return not _whole() and torch._C._current_graph_task_id() != -1


def _whole() -> bool:
    """Whether the graph is taken down, to be compiled or exported: plain operators, which are fused there."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
