"""The networks that are compared: a CIFAR ResNet of any depth, and what is between its layers.

`mrla_base_naive` is ours with the same parameters, where each layer keeps all values so far in one tensor that grows
by `torch.cat`, as the reference does (joyfang1106/MRLA, resnet/models/modules/mrla_base_module.py). Knows how to build
networks, nothing of how they are trained or timed.

Symbols: B images, C channels, g heads of d channels, T layers so far.
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from search.data.seeds import seed_of
from search.training import seeded
from spaces import Architecture, build
from spaces.techniques.layer_attention.ela import SkipController
from spaces.techniques.layer_attention.mrla import BaseAttention, BaseLayer, Retrieval

NAMED = (20, 56, 110)  # depths that have a name of their own; others are of the form 9n + 2 as well
NAIVE = "mrla_base_naive"
MATCHED = ("percentile", "random")  # rules that get the ratio at which ELA skipped


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to put attention between the layers.

    Attributes:
        choice: of `layer_attention`; None for a network as it is.
        naive: in the form of the reference.
    """

    choice: str | None = None
    naive: bool = False
    knobs: Mapping[str, Any] = field(default_factory=dict)


def _ela(**knobs: Any) -> Arm:
    return Arm(choice="ela", knobs=knobs)


ARMS: Mapping[str, Arm] = {
    "plain": Arm(),
    NAIVE: Arm(choice="mrla_base", naive=True),
    "mrla_base": Arm(choice="mrla_base"),
    "mrla_light": Arm(choice="mrla_light"),
    "ela": _ela(skip_threshold=0.3),
    "ela_0.2": _ela(skip_threshold=0.2),
    "ela_0.5": _ela(skip_threshold=0.5),
    "kl_threshold": _ela(skip_threshold=0.05, rule="kl_threshold"),  # nats
    **{rule: _ela(rule=rule) for rule in MATCHED},
}


def architecture(depth: int, arm: str, *, drop_path: float = 0.0, **knobs: Any) -> Architecture:
    """Of a ResNet of this depth; `knobs` are added to those of the arm."""
    blocks, rest = divmod(depth - 2, 9)
    if rest or blocks < 1:
        raise SystemExit(f"depth {depth} is not of the form 9n + 2, as {', '.join(map(str, NAMED))} and 38 are")
    kwargs: dict[str, Any] = {} if depth in NAMED else {"layers": [blocks] * 3}
    if drop_path:
        kwargs["drop_path_rate"] = drop_path
    given = ARMS[arm]
    choices: dict[str, Any] = {}
    if given.choice is not None:
        own = {**given.knobs, **knobs} if given.choice == "ela" else {}
        choices["layer_attention"] = {"kind": given.choice, **own} if own else given.choice
    name = f"cifar_resnet{depth if depth in NAMED else NAMED[0]}"
    return Architecture(backbone=name, kwargs=kwargs, choices=choices)


def network(architecture: Architecture, classes: int, *, seed: int, naive: bool = False) -> nn.Module:
    """The trunk of a seed starts from the same weights in all arms."""
    with seeded(seed_of("weights", seed), torch.device("cpu")):
        model = build(architecture, classes)
    return naively(model) if naive else model


class Stack:
    """Keys [B, T, C] and values [B, T, C, H, W] of the layers so far of one run."""

    def __init__(self) -> None:
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def add(self, key: Tensor, value: Tensor, *, anew: bool) -> tuple[Tensor, Tensor]:
        """One layer more, in a copy of all."""
        if not anew:
            assert self.keys is not None
            assert self.values is not None
            key, value = torch.cat((self.keys, key), dim=1), torch.cat((self.values, value), dim=1)
        self.keys, self.values = key, value
        return key, value

    def clear(self) -> None:
        self.keys = self.values = None


class NaiveAttention(nn.Module):
    """O_t = concat_h softmax_{s <= t}(Q_h . K_{s,h} / sqrt(d)) V_{s,h}, over a copy of all values at each layer."""

    def __init__(self, retrieval: Retrieval, stack: Stack, *, first: bool, last: bool):
        super().__init__()
        self.retrieval, self.stack, self.first, self.last = retrieval, stack, first, last

    def forward(self, maps: Tensor) -> Tensor:
        (batch, _, height, width), (heads, size) = maps.shape, self.retrieval.shape
        pooled = maps.mean((2, 3)).unsqueeze(1)  # [B, 1, C]
        query, key = self.retrieval.query(pooled), self.retrieval.key(pooled)
        value = self.retrieval.value(maps).unsqueeze(1)  # [B, 1, C, H, W]
        keys, values = self.stack.add(key, value, anew=self.first)
        if self.last:
            self.stack.clear()
        layers = keys.shape[1]
        queried = query.view(batch, heads, 1, size)
        stored = keys.view(batch, layers, heads, size).transpose(1, 2)
        weights = (torch.einsum("bgid,bgtd->bgit", queried, stored) / math.sqrt(size)).softmax(-1)
        spread = values.view(batch, layers, heads, size, height, width).transpose(1, 2).flatten(3)
        return torch.einsum("bgit,bgtj->bgij", weights, spread).reshape(maps.shape)


def naively(model: nn.Module) -> nn.Module:
    """A copy with the same weights whose base attentions have the form of the reference; it skips nothing."""
    model = copy.deepcopy(model)
    runs: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        if isinstance(module, BaseLayer):
            module.gate = None
        if isinstance(module, BaseAttention):
            runs.setdefault(id(module.history), []).append(name)
    for names in runs.values():
        stack = Stack()
        for place, name in enumerate(names):
            ours = model.get_submodule(name)
            assert isinstance(ours, BaseAttention)
            naive = NaiveAttention(ours.retrieval, stack, first=place == 0, last=place == len(names) - 1)
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, naive)
    return model


def attending(model: nn.Module) -> int:
    """Layers that retrieve from those before them where nothing is skipped."""
    return sum(isinstance(module, BaseAttention) for module in model.modules())


def close(model: nn.Module, share: float) -> float:
    """Skip this share of all layers that attend, spread evenly over those that can be.

    Returns:
        the share that is skipped: as near as whole layers, and those that never are, allow.
    """
    controller, layers = model.skip_controller, attending(model)
    assert isinstance(controller, SkipController)
    gates = controller.gates
    count = min(round(share * layers), len(gates))
    chosen = {index * len(gates) // count for index in range(count)} if count else set()
    for index, gate in enumerate(gates):
        gate.skip(index in chosen)
    return count / layers
