"""Skipping redundant layer attention, ELA-style (reconstructed from the abstract of 2503.06473).

Known is what the abstract says: adjacent layers learn near-identical attention over layers, the redundancy is a
KL divergence, a "beta quantile mapping" decides which retrievals to skip. How is a reconstruction, not the
paper's equations. Knows `spaces.techniques.layer_attention.mrla`; nothing of models, stages or choices.
"""

import math
from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from spaces.techniques.layer_attention.mrla import History

KAPPA = 0.05  # divergences from here on are never redundant: logits correlated by 90% give 0.05 to 0.08
KEPT = 0.9  # of the moving average, per batch
_EDGE = 1e-4  # divergences are mapped into this far from 0 and 1
_FLAT = 1e-12  # a variance below this says that all are equal


def redundancy(logits: Tensor, before: Tensor) -> Tensor:
    """KL(a_{t-1} || a_t over the layers that both see, renormalised), a scalar in single precision.

    Args:
        logits: of layer t, [B, g, t]; the mean is over B and g.
        before: of the last layer kept before it, [B, g, t - 1].
    """
    ours = logits[..., :-1].float().log_softmax(-1)
    theirs = before.float().log_softmax(-1)
    return (theirs.exp() * (theirs - ours)).sum(-1).mean()


def beta_cdf(x: float, alpha: float, beta: float) -> float:
    """The regularised incomplete beta function I_x(alpha, beta) for 0 < x < 1, by its continued fraction.

    Numerical Recipes, section 6.4 (Lentz's method); it converges fast below the mean, so the other side is
    taken by symmetry.
    """
    if x > (alpha + 1) / (alpha + beta + 2):
        return 1 - beta_cdf(1 - x, beta, alpha)
    tiny = 1e-300  # in place of a zero denominator
    factor = ratio = 1 / max(1 - (alpha + beta) * x / (alpha + 1), tiny)
    above = 1.0
    for m in range(1, 1000):
        even = m * (beta - m) * x / ((alpha + 2 * m - 1) * (alpha + 2 * m))
        odd = -(alpha + m) * (alpha + beta + m) * x / ((alpha + 2 * m) * (alpha + 2 * m + 1))
        for step in (even, odd):
            ratio = 1 / (1 + step * ratio or tiny)
            above = 1 + step / above or tiny
            factor *= ratio * above
        if abs(ratio * above - 1) < 1e-12:
            break
    log_beta = math.lgamma(alpha) + math.lgamma(beta) - math.lgamma(alpha + beta)
    return math.exp(alpha * math.log(x) + beta * math.log1p(-x) - log_beta) * factor / alpha


def quantiles(divergences: Sequence[float]) -> list[float]:
    """Where each divergence lies, from 0 to 1, in the Beta distribution that has their mean and variance.

    A divergence becomes x = 1 - exp(-KL) first. Where no Beta fits (all equal, or spread wider than any), the
    uniform one stands in for it.
    """
    xs = [min(max(1 - math.exp(-divergence), _EDGE), 1 - _EDGE) for divergence in divergences]
    mean = sum(xs) / len(xs)
    variance = sum((x - mean) ** 2 for x in xs) / len(xs)
    count = mean * (1 - mean) / variance - 1 if variance > _FLAT else 0.0
    alpha, beta = (mean * count, (1 - mean) * count) if count > 0 else (1.0, 1.0)
    return [beta_cdf(x, alpha, beta) for x in xs]


@final
class Gate(nn.Module):
    """Whether one layer skips its retrieval, and the moving average of its measured redundancy.

    The buffers are the truth, and travel with a checkpoint. `forward` of the layer asks `open`, which is plain
    Python so that a compiled or exported network has no trace of a closed layer; it is read from the buffers
    when a state is loaded and when the mode changes between training and evaluation.

    Args:
        threshold: the layer is skipped where its quantile is below.
    """

    def __init__(self, threshold: float):
        super().__init__()
        self.threshold: Tensor
        self.skipped: Tensor
        self.total: Tensor
        self.weight: Tensor
        self.register_buffer("threshold", torch.tensor(threshold))
        self.register_buffer("skipped", torch.tensor(False))
        self.register_buffer("total", torch.zeros(()))
        self.register_buffer("weight", torch.zeros(()))
        self.probing = False
        self._closed = False

    @property
    def open(self) -> bool:
        return not self._closed or (self.probing and self.training)

    @property
    def divergence(self) -> float | None:
        """The redundancy as last measured; None before that."""
        return float(self.total / self.weight) if self.weight else None

    def observe(self, history: History) -> None:
        """Take in the last layer of the history, which is this one; training only."""
        if self.training:
            with torch.no_grad():
                self.total.lerp_(redundancy(history.logits[-1], history.logits[-2]), 1 - KEPT)
                self.weight.lerp_(torch.ones_like(self.weight), 1 - KEPT)

    def forget(self) -> None:
        self.total.zero_()
        self.weight.zero_()

    def skip(self, skipped: bool) -> None:
        self.skipped.fill_(skipped)
        self.refresh()

    def refresh(self) -> None:
        if not self.skipped.is_meta:
            self._closed = bool(self.skipped)

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

    - It is a module of the network, at `skip_controller`, and its layers' gates are in `gates`, from input to
      output over all stages. The third and later layers of a run have one: with two, attention over the one
      layer that both see is always the same.
    - `end_epoch(epoch, epochs)` is called after each epoch, from 1. Nothing else changes the decisions.
    - Nothing is skipped during warm-up, and nothing changes after the last epoch, so what is evaluated then is
      what was trained.
    - A layer is skipped where the quantile of its divergence among all gates is below its threshold and the
      divergence is below `kappa`. Refitting the distribution makes a threshold alone a share of layers to skip,
      whatever their redundancy; `kappa` is what keeps layers that differ.
    - A skipped layer computes nothing but its block, in training and evaluation alike; later layers do not see
      it, and compare themselves with the last layer kept. Its parameters get no gradient.
    - It measures nothing while skipped. So every `probe_every` epochs all layers train for one epoch, to be
      measured anew; evaluation keeps the decisions meanwhile. With `monotone` a skipped layer stays skipped.

    Args:
        kappa: in nats.
        warm_up: share of the epochs.
        probe_every: 0 for never.
    """

    def __init__(
        self,
        gates: Sequence[Gate],
        *,
        kappa: float = KAPPA,
        warm_up: float = 0.1,
        probe_every: int = 10,
        monotone: bool = False,
    ):
        super().__init__()
        self.gates = tuple(gates)  # a tuple: they are modules of their layers
        self.kappa, self.warm_up, self.probe_every, self.monotone = kappa, warm_up, probe_every, monotone
        self.probing: Tensor
        self.register_buffer("probing", torch.tensor(False))

    @property
    def skipped(self) -> tuple[bool, ...]:
        return tuple(bool(gate.skipped) for gate in self.gates)

    @property
    def divergences(self) -> tuple[float | None, ...]:
        return tuple(gate.divergence for gate in self.gates)

    def end_epoch(self, epoch: int, epochs: int) -> None:
        """Decide, after warm-up and before the last epoch; then say whether the next epoch is a probe."""
        first = max(1, math.ceil(self.warm_up * epochs))
        if first <= epoch < epochs:
            self._decide()
        due = self.probe_every and not self.monotone and (epoch - first) % self.probe_every == 0
        self._probe(bool(due) and first < epoch < epochs - 1)

    def _decide(self) -> None:
        measured = [(gate, divergence) for gate in self.gates if (divergence := gate.divergence) is not None]
        if not measured:
            return
        levels = quantiles([divergence for _, divergence in measured])
        for (gate, divergence), level in zip(measured, levels, strict=True):
            redundant = level < float(gate.threshold) and divergence < self.kappa
            gate.skip(redundant or (self.monotone and bool(gate.skipped)))

    def _probe(self, probing: bool) -> None:
        self.probing.fill_(probing)
        for gate in self.gates:
            if probing and gate.skipped:
                gate.forget()
        self._refresh()

    def _refresh(self) -> None:
        if not self.probing.is_meta:
            for gate in self.gates:
                gate.probing = bool(self.probing)

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self._refresh()
