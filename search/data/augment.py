"""Random training views of a batch of squares, made on the device without a loop over images.

Each transform takes uint8 `[N, S, S, C]` and gives float32 `[N, C, H, W]`, normalised, with all its
randomness from one generator of the batch's device. The transform "timm", which works image by image in
Pillow, is in `search.data.views`.
"""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from search.data.preprocessing import Preprocessing

Transform = Callable[[Tensor, Preprocessing, Generator], Tensor]

_LEAST_AREA = 0.35  # of a random resized crop; fastai's Imagenette recipe: short trainings need less than 0.08
_MOST_STRETCH = 4 / 3  # width to height and back, as in torchvision's RandomResizedCrop


def none(images: Tensor, preprocessing: Preprocessing, generator: Generator) -> Tensor:
    """The centre crop, as in validation."""
    return preprocessing.normalise(preprocessing.crop(images))


def flip(images: Tensor, preprocessing: Preprocessing, generator: Generator) -> Tensor:
    """The centre crop, half of them mirrored left to right."""
    start = (preprocessing.resize_size - preprocessing.image_size) // 2
    corner = torch.full((len(images),), start, device=images.device)
    return preprocessing.normalise(_window(images, corner, corner, preprocessing.image_size, generator))


def crop_flip(images: Tensor, preprocessing: Preprocessing, generator: Generator) -> Tensor:
    """A random crop of the square, mirrored or not; without room, the square is first reflected by an eighth."""
    room = preprocessing.resize_size - preprocessing.image_size
    pad = 0 if room else preprocessing.image_size // 8  # 4 pixels at 32, as is usual on CIFAR (arXiv:1512.03385)
    top, left = torch.randint(
        -pad, room + pad + 1, (2, len(images)), generator=generator, device=images.device
    ).unbind()
    return preprocessing.normalise(_window(images, top, left, preprocessing.image_size, generator))


def resized_crop_flip(images: Tensor, preprocessing: Preprocessing, generator: Generator) -> Tensor:
    """A random part of random area and stretch, resized bilinearly, mirrored or not (arXiv:1409.4842)."""
    area, stretch, x, y, mirror = torch.rand(5, len(images), generator=generator, device=images.device)
    area = _LEAST_AREA + (1 - _LEAST_AREA) * area
    ratio = _MOST_STRETCH ** (2 * stretch - 1)
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    theta = torch.zeros(len(images), 2, 3, device=images.device)  # from the view's coordinates to the square's
    theta[:, 0, 0], theta[:, 0, 2] = torch.where(mirror < 0.5, -width, width), (2 * x - 1) * (1 - width)
    theta[:, 1, 1], theta[:, 1, 2] = height, (2 * y - 1) * (1 - height)
    size = preprocessing.image_size
    grid = F.affine_grid(theta, [len(images), preprocessing.in_chans, size, size], align_corners=False)
    return F.grid_sample(preprocessing.normalise(images), grid, padding_mode="border", align_corners=False)


def _window(images: Tensor, top: Tensor, left: Tensor, size: int, generator: Generator) -> Tensor:
    """One `[size, size]` window an image, uint8 `[N, size, size, C]`, half of them mirrored, outside reflected."""
    count, side, _, channels = images.shape
    mirror = torch.rand(count, 1, generator=generator, device=images.device) < 0.5
    steps = torch.arange(size, device=images.device)
    rows = top[:, None] + steps
    columns = left[:, None] + torch.where(mirror, steps.flip(0), steps)
    rows, columns = ((side - 1) - ((side - 1) - index.abs()).abs() for index in (rows, columns))
    image = torch.arange(count, device=images.device)[:, None, None]
    pixels = (image * side + rows[:, :, None]) * side + columns[:, None, :]
    return images.reshape(-1, channels)[pixels.view(-1)].view(count, size, size, channels)


TRANSFORMS: Mapping[str, Transform] = {
    "none": none,
    "flip": flip,
    "crop_flip": crop_flip,
    "resized_crop_flip": resized_crop_flip,
}
