"""How long a forward pass takes on the device at hand, measured."""

import statistics
import time

import torch
from torch import nn

from search.costs.cost import InputSize

WARM_UP, REPEATS = 3, 15  # passes; the median of so many shrugs off what else the machine does


@torch.inference_mode()
def latency_ms(model: nn.Module, input_size: InputSize, *, batch: int = 1) -> float:
    """Median milliseconds of a forward pass of `batch` images in evaluation mode, on the model's device.

    The model is in the mode it was in afterwards. Noisy where the machine has other work.
    """
    device, training = next(model.parameters()).device, model.training
    images = torch.zeros(batch, *input_size, device=device)
    model.eval()
    times = []
    for _ in range(WARM_UP + REPEATS):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        model(images)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(1000 * (time.perf_counter() - start))
    model.train(training)
    return statistics.median(times[WARM_UP:])
