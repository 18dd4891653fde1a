"""Skipping redundant layer attention, ELA-style (reconstructed from the abstract of 2503.06473).

Known is what the abstract says: adjacent layers learn near-identical attention over layers, the redundancy is a
KL divergence, a "beta quantile mapping" decides which retrievals to skip. How is a reconstruction, not the
paper's equations. Knows `rules`, tensors and processes that train together; nothing of models, stages or choices.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, final

import torch
from torch import Tensor, distributed, nn

from spaces.techniques.layer_attention.rules import RULES

KEPT = 0.9  # of the moving average, per batch
_UNKNOWN = -1.0  # no divergence is negative; not NaN, with which equal states would compare as unequal


def redundancy(logits: Tensor, before: Tensor) -> Tensor:
    """KL(a_{t-1} || a_t over the layers that both see, renormalised), a scalar in single precision.

    Args:
        logits: of layer t, [B, g, t]; the mean is over B and g.
        before: of the last layer kept before it, [B, g, t - 1].
    """
    ours = logits[..., :-1].float().log_softmax(-1)
    theirs = before.float().log_softmax(-1)
    return (theirs.exp() * (theirs - ours)).sum(-1).mean()


@final
@dataclass(frozen=True, kw_only=True)
class Policy:
    """How it is decided whether a layer is skipped.

    Attributes:
        rule: one of `RULES`.
        threshold: of the rule, between 0 and 1.
        warm_up: share of the epochs before the first decision.
        probe_every: epochs from one in which skipped layers train, to be measured anew, to the next; 0 for never: a
            layer that is skipped stays so.
    """

    rule: str
    threshold: float
    warm_up: float
    probe_every: int

    def first(self, epochs: int) -> int:
        """The epoch at whose end is decided for the first time."""
        return max(1, math.ceil(round(self.warm_up * epochs, 9)))  # 0.07 * 100 is a little above 7

    def probes(self, epoch: int, epochs: int) -> bool:
        """Whether the epoch after this one is a probe; not the last, which trains what is evaluated."""
        since = epoch - self.first(epochs)
        return self.probe_every > 0 and since > 0 and since % self.probe_every == 0 and epoch < epochs - 1


@final
class Gate(nn.Module):
    """Whether one layer skips its retrieval, and the moving average of its measured redundancy.

    The buffers are the truth, and travel with a checkpoint. `forward` of the layer asks `open`, which is plain
    Python so that a compiled or exported network has no trace of a closed layer; it is read from the buffers
    when a state is loaded and when the mode changes between training and evaluation.
    """

    def __init__(self, policy: Policy):
        super().__init__()
        self.policy = policy
        self.skipped: Tensor
        self.probing: Tensor
        self.total: Tensor
        self.weight: Tensor
        self.last: Tensor
        self.register_buffer("skipped", torch.tensor(False))
        self.register_buffer("probing", torch.tensor(False))
        self.register_buffer("total", torch.zeros(()))
        self.register_buffer("weight", torch.zeros(()))
        self.register_buffer("last", torch.tensor(_UNKNOWN))  # stands in while a probe has measured nothing yet
        self._closed = self._probing = False

    def extra_repr(self) -> str:
        return repr(self.policy)

    @property
    def open(self) -> bool:
        return not self._closed or (self._probing and self._learning)

    @property
    def divergence(self) -> float | None:
        """The redundancy as last measured, in nats; None before that."""
        if self.weight:
            return float(self.total / self.weight)
        return None if self.last == _UNKNOWN else float(self.last)

    @property
    def _learning(self) -> bool:
        """Not so where the statistics of batch norms are taken anew, which runs in training mode too."""
        return self.training and torch.is_grad_enabled()

    def observe(self, logits: Sequence[Tensor]) -> None:
        """Take in the last of these, [B, g, t] each, which is this layer's; while it learns only."""
        if self._learning:
            with torch.no_grad():
                divergence = redundancy(logits[-1], logits[-2]).to(self.total.dtype)
                share = (1 - KEPT) * divergence.isfinite().to(self.total.dtype)  # of a batch that overflowed nothing
                self.total.lerp_(divergence.nan_to_num(0.0, 0.0, 0.0), share)
                self.weight.lerp_(torch.ones_like(self.weight), share)

    def decide(self, skipped: bool, probing: bool) -> None:
        if probing and skipped and self.weight:
            self.last.copy_(self.total / self.weight)
            self.total.zero_()
            self.weight.zero_()
        self.skipped.fill_(skipped)
        self.probing.fill_(probing)
        self.refresh()

    def skip(self, skipped: bool) -> None:
        self.decide(skipped, probing=False)

    def refresh(self) -> None:
        if not self.skipped.is_meta:
            self._closed, self._probing = bool(self.skipped), bool(self.probing)

    def train(self, mode: bool = True) -> "Gate":
        super().train(mode)
        self.refresh()
        return self

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self.refresh()


@final
class SkipController(nn.Module):
    """Decides at the end of epochs which layers skip their retrieval (ELA-style, reconstructed from the abstract).

    What others may rely on:

    - It is a module of the network, at `skip_controller`. The third and later layers of a run have a gate: with two,
      attention over the one layer that both see is always the same.
    - `end_epoch(epoch, epochs)` is called after each epoch, from 1, in every process that trains the network.
      Nothing else changes the decisions.
    - Nothing is skipped during warm-up, and nothing changes after the last epoch, so what is evaluated then is
      what was trained. A rule sees the divergences of all gates, whatever their stage.
    - A skipped layer computes nothing but its block, in training and evaluation alike; later layers do not see
      it, and compare themselves with the last layer kept. Its parameters get no gradient, so
      `DistributedDataParallel` needs `find_unused_parameters=True`.
    - It measures nothing while skipped, but in the probe epochs of its policy, in which evaluation keeps the decision;
      only after such an epoch is a layer taken back.
    - Processes of a `torch.distributed` group average what they measured, and all take the mask of the first. In a
      `DistributedDataParallel` with `broadcast_buffers`, its default, each counts on from the first's average.

    Args:
        gates: by path of the block after which the layer stands, from input to output.
        retrievals: how many layers attend, with and without a gate.
    """

    def __init__(self, gates: Mapping[str, Gate], retrievals: int):
        super().__init__()
        self.blocks = tuple(gates)
        self.gates = tuple(gates.values())  # a tuple: they are modules of their layers
        self.retrievals = retrievals
        self.seed: Tensor
        self.register_buffer("seed", torch.randint(2**31, ()))  # of random masks

    def extra_repr(self) -> str:
        return "\n".join(f"{block}: {gate.policy}" for block, gate in zip(self.blocks, self.gates, strict=True))

    @property
    def skipped(self) -> tuple[bool, ...]:
        return tuple(bool(gate.skipped) for gate in self.gates)

    @property
    def divergences(self) -> tuple[float | None, ...]:
        """In nats, as last measured; None before that."""
        return tuple(gate.divergence for gate in self.gates)

    @property
    def skipped_share(self) -> float:
        """Of all retrievals, those of layers without a gate included."""
        return sum(self.skipped) / self.retrievals

    def end_epoch(self, epoch: int, epochs: int) -> None:
        """Decide, after warm-up and before the last epoch; then say whether the next epoch is a probe."""
        _average([value for gate in self.gates for value in (gate.total, gate.weight)])
        measured = {gate: divergence for gate in self.gates if (divergence := gate.divergence) is not None}
        skipped = {gate: bool(gate.skipped) for gate in self.gates}
        for policy in dict.fromkeys(gate.policy for gate in measured):
            if policy.first(epochs) <= epoch < epochs:
                mask = RULES[policy.rule](list(measured.values()), policy.threshold, Random(int(self.seed)))
                chosen = [gate for gate, one in zip(measured, mask, strict=True) if one and gate.policy == policy]
                skipped |= self._after(policy, chosen, measured)
        for gate, one in zip(self.gates, self._agreed([skipped[gate] for gate in self.gates]), strict=True):
            gate.decide(one, gate.policy.probes(epoch, epochs))

    def _after(self, policy: Policy, chosen: Sequence[Gate], measured: Mapping[Gate, float]) -> dict[Gate, bool]:
        """Of the measured gates of a policy, which are skipped now that its rule has chosen.

        After a probe those that were chosen. Else what is skipped stays so, as it was not measured, and of the others
        those that diverge least join it, until as many are skipped as were chosen: what was measured long ago does not
        make room for more.
        """
        own = [gate for gate in measured if gate.policy == policy]
        if any(bool(gate.probing) for gate in own):
            return {gate: gate in chosen for gate in own}
        kept = [gate for gate in own if gate.skipped]
        joining = sorted((gate for gate in chosen if gate not in kept), key=lambda gate: measured[gate])
        now = {*kept, *joining[: max(0, len(chosen) - len(kept))]}
        return {gate: gate in now for gate in own}

    def _agreed(self, mask: list[bool]) -> list[bool]:
        if _together():
            tensor = torch.tensor(mask, dtype=torch.uint8, device=self.seed.device)
            distributed.broadcast(tensor, src=0)
            return [bool(one) for one in tensor.tolist()]
        return mask


def _together() -> bool:
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def _average(values: Sequence[Tensor]) -> None:
    """Over the processes that train together, in place."""
    if _together():
        packed = torch.stack([*values])
        distributed.all_reduce(packed)
        for value, mean in zip(values, packed / distributed.get_world_size(), strict=True):
            value.copy_(mean)
