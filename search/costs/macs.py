"""Multiply-accumulates of one image: convolutions, matrix products and attention, as torch counts them.

Counted on the meta device: no weights are copied, nothing is computed, and fused attention is taken apart
into its products, which torch before 2.15 counts as nothing on a CPU (pytorch issue 195460). Norms,
activations and additions are not counted, as is usual.
"""

from typing import final

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from search.costs.cost import InputSize
from spaces.anatomy.meta import on_meta


def macs(model: nn.Module, input_size: InputSize) -> int:
    """Of `model` in evaluation mode on one image `[1, *input_size]`; weights used twice count twice.

    The model may be on any device and stays as it is. Raises whatever its forward raises on such an image.
    """
    counter = FlopCounterMode(display=False)
    with torch.device("meta"), torch.no_grad(), counter:
        on_meta(model).requires_grad_(False)(torch.empty(1, *input_size))
    flops: int = counter.get_total_flops()
    return flops // 2  # torch counts a multiply-accumulate as two operations


@final
class Macs:
    name = "macs"
    unit = "multiply-accumulates an image"

    def __call__(self, model: nn.Module, input_size: InputSize) -> int:
        return macs(model, input_size)
