"""Images as they may come in use: five of the common corruptions of 1903.12261, at severities from 1 to 5.

How strong a severity is comes from the authors' scripts (github.com/hendrycks/robustness, ImageNet-C/create_c):
make_cifar_c.py for images of 32 pixels, make_tinyimagenet_c.py for 64 and make_imagenet_c.py for 224. Blur is counted
in pixels and a small image bears less of everything, so other sizes take the table of the nearest by ratio. Knows
nothing of models.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from search.data.dataset import Dataset, refuse_too_big
from search.data.seeds import seed_of
from spaces.schema.costs import CorruptionKind

Strengths = Mapping[CorruptionKind, tuple[float, float, float, float, float]]
Split = Literal["val", "test"]
SPLITS: Mapping[Split, str] = {"val": "validation", "test": "test"}

TABLES: Mapping[int, Strengths] = {
    32: {
        "gaussian_noise": (0.04, 0.06, 0.08, 0.09, 0.10),
        "gaussian_blur": (0.4, 0.6, 0.7, 0.8, 1),
        "brightness": (0.05, 0.1, 0.15, 0.2, 0.3),
        "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),
        "jpeg": (80, 65, 58, 50, 40),
    },
    64: {
        "gaussian_noise": (0.04, 0.08, 0.12, 0.15, 0.18),
        "gaussian_blur": (0.5, 0.75, 1, 1.25, 1.5),
        "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),
        "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),
        "jpeg": (65, 58, 50, 40, 25),
    },
    224: {
        "gaussian_noise": (0.08, 0.12, 0.18, 0.26, 0.38),
        "gaussian_blur": (1, 2, 3, 4, 6),
        "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),
        "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),
        "jpeg": (25, 18, 15, 10, 7),
    },
}
"""Strengths of the severities 1 to 5, by the side of the images.

Deviation of the noise, with white as 1; of the blur, in pixels; what is added to the value of the colour, with white
as 1; the share of the contrast that is left; quality of the JPEG.
"""

_TRUNCATE = 4  # deviations at which the authors' blur (scikit-image's) ends
_CHUNK = 64  # images at once: as floats they take four times the memory


def corrupted(
    dataset: Dataset, kinds: Iterable[CorruptionKind], severities: Sequence[int], *, split: Split = "val"
) -> Mapping[str, Dataset]:
    """The images of a split, cropped as for inference and then corrupted: `jpeg_3` and so on, each a data set.

    All their images are validation images, in the order of `dataset`. Each takes as many bytes as these images have
    pixels and channels; as plain arrays they are, like `dataset`, shared between processes at no cost. What an image
    becomes depends on its index in `dataset`, kind and severity alone.

    Raises:
        InputError: all of them together take more than half of this machine's memory.
    """
    wanted = [(kind, severity) for kind in kinds for severity in severities]
    indices = {"val": dataset.val, "test": dataset.test}[split]
    side, count = dataset.image_size, len(indices)
    refuse_too_big(
        len(wanted) * count * side * side * dataset.in_chans,
        f"{count} {SPLITS[split]} images of {side}x{side} pixels in {len(wanted)} corruptions (kinds x severities)",
    )
    return {f"{kind}_{severity}": _view(dataset, indices, kind, severity) for kind, severity in wanted}


def corrupt(images: Tensor, indices: Sequence[int], kind: CorruptionKind, severity: int) -> Tensor:
    """Uint8 `[N, C, H, W]`, grey or RGB, to the same; `indices` `[N]` make the noise of each image its own."""
    table = TABLES[min(TABLES, key=lambda side: abs(math.log(images.shape[-1] / side)))]
    strength = table[kind][severity - 1]
    if kind == "jpeg":
        changed: Tensor = F.jpeg(images, quality=int(strength))
        return changed
    values: Tensor = F.to_dtype(images, torch.float32, scale=True)
    if kind == "gaussian_noise":
        values = _noisy(values, strength, [seed_of(kind, severity, index) for index in indices])
    else:
        values = _STEADY[kind](values, strength)
    changed = F.to_dtype(values, torch.uint8, scale=True)
    return changed


def _view(dataset: Dataset, indices: np.ndarray, kind: CorruptionKind, severity: int) -> Dataset:
    preprocessing = dataset.preprocessing
    side = preprocessing.image_size
    images = np.empty((len(indices), side, side, dataset.in_chans), np.uint8)
    for start in range(0, len(indices), _CHUNK):
        chosen = indices[start : start + _CHUNK]
        crops = preprocessing.crop(torch.from_numpy(dataset.images[chosen])).permute(0, 3, 1, 2)
        changed = corrupt(crops, chosen.tolist(), kind, severity)
        images[start : start + _CHUNK] = changed.permute(0, 2, 3, 1).numpy()
    none = np.empty(0, np.int64)
    return replace(
        dataset,
        images=images,
        labels=dataset.labels[indices],
        train=none,
        val=np.arange(len(indices)),
        test=none,
        preprocessing=replace(preprocessing, resize_size=side),
    )


def _noisy(images: Tensor, deviation: float, seeds: Sequence[int]) -> Tensor:
    noisy = []
    with torch.random.fork_rng(devices=[]):  # torchvision draws from torch's generator
        for image, seed in zip(images, seeds, strict=True):
            torch.default_generator.manual_seed(seed)
            noisy.append(F.gaussian_noise(image, sigma=deviation))
    return torch.stack(noisy)


def _blurred(images: Tensor, deviation: float) -> Tensor:
    reach = int(_TRUNCATE * deviation + 0.5)
    blurred: Tensor = F.gaussian_blur(images, kernel_size=[2 * reach + 1] * 2, sigma=[deviation] * 2)
    return blurred


def _brighter(images: Tensor, more: float) -> Tensor:
    """The value of HSV plus `more`, hue and saturation as they are; torchvision's brightness is a factor instead."""
    value = images.amax(dim=1, keepdim=True)
    raised = (value + more).clamp(max=1)
    return torch.where(value > 0, images * (raised / value), raised)


def _paler(images: Tensor, left: float) -> Tensor:
    """Each channel nearer to its own mean; torchvision, given all, would take the mean of the grey image."""
    channels: Tensor = F.adjust_contrast(images.flatten(0, 1).unsqueeze(1), left)
    return channels.view_as(images)


_STEADY: Mapping[CorruptionKind, Callable[[Tensor, float], Tensor]] = {
    "gaussian_blur": _blurred,
    "brightness": _brighter,
    "contrast": _paler,
}
