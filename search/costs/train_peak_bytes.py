"""The most memory that a training step takes: weights, gradients, optimiser state, and what autograd saves.

That of the second step: the first makes the optimiser's state.
"""

from collections.abc import Callable
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search.costs.cost import InputSize, Reading
from search.costs.memory import Memory, hollow, tensors, without_data
from spaces.errors import InputError

Optimizer = Callable[[nn.Module], torch.optim.Optimizer]
"""Makes the optimiser of a network."""


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    """Two numbers of state a parameter; fused, as the trainer takes it: a step makes nothing in between."""
    return torch.optim.AdamW(model.parameters(), fused=True)


def peak_of_step(model: nn.Module, images: Tensor, labels: Tensor, optimizer: Optimizer) -> int:
    """Bytes, of a model in training mode on images `[N, C, H, W]` and labels int64 `[N]`; it is trained for two steps.

    Raises:
        InputError: without data the optimiser's step does not run.
    """
    state, memory = optimizer(model), Memory([*tensors(model), images, labels])
    with torch.inference_mode(False), torch.enable_grad(), memory:
        for _ in range(2):
            memory.restart()
            loss = F.cross_entropy(model(images), labels)
            torch.autograd.backward(loss)
            try:
                state.step()
            except Exception as error:  # those few that ask for values, each in its own way
                reason = str(error).partition("\n")[0]
                raise InputError(
                    f"the memory of a training step cannot be counted with {type(state).__name__}, whose step needs"
                    f" the values of gradients ({reason}); leave the cost out, or take another train.optimizer"
                ) from None
            state.zero_grad()
    return memory.peak_bytes


@final
class TrainPeakBytes:
    """Of one training step on `batch` images: forward, cross entropy, backward, step; float32, nothing recomputed.

    Counted, see `search.costs.memory`. Mixed precision takes less. Raises whatever the step raises on such images.
    """

    unit = "bytes"
    timed = False

    def __init__(self, *, name: str = "train_peak_bytes", batch: int = 64, optimizer: Optimizer = adamw):
        self.name, self._batch, self._optimizer = name, batch, optimizer

    def __call__(self, model: nn.Module, input_size: InputSize) -> Reading:
        with without_data():
            images = torch.empty(self._batch, *input_size, device="cpu")
            labels = torch.zeros(self._batch, dtype=torch.long, device="cpu")
            copy = hollow(model, training=True)
            return Reading(value=peak_of_step(copy, images, labels, self._optimizer))
