"""Labelled images, decoded once, split honestly, and brought to a device in batches.

    dataset = load_data(space.data)

Knows nothing of models, of training or of the search. A new source is one file with an `open_*` function,
one line in SOURCES and its name in the schema.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from search.data.augment import TRANSFORMS
from search.data.batches import Batches
from search.data.dataset import Dataset, Pictures, Source, check_classes, decode
from search.data.digits import open_digits
from search.data.folder import open_folder
from search.data.npz import open_npz
from search.data.preprocessing import Preprocessing
from search.data.splits import split
from search.data.vision import open_vision
from spaces.schema import Data

__all__ = ["SOURCES", "TRANSFORMS", "Batches", "Dataset", "Pictures", "Preprocessing", "Source", "load_data"]

SOURCES: Mapping[str, Source] = {
    "digits": open_digits,
    "folder": open_folder,
    "npz": open_npz,
    "torchvision": open_vision,
}

_CROP_SHARE = 0.875  # timm's default crop_pct: what is cut off leaves room for random crops


def load_data(data: Data) -> Dataset:
    """Find, split and decode the images of a space file.

    Raises:
        InputError: no such data, a broken file, fewer than two classes, one with too few images, or more than
            memory holds.
    """
    pictures = SOURCES[data.source](data)
    check_classes(pictures.classes, f"data.path {data.path}" if data.path else f"data.source {data.source}")
    splits = split(
        pictures.labels,
        pictures.classes,
        pictures.given,
        {"val": data.val_fraction, "test": data.test_fraction},
        data.seed,
    )
    roomy = round(data.image_size / _CROP_SHARE)
    preprocessing = Preprocessing(
        image_size=data.image_size,
        resize_size=roomy if pictures.shorter_side >= roomy else data.image_size,
        in_chans=pictures.in_chans,
        mean=data.mean or (0.5,) * pictures.in_chans,
        std=data.std or (0.5,) * pictures.in_chans,
    )
    images = decode(pictures, preprocessing)
    mean, std = _statistics(images, splits["train"])
    return Dataset(
        images=images,
        labels=pictures.labels,
        **splits,
        classes=pictures.classes,
        preprocessing=replace(preprocessing, mean=data.mean or mean, std=data.std or std),
        transform=data.transform,
    )


def _statistics(images: np.ndarray, chosen: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel in [0, 1], exact: from counts of the 256 values."""
    counts = np.zeros((images.shape[3], 256), np.int64)
    for part in np.array_split(chosen, -(-len(chosen) // 256)):
        for channel in range(images.shape[3]):
            counts[channel] += np.bincount(images[part, :, :, channel].ravel(), minlength=256)
    values, total = np.arange(256) / 255, counts.sum(axis=1)
    mean = counts @ values / total
    variance = (counts * (values - mean[:, None]) ** 2).sum(axis=1) / total
    std = np.sqrt(variance).clip(min=1 / 255)  # one grey level, where a channel is constant
    return tuple(map(float, mean)), tuple(map(float, std))
