"""Parameters: learned numbers, each counted once however often it is used. Buffers do not count."""

from typing import final

from torch import nn

from search.costs.cost import InputSize


def params(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@final
class Params:
    name = "params"
    unit = "parameters"

    def __call__(self, model: nn.Module, input_size: InputSize) -> int:
        return params(model)
