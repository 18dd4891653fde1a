"""Modules that scale: x -> f * x, with f fixed, learned or computed from x, and how strongly they come to count.

Each stands at the end of a layer and knows its own tensor layout; nothing here knows where layers end.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from spaces.anatomy.meta import meta_image, on_meta
from spaces.anatomy.trace import Trace

GATE_REACH = 10.0  # from 1 to 0 and back five times; with 4 as many close in 255 steps, with the weights' 0.25 none


class Scale(nn.Module, ABC):
    """x -> factor(x) * x.

    Args:
        place: the module of the backbone at whose end it stands.
        trailing: axes of x after the channels (2 for [N, C, H, W], 0 for [N, tokens, C]).
    """

    def __init__(self, place: str, trailing: int):
        super().__init__()
        self.place, self.trailing = place, trailing

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor(x)

    @abstractmethod
    def factor(self, x: Tensor) -> Tensor:
        """What x is multiplied by, in a shape that broadcasts to that of x."""

    def pooled(self, x: Tensor) -> Tensor:
        """[N, C]: the mean of each channel."""
        channels = x.ndim - 1 - self.trailing
        others = [axis for axis in range(1, x.ndim) if axis != channels]
        return x.mean(others) if others else x

    def spread(self, factors: Tensor, x: Tensor) -> Tensor:
        """[N, C] or [N, 1] in the axes of x."""
        shape = [factors.shape[0], *[1] * (x.ndim - 2 - self.trailing), factors.shape[1], *[1] * self.trailing]
        return factors.view(shape)


class Static(Scale):
    """A scale whose factors do not depend on x, so that they can become part of the weights before it."""

    def factor(self, x: Tensor) -> Tensor:
        factors = self.factors()
        return factors.view(-1, *[1] * self.trailing) if len(factors) > 1 else factors

    @abstractmethod
    def factors(self) -> Tensor:
        """[C], or [1] where all channels have the same."""


@final
class Fixed(Static):
    """One factor, not learned."""

    def __init__(self, place: str, trailing: int, value: float):
        super().__init__(place, trailing)
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        return x * self.value

    def factors(self) -> Tensor:
        return torch.tensor([self.value])

    def extra_repr(self) -> str:
        return f"{self.value:g}"


@final
class Learned(Static):
    """Learned factors: one, one a channel, or one a group of channels that follow each other.

    Args:
        channels: C of x.
        count: how many factors; divides C.
        start: initial value of each.
        strength: s of the penalty s * sum |gamma| (1708.06519, equation 1).
    """

    def __init__(
        self, place: str, trailing: int, *, channels: int, count: int, start: float, strength: float, device: Any
    ):
        super().__init__(place, trailing)
        self.start, self.strength, self.channels = start, strength, channels
        self.gamma = nn.Parameter(torch.full((count,), start, device=device))  # one axis: no weight decay

    def factors(self) -> Tensor:
        count = len(self.gamma)
        if count in (1, self.channels):
            return self.gamma
        return self.gamma[:, None].expand(count, self.channels // count).reshape(-1)

    def penalty(self) -> Tensor:
        return self.strength * self.gamma.abs().sum()

    @property
    def reach(self) -> float:
        """Of a gate with a penalty: far enough to close, however short the training (`search.training.Trainer`)."""
        return GATE_REACH if self.strength and len(self.gamma) == 1 else 0.0

    def extra_repr(self) -> str:
        return f"{len(self.gamma)}, start={self.start:g}"


@final
class Gate(Scale):
    """One factor an image, from the mean of each channel of x: relu(w . mean(x) + b), which can be 0 exactly.

    Starts at 1 (w = 0, b = 1). The penalty is s times the mean over the images of the last forward pass. Only b
    gets the reach of a gate: with w, which sums over all channels, gates jump and the network does not learn.
    """

    reach = GATE_REACH

    def __init__(self, place: str, trailing: int, *, channels: int, strength: float, device: Any):
        super().__init__(place, trailing)
        self.strength = strength
        self.gate = nn.Linear(channels, 1, bias=False, device=device)
        nn.init.zeros_(self.gate.weight)
        self.bias = nn.Parameter(torch.ones(1, device=device))
        self._last: Tensor | None = None

    def factor(self, x: Tensor) -> Tensor:
        gates = (self.gate(self.pooled(x)) + self.bias).relu()
        if self.training and torch.is_grad_enabled():
            self._last = gates
        return self.spread(gates, x)

    def penalty(self) -> Tensor:
        """0 before the first forward pass in training mode."""
        last, self._last = self._last, None
        return self.bias.new_zeros(()) if last is None else self.strength * last.mean()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last": None}  # part of a step's graph, which cannot be copied


@final
class SqueezeExcite(Scale):
    """A factor a channel: sigmoid(W2 relu(W1 mean(x))), without biases (1709.01507, equation 3)."""

    def __init__(self, place: str, trailing: int, *, channels: int, hidden: int, device: Any):
        super().__init__(place, trailing)
        self.fc1 = nn.Linear(channels, hidden, bias=False, device=device)
        self.fc2 = nn.Linear(hidden, channels, bias=False, device=device)

    def factor(self, x: Tensor) -> Tensor:
        return self.spread(self.fc2(self.fc1(self.pooled(x)).relu()).sigmoid(), x)


@final
class EfficientAttention(Scale):
    """A factor a channel: sigmoid of a convolution over the channels' means (1910.03151, section 3.2)."""

    def __init__(self, place: str, trailing: int, *, channels: int, device: Any):
        super().__init__(place, trailing)
        kernel = eca_kernel(channels)
        self.conv = nn.Conv1d(1, 1, kernel, padding=kernel // 2, bias=False, device=device)

    def factor(self, x: Tensor) -> Tensor:
        return self.spread(self.conv(self.pooled(x)[:, None]).sigmoid()[:, 0], x)


def eca_kernel(channels: int) -> int:
    """The odd size next to log2(C) / 2 + 1 / 2 (1910.03151, equation 12)."""
    size = int(abs((math.log2(channels) + 1) / 2))
    return size if size % 2 else size + 1


def scales_of(model: nn.Module) -> dict[str, Scale]:
    """The scales in a model by their place in the backbone."""
    return {module.place: module for module in model.modules() if isinstance(module, Scale)}


def own_scales(trace: Trace, model: nn.Module) -> dict[str, str]:
    """Parameters with which a traced model itself scales its branches, each with the module that comes before it."""
    found = {}
    parameters = dict(model.named_parameters())
    for addition in trace.additions:
        if addition.scale in parameters and is_own_scale(model, addition.scale):
            found[addition.scale] = max((*addition.producers, addition.module), key=trace.order.index)
    return found


def is_own_scale(model: nn.Module, name: str) -> bool:
    """Whether a parameter that multiplies a branch is a scale, and not the gain of a norm or one of ours."""
    owner = model.get_submodule(name.rpartition(".")[0])
    return not isinstance(owner, Scale) and "norm" not in type(owner).__name__.lower()


def strengths(model: nn.Module, images: Tensor | None = None) -> dict[str, list[float]]:
    """How strongly each place counts, in order of execution.

    By place: |factor| of each channel or group, or of the layer, for learned, fixed and the model's own scales;
    the mean over `images` where factors depend on them. Those are left out where no images are given.

    Args:
        images: [N, C, H, W] on the model's device. The model runs on them in evaluation mode, and stays as it is.
    """
    shadow = on_meta(model)
    trace = Trace(shadow, meta_image(model, None if images is None else tuple(images.shape[1:])))  # type: ignore[arg-type]
    ranks = {path: rank for rank, path in enumerate(trace.order)}
    found: list[tuple[int, str, list[float]]] = []
    for name, before in own_scales(trace, shadow).items():
        found.append((ranks[before], name, _listed(model.get_parameter(name))))
    dynamic = {} if images is None else mean_factors(model, [images])
    for path, module in model.named_modules():
        if isinstance(module, Learned):
            found.append((ranks[path], module.place, _listed(module.gamma)))
        elif isinstance(module, Static):
            found.append((ranks[path], module.place, _listed(module.factors())))
        elif isinstance(module, Scale) and module.place in dynamic:
            found.append((ranks[path], module.place, dynamic[module.place]))
    return {place: values for _, place, values in sorted(found, key=lambda item: item[0])}


def _listed(factors: Tensor) -> list[float]:
    return [float(value) for value in factors.detach().abs().flatten()]


def mean_factors(model: nn.Module, batches: Sequence[Tensor]) -> Mapping[str, list[float]]:
    """The mean |factor| over images, by place, of the scales that depend on them; [N, C, H, W] a batch."""
    sums: dict[str, Tensor] = {}

    def hook(scale: Any, args: tuple[Tensor, ...], output: Tensor) -> None:
        factors = scale.factor(args[0]).detach().abs().flatten(1).double().sum(0)
        sums[scale.place] = sums.get(scale.place, 0) + factors

    dynamic = [module for module in model.modules() if isinstance(module, Scale) and not isinstance(module, Static)]
    if not dynamic:
        return {}  # the usual case: nothing to run the model for
    hooks = [module.register_forward_hook(hook) for module in dynamic]
    training = [module for module in model.modules() if module.training]
    try:
        with torch.no_grad():
            model.eval()
            for batch in batches:
                model(batch)
    finally:
        for handle in hooks:
            handle.remove()
        for module in training:
            module.training = True
    count = sum(len(batch) for batch in batches)
    return {place: (total / count).tolist() for place, total in sums.items()}
