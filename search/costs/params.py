"""Parameters: learned numbers, each counted once however often it is used. Buffers do not count."""

from typing import final

from torch import nn

from search.costs.cost import InputSize, Reading


def params(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@final
class Params:
    unit = "parameters"
    timed = False

    def __init__(self, *, name: str = "params"):
        self.name = name

    def __call__(self, model: nn.Module, input_size: InputSize) -> Reading:
        return Reading(value=params(model))
