"""Skipping: which retrievals of layer attention a training skipped, epoch by epoch, and by what measure.

A network says it of itself, through its skip controller (`spaces.techniques.layer_attention.ela`). It is kept as
metrics of a `Measurement`, one number each, so that it goes wherever a training's curves go; `Skipping` reads it back.
Knows networks and measurements; nothing of studies, MLflow or pictures.

    layer_attention/skipped_share     share of the layers that attend, gated or not, whose retrieval is skipped
    layer_attention/skipped/BLOCK     1 where the retrieval after this block is skipped, else 0
    layer_attention/kl/BLOCK          its divergence, nats, as last measured; absent before that
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

from torch import nn

from search.evaluator import Measurement
from spaces.techniques.layer_attention.ela import SkipController

SHARE = "layer_attention/skipped_share"
SKIPPED, KL = "layer_attention/skipped/", "layer_attention/kl/"  # and a block


def metrics_of(model: nn.Module) -> dict[str, float]:
    """What the skip controller of a network says now; empty where there is none."""
    controller = _controller(model)
    if controller is None:
        return {}
    found = {SHARE: float(controller.skipped_share)}
    for block, skipped, divergence in zip(controller.blocks, controller.skipped, controller.divergences, strict=True):
        found[SKIPPED + block] = float(skipped)
        if divergence is not None and math.isfinite(divergence):
            found[KL + block] = float(divergence)
    return found


def skipped_blocks(model: nn.Module) -> tuple[str, ...]:
    """Paths of the blocks after which a network, as it is, skips the retrieval; from input to output."""
    controller = _controller(model)
    if controller is None:
        return ()
    return tuple(block for block, skipped in zip(controller.blocks, controller.skipped, strict=True) if skipped)


def _controller(model: nn.Module) -> SkipController | None:
    found = getattr(model, "skip_controller", None)
    return found if isinstance(found, SkipController) else None


@dataclass(frozen=True, kw_only=True)
class Skipping:
    """The course of one training, over epochs.

    Attributes:
        blocks: paths of the gated ones, from input to output.
        epochs: those that are known, from 1, in order.
        skipped: whether, by epoch, then block.
        kl_nats: the divergence, by epoch, then block; None before it was measured.
        skipped_share: of all layers that attend, by epoch.
    """

    blocks: tuple[str, ...]
    epochs: tuple[int, ...]
    skipped: tuple[tuple[bool, ...], ...]
    kl_nats: tuple[tuple[float | None, ...], ...]
    skipped_share: tuple[float, ...]

    @classmethod
    def of(cls, history: Iterable[Measurement]) -> Self | None:
        """Of all measurements of a training; None where its network skips nothing by itself."""
        known = [(measurement.fidelity, measurement.metrics) for measurement in history if SHARE in measurement.metrics]
        if not known:
            return None
        blocks = tuple(name.removeprefix(SKIPPED) for name in known[-1][1] if name.startswith(SKIPPED))
        return cls(
            blocks=blocks,
            epochs=tuple(epoch for epoch, _ in known),
            skipped=tuple(tuple(metrics.get(SKIPPED + block) == 1 for block in blocks) for _, metrics in known),
            kl_nats=tuple(tuple(metrics.get(KL + block) for block in blocks) for _, metrics in known),
            skipped_share=tuple(metrics[SHARE] for _, metrics in known),
        )

    @property
    def last(self) -> tuple[str, ...]:
        """Paths of the blocks skipped after the last epoch."""
        return tuple(block for block, skipped in zip(self.blocks, self.skipped[-1], strict=True) if skipped)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values; lists of lists are by epoch, then block."""
        return {
            "blocks": list(self.blocks),
            "epochs": list(self.epochs),
            "skipped": [list(row) for row in self.skipped],
            "kl_nats": [list(row) for row in self.kl_nats],
            "skipped_share": list(self.skipped_share),
        }
