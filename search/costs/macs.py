"""Multiply-accumulates of one image: convolutions, matrix products and attention, as torch counts them.

Counted on the meta device: no weights are copied, nothing is computed, and fused attention is taken apart
into its products, which torch before 2.15 counts as nothing on a CPU (pytorch issue 195460). Norms,
activations and additions are not counted, as is usual.
"""

import copy
from typing import final

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from search.costs.cost import InputSize


def macs(model: nn.Module, input_size: InputSize) -> int:
    """Of `model` in evaluation mode on one image `[1, *input_size]`; weights used twice count twice.

    The model may be on any device and stays as it is. Raises whatever its forward raises on such an image.
    """
    counter = FlopCounterMode(display=False)
    with torch.device("meta"), torch.no_grad(), counter:
        _on_meta(model).eval()(torch.empty(1, *input_size))
    flops: int = counter.get_total_flops()
    return flops // 2  # torch counts a multiply-accumulate as two operations


def _on_meta(model: nn.Module) -> nn.Module:
    """A copy without data: `deepcopy` is handed an empty twin of each tensor, and keeps ties as they are."""
    twins = {
        id(parameter): nn.Parameter(parameter.to("meta"), parameter.requires_grad) for parameter in model.parameters()
    } | {id(buffer): buffer.to("meta") for buffer in model.buffers()}
    return copy.deepcopy(model, twins)


@final
class Macs:
    name = "macs"
    unit = "multiply-accumulates an image"

    def __call__(self, model: nn.Module, input_size: InputSize) -> int:
        return macs(model, input_size)
