"""From a picture to the tensor a model expects: the one code path of training, validation and inference.

Two steps: `square` (once per image, on uint8) and `normalise` (batched, on any device). Training data is
kept after the first step, and a picked model is used through `__call__`, which is both. Knows nothing of
data sets, models or training.
"""

import reprlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from typing import Any, Self

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from spaces.errors import InputError, unknown

INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How an image becomes a model's input; plain values, so that it can be written down as JSON.

    The largest centred square of the image is resized (antialiased) to `resize_size`, its centre
    `image_size` x `image_size` is taken, and each channel becomes `(value / 255 - mean) / std`.

    Attributes:
        image_size: side of the model's input, pixels.
        resize_size: side of the square before the centre crop, pixels; at least `image_size`.
        in_chans: 1 (grey) or 3 (RGB).
        interpolation: a key of INTERPOLATIONS.
        mean, std: per channel, of values in [0, 1].
    """

    image_size: int
    resize_size: int
    in_chans: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"

    def __post_init__(self) -> None:
        if not 0 < self.image_size <= self.resize_size:
            raise InputError(f"image_size {self.image_size} must be from 1 to resize_size {self.resize_size}")
        if self.in_chans not in (1, 3):
            raise InputError(f"in_chans {self.in_chans} must be 1 (grey) or 3 (RGB)")
        if self.interpolation not in INTERPOLATIONS:
            raise InputError(unknown("interpolation", self.interpolation, INTERPOLATIONS))
        for name in ("mean", "std"):
            try:
                values = tuple(map(float, getattr(self, name)))
            except OverflowError:  # a whole number of more than 308 digits
                raise InputError(f"{name} {reprlib.repr(getattr(self, name))} is too large") from None
            if len(values) != self.in_chans or not np.isfinite(values).all():
                raise InputError(f"{name} {list(values)} must be one number a channel; there are {self.in_chans}")
            object.__setattr__(self, name, values)
        if min(self.std) <= 0:
            raise InputError(f"std {list(self.std)} must be above 0")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`.

        Raises:
            InputError: a missing or unknown key, or a value of another type or out of range.
        """
        names = [field.name for field in fields(cls)]
        for key in given:
            if key not in names:
                raise InputError(unknown("key of a preprocessing", key, names))
        if missing := [name for name in names if name not in given]:
            raise InputError(f"a preprocessing needs {', '.join(missing)}")
        for name, value in given.items():
            _check_type(name, value)
        return cls(**given)

    def __call__(self, image: Image.Image | np.ndarray) -> Tensor:
        """One image, PIL or uint8 `[H, W]` or `[H, W, C]`, to float32 `[1, C, image_size, image_size]`."""
        if isinstance(image, np.ndarray):
            image = as_image(image)
        return self.normalise(self.crop(torch.from_numpy(self.square(image))[None]))

    def square(self, image: Image.Image) -> np.ndarray:
        """uint8 `[resize_size, resize_size, in_chans]`: upright, converted, centre square, resized.

        Raises:
            InputError: a broken image, or more than 8 bits a channel; converting would silently clip.
        """
        name = getattr(image, "filename", "") or "the image"
        if image.mode[0] in "IF":  # Pillow's 16 and 32 bit modes: I, I;16, F
            raise InputError(f"{name}: mode {image.mode} is not 8 bits a channel; convert it to RGB or L")
        size = (self.resize_size, self.resize_size)
        try:
            image.load()
            upright = _upright(image).convert("L" if self.in_chans == 1 else "RGB")
            square = ImageOps.fit(upright, size, INTERPOLATIONS[self.interpolation])
        except Exception as error:  # a broken file may fail anywhere in Pillow's decoders
            raise InputError(f"{name}: a broken picture ({error or type(error).__name__})") from None
        return np.array(square).reshape(*size, self.in_chans)

    def crop(self, images: Tensor) -> Tensor:
        """The centre of squares `[N, resize_size, resize_size, C]`: `[N, image_size, image_size, C]`."""
        start = (self.resize_size - self.image_size) // 2
        return images.narrow(1, start, self.image_size).narrow(2, start, self.image_size)

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 `[N, H, W, C]` to contiguous float32 `[N, C, H, W]`, on the same device."""
        mean, std = _statistics(self, images.device)
        return images.permute(0, 3, 1, 2).contiguous().float().div_(255).sub_(mean).div_(std)


def _check_type(name: str, value: object) -> None:
    if name in ("mean", "std"):
        numbers = isinstance(value, list | tuple) and all(type(n) is float or type(n) is int for n in value)
        right, wanted = numbers, "a list of numbers"
    elif name == "interpolation":
        right, wanted = isinstance(value, str), "a name"
    else:
        right, wanted = type(value) is int, "a whole number"
    if not right:
        raise InputError(f"{name} {reprlib.repr(value)} must be {wanted}")


@cache
def _statistics(preprocessing: Preprocessing, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and deviation on `device`, `[C, 1, 1]` each; copied there once: each copy waits for a GPU."""
    with torch.inference_mode(False):  # first asked for in validation, but kept for training
        mean, std = torch.tensor([preprocessing.mean, preprocessing.std], device=device)
        return mean[:, None, None], std[:, None, None]


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF orientation says; as it is where the EXIF block cannot be read."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # broken EXIF may fail anywhere in Pillow's parser, and says nothing of the pixels
        return image


def as_image(array: np.ndarray) -> Image.Image:
    """uint8 `[H, W]`, `[H, W, 1]` or `[H, W, 3]` as a PIL image.

    Raises:
        InputError: any other dtype or shape.
    """
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or array.shape[2:] not in ((), (1,), (3,)):
        raise InputError(
            f"an array of {array.dtype} {list(array.shape)} is not an image;"
            " allowed are uint8 [H, W], [H, W, 1] and [H, W, 3]"
        )
    return Image.fromarray(array[:, :, 0] if array.shape[2:] == (1,) else array)
