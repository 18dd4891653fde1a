"""A whole classifier as one graph, for those who have none of our code: squares in, probabilities out.

`images`, uint8 `[N, S, S, C]` with S = `resize_size` and any N, to `probabilities`, float32 `[N, classes]`: cropping,
normalisation and softmax are inside. Knows models, nothing of the formats that a graph is written in.
"""

import copy
from typing import final

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from search.costs.runtimes import silence
from search.data.preprocessing import Preprocessing
from search.model import Model
from spaces import InputError
from spaces.backbone import first_line

INPUT, OUTPUT = "images", "probabilities"


@final
class Program(nn.Module):
    """The last steps of `Preprocessing`, a network, softmax; what it keeps of them are tensors."""

    def __init__(self, module: nn.Module, preprocessing: Preprocessing):
        super().__init__()
        self.module, self.preprocessing = copy.deepcopy(module), preprocessing  # tracing may leave its traces there
        self.mean: Tensor
        self.std: Tensor
        for name, values in (("mean", preprocessing.mean), ("std", preprocessing.std)):
            self.register_buffer(name, torch.tensor(values)[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        pixels = self.preprocessing.crop(images).permute(0, 3, 1, 2).float() / 255
        probabilities: Tensor = self.module((pixels - self.mean) / self.std).softmax(dim=1)
        return probabilities


def traced(model: Model) -> ExportedProgram:
    """The graph of a model in evaluation mode, for any number of images.

    Raises:
        InputError: torch cannot trace the network; the message says why.
    """
    preprocessing = model.preprocessing
    program = Program(model.module, preprocessing).eval().requires_grad_(False)
    side = preprocessing.resize_size
    images = torch.zeros(2, side, side, preprocessing.in_chans, dtype=torch.uint8)  # one is taken for a constant
    try:
        with silence():
            return torch.export.export(program, (images,), dynamic_shapes={INPUT: {0: Dim("batch")}})
    except Exception as error:  # whatever a network does that torch cannot follow
        raise InputError(f"torch cannot trace {model.architecture.label}: {first_line(error)}") from None
