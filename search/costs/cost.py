"""The port: what a network costs, before it is trained."""

from typing import Protocol

from torch import nn

from search.evaluator import Reading

__all__ = ["Cost", "InputSize", "Reading"]

InputSize = tuple[int, int, int]
"""Channels, height and width of one image."""


class Cost(Protocol):
    """One cost, with its setting. No model is changed, and its mode is left as it was.

    Attributes:
        name: in objectives and constraints.
        unit: of the value, for people.
        timed: measured on a machine, with weights, on the device that its setting names; otherwise counted, exact,
            and a model on the meta device is enough.
    """

    @property
    def name(self) -> str: ...

    @property
    def unit(self) -> str: ...

    @property
    def timed(self) -> bool: ...

    def __call__(self, model: nn.Module, input_size: InputSize) -> Reading: ...
