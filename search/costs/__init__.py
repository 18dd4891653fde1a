"""What a network costs, known before it is trained: one file a cost, one line in COSTS.

    from search.costs import macs, params
    macs(model, (3, 224, 224)), params(model)

Knows modules and input sizes, nothing of architectures, data or the search.
"""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from search.costs.cost import Cost, InputSize
from search.costs.function import Function
from search.costs.latency_ms import Latency, latency_ms
from search.costs.macs import Macs, macs
from search.costs.model_bytes import ModelBytes
from search.costs.params import Params, params
from search.costs.peak_bytes import PeakBytes
from search.costs.throughput import Throughput
from search.costs.train_peak_bytes import TrainPeakBytes
from search.costs.train_seconds import TrainSeconds
from spaces.schema import KINDS, CostEntry

__all__ = ["COSTS", "Cost", "Function", "InputSize", "latency_ms", "macs", "made", "params"]

COSTS: Mapping[str, Callable[..., Cost]] = {
    "params": Params,
    "macs": Macs,
    "model_bytes": ModelBytes,
    "peak_bytes": PeakBytes,
    "train_peak_bytes": TrainPeakBytes,
    "latency_ms": Latency,
    "throughput": Throughput,
    "train_seconds": TrainSeconds,
}


def made(name: str, entry: CostEntry, *, batch: int, images: int, optimizer: Callable[[nn.Module], Optimizer]) -> Cost:
    """A cost with the setting that a space file gives it.

    Args:
        batch: of a training step, where the setting does not say it.
        images: in the training split.
        optimizer: of the recipe.
    """
    given = {key: getattr(entry, key) for key in KINDS[entry.cost] if getattr(entry, key) is not None}
    step: dict[str, dict[str, Any]] = {
        "train_peak_bytes": {"batch": batch, "optimizer": optimizer},
        "train_seconds": {"batch": batch, "optimizer": optimizer, "images": images},
    }
    return COSTS[entry.cost](name=name, **{**step.get(entry.cost, {}), **given})
