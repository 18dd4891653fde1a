"""One split of a data set as batches on a device, normalised there: in order, or shuffled and augmented.

Knows nothing of models or of what the batches are for.
"""

from collections.abc import Iterator
from typing import final

import numpy as np
import torch
from torch import Tensor

from search.data.augment import TRANSFORMS
from search.data.dataset import Dataset
from search.data.seeds import seed_of
from search.data.views import Views

Batch = tuple[Tensor, Tensor]


@final
class Batches:
    """Batches `(images, labels)`: float32 `[n, C, H, W]` and int64 `[n]`, n = `batch_size` but for the last.

    A last batch of a single image joins the one before: BatchNorm cannot train on one value. On a GPU the
    uint8 images live in its memory where they take at most a quarter of what is free.
    """

    def __init__(self, dataset: Dataset, indices: np.ndarray, batch_size: int, device: torch.device):
        self._dataset, self._indices, self._device = dataset, indices, device
        starts = range(0, len(indices), batch_size)
        joins = len(starts) > 1 and batch_size > 1 and len(indices) % batch_size == 1
        self._starts = starts[:-1] if joins else starts
        self._resident = self._upload()

    def __len__(self) -> int:
        return len(self._starts)

    @property
    def images(self) -> int:
        """How many images one pass sees."""
        return len(self._indices)

    def __iter__(self) -> Iterator[Batch]:
        """Every image once, in order, prepared exactly as for inference."""
        preprocessing = self._dataset.preprocessing
        for rows in self._split(torch.arange(len(self._indices))):
            images, labels = self._fetch(rows)
            yield preprocessing.normalise(preprocessing.crop(images)), labels

    def shuffled(self, seed: int, epoch: int) -> Iterator[Batch]:
        """Every image once, in an order and with augmentations that depend on `seed` and `epoch` alone."""
        shuffler = torch.Generator().manual_seed(seed_of("order", seed, epoch))
        parts = self._split(torch.randperm(len(self._indices), generator=shuffler))
        if self._dataset.transform == "timm":
            indices = [self._indices[rows.cpu().numpy()].tolist() for rows in parts]
            yield from Views(self._dataset, seed, epoch).batches(indices, self._device)
            return
        augment = TRANSFORMS[self._dataset.transform]
        generator = torch.Generator(self._device).manual_seed(seed_of("augmentation", seed, epoch))
        for rows in parts:
            images, labels = self._fetch(rows)
            yield augment(images, self._dataset.preprocessing, generator), labels

    def _split(self, rows: Tensor) -> tuple[Tensor, ...]:
        if self._resident is not None:
            rows = rows.to(self._device)  # one copy an epoch: each waits for the GPU
        return rows.tensor_split(list(self._starts[1:]))

    def _fetch(self, rows: Tensor) -> Batch:
        if self._resident is not None:
            return self._resident[0][rows], self._resident[1][rows]
        chosen = self._indices[rows.numpy()]
        images = torch.from_numpy(self._dataset.images[chosen])
        labels = torch.from_numpy(self._dataset.labels[chosen])
        if self._device.type == "cuda":
            images, labels = images.pin_memory(), labels.pin_memory()
        return images.to(self._device, non_blocking=True), labels.to(self._device, non_blocking=True)

    def _upload(self) -> Batch | None:
        """The whole split on the GPU; None on a CPU, which reads the shared arrays, and where it does not fit."""
        if self._device.type != "cuda":
            return None
        size_bytes = len(self._indices) * self._dataset.images[0].nbytes
        if size_bytes > torch.cuda.mem_get_info(self._device)[0] // 4:
            return None
        images, labels = self._dataset.images[self._indices], self._dataset.labels[self._indices]
        return torch.from_numpy(images).to(self._device), torch.from_numpy(labels).to(self._device)
