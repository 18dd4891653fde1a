"""Multiply-accumulates of one image: convolutions, matrix products, attention and weighted sums.

Counted on the meta device: no weights are copied, nothing is computed, and fused attention is taken apart
into its products, which torch before 2.15 counts as nothing on a CPU (pytorch issue 195460).
"""

from typing import final

from torch import nn

from search.costs.cost import InputSize, Reading
from search.costs.parts import Parts
from spaces.anatomy.meta import on_meta
from spaces.twin import modules_of


def macs(model: nn.Module, input_size: InputSize, parts: Parts | None = None) -> int:
    """Of `model` in evaluation mode on one image `[1, *input_size]`; weights used twice count twice.

    The model may be on any device and stays as it is. Raises whatever its forward raises on such an image.

    Args:
        parts: what is known of modules, for more than one model.
    """
    return (parts or Parts()).macs(model if _is_skeleton(model) else on_meta(model), input_size)


def _is_skeleton(model: nn.Module) -> bool:
    """On the meta device and in evaluation mode already."""
    return all(
        not module.training
        and all(
            tensor is None or tensor.is_meta for tensor in (*module._parameters.values(), *module._buffers.values())
        )
        for module in modules_of(model)
    )


@final
class Macs:
    """Remembers the parts of the networks that it has seen: one instance is for many."""

    unit = "multiply-accumulates an image"
    timed = False

    def __init__(self, *, name: str = "macs"):
        self.name = name
        self._parts = Parts()

    def __call__(self, model: nn.Module, input_size: InputSize) -> Reading:
        return Reading(value=macs(model, input_size, self._parts))
