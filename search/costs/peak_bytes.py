"""The most memory that a forward pass takes: weights, buffers, the images, and the activations that live at once."""

from typing import final

import torch
from torch import Tensor, nn

from search.costs.cost import InputSize, Reading
from search.costs.memory import Memory, hollow, tensors, without_data


@torch.no_grad()
def peak_of_forward(model: nn.Module, images: Tensor) -> int:
    """Bytes, of a model in evaluation mode on images `[N, C, H, W]`; it runs."""
    memory = Memory([*tensors(model), images])
    with memory:
        model(images)
    return memory.peak_bytes


@final
class PeakBytes:
    """Of `batch` images in evaluation mode, float32, without gradients; counted, see `search.costs.memory`.

    Raises whatever the forward pass raises on such images.
    """

    unit = "bytes"
    timed = False

    def __init__(self, *, name: str = "peak_bytes", batch: int = 1):
        self.name, self._batch = name, batch

    def __call__(self, model: nn.Module, input_size: InputSize) -> Reading:
        with without_data():
            images = torch.empty(self._batch, *input_size, device="cpu")
            return Reading(value=peak_of_forward(hollow(model, training=False), images))
