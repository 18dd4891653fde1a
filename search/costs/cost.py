"""The port: a cost of a network that needs neither weights nor data."""

from typing import Protocol

from torch import nn

InputSize = tuple[int, int, int]
"""Channels, height and width of one image."""


class Cost(Protocol):
    """Exact, and lower is better. A model on the meta device is enough, and none is changed.

    Attributes:
        name: in objectives and constraints.
        unit: of what `__call__` gives, for people.
    """

    @property
    def name(self) -> str: ...

    @property
    def unit(self) -> str: ...

    def __call__(self, model: nn.Module, input_size: InputSize) -> float: ...
