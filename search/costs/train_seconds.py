"""Seconds of an epoch of training: what the search itself costs."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search.costs.clock import DTYPES, Timed
from search.costs.cost import InputSize, Reading
from search.costs.train_peak_bytes import Optimizer, adamw
from spaces import InputError


@final
@dataclass(frozen=True, kw_only=True)
class TrainSeconds(Timed):
    """The time of a step, times the steps of an epoch; `seconds` is that of a step.

    A step is forward, cross entropy, backward and the optimizer's, on a batch that is there already: loading and
    augmenting images, and validation, are not in it.

    Attributes:
        images: of an epoch; batches are never larger.
        optimizer: of the network that it is given.
        dtype: other than `float32`, of the autocast; weights stay float32.
    """

    name: str = "train_seconds"
    batch: int = 64
    images: int
    optimizer: Optimizer = adamw

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.images <= 0:
            raise InputError(f"{self.name}: images must be above 0, not {self.images}")

    @property
    def unit(self) -> str:
        return "s an epoch"

    def __call__(self, model: nn.Module, input_size: InputSize) -> Reading:
        """As `seconds`, of an epoch."""
        reading = self.seconds(model, input_size)
        return replace(reading, value=reading.value * math.ceil(self.images / self.batch))

    def prepared(self, model: nn.Module, images: Tensor) -> Callable[[], object]:
        """A step. On GPUs with channels last, as `search.training` does it."""
        order = torch.channels_last if self.device == "cuda" else torch.contiguous_format
        network = copy.deepcopy(model).to(self.device).to(memory_format=order).train()
        images = images[: self.images].contiguous(memory_format=order)
        with torch.no_grad():
            classes = network(images).shape[1]
        labels = torch.randint(classes, (len(images),), generator=torch.Generator().manual_seed(0)).to(self.device)
        optimizer, dtype = self.optimizer(network), DTYPES[self.dtype]
        scaler = torch.amp.GradScaler(self.device, enabled=dtype == torch.float16)

        def step() -> None:
            with torch.autocast(self.device, dtype, enabled=dtype != torch.float32), torch.enable_grad():
                loss = F.cross_entropy(network(images), labels)
            torch.autograd.backward(scaler.scale(loss))
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()

        return step
