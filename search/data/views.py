"""The transform "timm": each training image on its own through timm's Pillow transforms, in a DataLoader.

Slower than the batched transforms and independent of where in the epoch an image comes: its view depends
on seed, epoch and image alone. Knows nothing of models or training.
"""

import random
from collections.abc import Iterator
from typing import final

import torch
from timm.data import create_transform
from torch import Tensor
from torch.utils import data as torch_data

from search.data.dataset import Dataset
from search.data.preprocessing import as_image
from search.data.seeds import seed_of

_MOST_WORKERS = 16  # processes that prepare batches for a GPU


@final
class Views(torch_data.Dataset[tuple[Tensor, int]]):
    """Random views of one epoch, by index into the data set."""

    def __init__(self, dataset: Dataset, seed: int, epoch: int):
        preprocessing = dataset.preprocessing
        self._dataset, self._key = dataset, (seed, epoch)
        self._transform = create_transform(
            (preprocessing.in_chans, preprocessing.image_size, preprocessing.image_size),
            is_training=True,
            mean=preprocessing.mean,
            std=preprocessing.std,
            interpolation=preprocessing.interpolation,
        )

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        seed = seed_of("view", *self._key, index)
        state = random.getstate()
        try:
            with torch.random.fork_rng(devices=[]):  # timm draws from Python's generator, torchvision from torch's
                random.seed(seed)
                torch.default_generator.manual_seed(seed)
                return self._transform(as_image(self._dataset.images[index])), int(self._dataset.labels[index])
        finally:
            random.setstate(state)

    def batches(self, indices: list[list[int]], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """Float32 `[n, C, H, W]` and int64 `[n]` on `device`, one pair for each list of indices."""
        cuda = device.type == "cuda"
        loader = torch_data.DataLoader(
            self,
            batch_sampler=indices,
            num_workers=min(torch.get_num_threads(), _MOST_WORKERS) if cuda else 0,
            pin_memory=cuda,
            generator=torch.Generator().manual_seed(seed_of("loader", *self._key)),
        )
        for images, labels in loader:
            yield images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
