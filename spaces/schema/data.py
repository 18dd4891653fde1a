"""The `data` section: which images, how they are split, and how training ones are varied.

Says what is wanted; reading images, and whether the path is there, is the search's business.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self, get_args

from pydantic import Field, ValidationInfo, field_validator, model_validator

from spaces.schema.complaint import GrammarError, Section

VisionName = Literal[
    "CIFAR10",
    "CIFAR100",
    "DTD",
    "EuroSAT",
    "FGVCAircraft",
    "FashionMNIST",
    "Flowers102",
    "Food101",
    "GTSRB",
    "Imagenette",
    "KMNIST",
    "MNIST",
    "OxfordIIITPet",
    "STL10",
    "SVHN",
    "USPS",
]
_SMALL = frozenset({"CIFAR10", "CIFAR100", "EuroSAT", "FashionMNIST", "STL10"})  # 28 to 96 pixels
_NEVER_MIRRORED = frozenset({"GTSRB", "KMNIST", "MNIST", "SVHN", "USPS"})  # a mirrored sign is another sign

DIGITS_SIZE = 32  # pixels; the images have 8, too few for a network that halves them five times
Channels = Annotated[tuple[float, ...], Field(strict=False)]


def _transform(source: object, name: object) -> str:
    """What `transform: auto` means."""
    if source == "digits" or name in _NEVER_MIRRORED:
        return "none"
    return "crop_flip" if source == "npz" or name in _SMALL else "resized_crop_flip"


def absolute(path: str, info: ValidationInfo) -> str:
    """A path of a space file, from the file's directory on; `~` is the home."""
    directory: Path = (info.context or {}).get("directory", Path.cwd())
    try:
        return os.path.normpath(directory / Path(path).expanduser())
    except RuntimeError:
        raise GrammarError(f"{path!r} starts in a home directory that does not exist") from None


class Data(Section):
    """Labelled images. A test split that the data come with is kept as it is; nothing is downloaded."""

    source: Literal["digits", "folder", "npz", "torchvision"] = Field(examples=["digits"])
    """digits: 1,797 handwritten digits of scikit-learn. folder, npz: yours. torchvision: a set on disk."""
    path: str | None = Field(default=None, examples=["../my-images"])
    """Where the images are, relative to the space file; `~` is your home. Absolute once read."""
    name: VisionName | None = Field(default=None, examples=["CIFAR10"])
    """With torchvision: which set."""
    image_size: int = Field(ge=8, le=1024, examples=[32])
    """Side of what the model sees, in pixels. Needed, but for digits: 32."""
    val_fraction: float = Field(default=0.2, gt=0, lt=1)
    """Share of the images that the search validates on; of those in no split that the data come with."""
    test_fraction: float = Field(default=0.2, ge=0, lt=1)
    """Share held out for the test at the end; not used where the data come with a test split."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Of the splits."""
    mean: Channels | None = None
    """Per channel, of values in [0, 1]. None: that of the training split, or of pretrained weights."""
    std: Channels | None = None
    """As mean."""
    transform: Literal["auto", "none", "flip", "crop_flip", "resized_crop_flip", "timm"] = "auto"
    """How training images are varied. `auto` is replaced by what suits the data when the file is read."""

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, given: object) -> object:
        if not isinstance(given, dict):
            return given
        filled = dict(given)
        if given.get("transform", "auto") == "auto":
            filled["transform"] = _transform(given.get("source"), given.get("name"))
        if given.get("source") == "digits":
            filled.setdefault("image_size", DIGITS_SIZE)
        return filled

    @field_validator("path")
    @classmethod
    def _absolute(cls, path: str | None, info: ValidationInfo) -> str | None:
        return None if path is None else absolute(path, info)

    @model_validator(mode="after")
    def _agree(self) -> Self:
        examples: Mapping[str, str] = {"path": "../my-images", "name": get_args(VisionName)[0]}
        for key, needed in (("path", self.source != "digits"), ("name", self.source == "torchvision")):
            value = getattr(self, key)
            if needed and value is None:
                raise GrammarError(f"is missing with source {self.source}; for example `{key}: {examples[key]}`", key)
            if not needed and value is not None:
                raise GrammarError(f"has no meaning with source {self.source}; remove the key", key)
        if self.val_fraction + self.test_fraction >= 1:
            raise GrammarError("val_fraction and test_fraction together leave nothing to train on", "val_fraction")
        if (self.mean is None) != (self.std is None):
            given = "std" if self.mean is None else "mean"
            raise GrammarError("mean and std go together; give both or neither", given)
        if self.mean is not None and self.std is not None:
            if len(self.mean) not in (1, 3) or len(self.mean) != len(self.std):
                raise GrammarError("mean and std have one number each (grey) or three (colour)", "mean")
            if min(self.std) <= 0:
                raise GrammarError(f"{min(self.std)} is not above 0", "std")
        return self
