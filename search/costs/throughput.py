"""Throughput: how many images a network can take, one batch after the other."""

from dataclasses import dataclass, replace
from typing import final

from torch import nn

from search.costs.cost import InputSize, Reading
from search.costs.runtimes import Forward


@final
@dataclass(frozen=True, kw_only=True)
class Throughput(Forward):
    """Images a second in forward passes of `batch`; on a GPU the next is handed over while one is computed.

    The spread is that of the seconds, which as a share is the same.
    """

    name: str = "throughput"
    batch: int = 64

    @property
    def unit(self) -> str:
        return "images/s"

    def __call__(self, model: nn.Module, input_size: InputSize) -> Reading:
        """As `seconds`."""
        reading = self.seconds(model, input_size)
        return replace(reading, value=self.batch / reading.value)
