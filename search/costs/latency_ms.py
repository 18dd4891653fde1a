"""Latency: how long one has to wait for the answer of a network."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import final

from torch import Tensor, nn

from search.costs.cost import InputSize, Reading
from search.costs.runtimes import Forward


@final
@dataclass(frozen=True, kw_only=True)
class Latency(Forward):
    """Milliseconds of a forward pass of `batch` images, from the call until the logits are there.

    On a GPU each pass waits for the last to be done: with small networks that is the time in which the CPU hands it
    the kernels, and not the inverse of the throughput.
    """

    name: str = "latency_ms"
    batch: int = 1

    @property
    def unit(self) -> str:
        return "ms"

    def __call__(self, model: nn.Module, input_size: InputSize) -> Reading:
        """As `seconds`."""
        reading = self.seconds(model, input_size)
        return replace(reading, value=1000 * reading.value)

    def prepared(self, model: nn.Module, images: Tensor) -> Callable[[], object]:
        run = super().prepared(model, images)

        def answered() -> None:
            run()
            self.wait()

        return answered


def latency_ms(model: nn.Module, input_size: InputSize, *, batch: int = 1) -> float:
    """Median milliseconds of a forward pass of `batch` images on the device of the model; more by `Latency`."""
    device = next(model.parameters()).device.type
    return Latency(device=device, batch=batch)(model, input_size).value
