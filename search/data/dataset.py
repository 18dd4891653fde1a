"""The two forms of a labelled image set: pictures where they lie, and a data set ready to train on.

A source (one file each in this package) finds the pictures; `decode` reads them once, in threads. Knows
nothing of models, training or the search.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from search.data.preprocessing import Preprocessing
from spaces.errors import InputError
from spaces.schema import Data


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Labelled images of any sizes, not decoded yet.

    Attributes:
        read: the image of an index; called from many threads; InputError names the broken file.
        labels: int64 `[N]`, indices into `classes`.
        classes: names, one a label.
        shorter_side: of the typical (median) image, pixels.
        in_chans: 1 where all images are grey, else 3.
        given: indices of the splits that the source brings, by name: "val", "test".
    """

    read: Callable[[int], Image.Image]
    labels: np.ndarray
    classes: tuple[str, ...]
    shorter_side: int
    in_chans: int
    given: Mapping[str, np.ndarray] = field(default_factory=dict)


class Source(Protocol):
    """Finds the pictures that a space file's `data` names; never downloads, never executes what it reads."""

    def __call__(self, data: Data) -> Pictures:
        """Raises InputError: nothing there, or not what `data.source` promises."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Decoded squares with labels and three disjoint splits; plain arrays, shared between processes at no cost.

    Attributes:
        images: uint8 `[N, S, S, C]` with S = `preprocessing.resize_size`, read-only.
        labels: int64 `[N]`, read-only.
        train, val, test: int64 indices into both.
        classes: names, one a label.
        preprocessing: what led to `images`, and what is left to do for a model's input.
        transform: how training images are varied: "timm", or a name of `search.data.augment.TRANSFORMS`.
    """

    images: np.ndarray
    labels: np.ndarray
    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    transform: str

    def __post_init__(self) -> None:
        for name in ("images", "labels", "train", "val", "test"):
            getattr(self, name).setflags(write=False)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def in_chans(self) -> int:
        return self.preprocessing.in_chans

    @property
    def input_size(self) -> tuple[int, int, int]:
        """Channels, height and width of what a model sees."""
        return self.in_chans, self.image_size, self.image_size

    @property
    def image_size(self) -> int:
        return self.preprocessing.image_size

    @property
    def majority_rate(self) -> float:
        """Validation accuracy in [0, 1] of always answering the most frequent class."""
        return float(np.bincount(self.labels[self.val]).max() / len(self.val))


def decode(pictures: Pictures, preprocessing: Preprocessing) -> np.ndarray:
    """uint8 `[N, S, S, C]`: every picture through `preprocessing.square`.

    Raises:
        InputError: a broken image, or more than fits into half of this machine's memory.
    """
    side = preprocessing.resize_size
    shape = (len(pictures.labels), side, side, preprocessing.in_chans)
    refuse_too_big(int(np.prod(shape, dtype=np.int64)), f"{shape[0]} images of {side}x{side} pixels")
    squares = np.empty(shape, np.uint8)

    def fill(indices: np.ndarray) -> None:
        for index in indices:
            squares[index] = preprocessing.square(pictures.read(int(index)))

    chunks = np.array_split(np.arange(len(squares)), -(-len(squares) // 64))
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes and resizes without Python's lock
        for _ in pool.map(fill, chunks):
            pass
    return squares


def check_classes(names: Sequence[str], where: str) -> None:
    """One rule for every data set and every model folder.

    Raises:
        InputError: fewer than two names, or a name twice.
    """
    if len(names) < 2:
        raise InputError(f"{where}: has {len(names)} classes {list(names)}; two or more are needed")
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise InputError(f"{where}: names the class {name!r} {count} times; each name must be there once")


@contextmanager
def file_faults(path: Path) -> Iterator[None]:
    """What the file system refuses, as an InputError that says where: no permission, too long a name, a full disk."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{error.filename or path}: {error.strerror or error}") from None


def refuse_too_big(size_bytes: int, what: str) -> None:
    """InputError where `size_bytes` is over half of this machine's memory."""
    memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if size_bytes > memory_bytes // 2:
        raise InputError(
            f"{what} take {size_bytes / 2**30:.1f} GiB, and decoded data may take half of this machine's"
            f" {memory_bytes / 2**30:.1f} GiB; use fewer images or a smaller data.image_size"
        )
