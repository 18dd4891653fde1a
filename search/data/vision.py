"""The classification sets that torchvision knows, already on disk; nothing is ever downloaded.

The files, their integrity and their formats are torchvision's matter.
"""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torchvision import datasets

from search.data.dataset import Pictures, file_faults
from spaces.errors import InputError, unknown
from spaces.schema import Data

_FLAG = {"train": {"train": True}, "test": {"train": False}}
_TWO = {"train": {"split": "train"}, "test": {"split": "test"}}
_THREE = {**_TWO, "val": {"split": "val"}}
SETS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    **dict.fromkeys(("CIFAR10", "CIFAR100", "FashionMNIST", "KMNIST", "MNIST", "USPS"), _FLAG),
    **dict.fromkeys(("Food101", "GTSRB", "STL10", "SVHN"), _TWO),
    **dict.fromkeys(("DTD", "FGVCAircraft", "Flowers102"), _THREE),
    "EuroSAT": {"train": {}},
    "Imagenette": {"train": {"split": "train"}, "test": {"split": "val"}},
    "OxfordIIITPet": {"train": {"split": "trainval"}, "test": {"split": "test"}},
}
"""Constructor arguments of each split, by torchvision's name of the data set."""


Item = tuple[Sequence[tuple[Image.Image, int]], int]
"""A split and an index into it."""


def open_vision(data: Data) -> Pictures:
    name = str(data.name)
    if name not in SETS:
        raise InputError(unknown("torchvision data set", name, SETS))
    root = Path(data.path or "").expanduser()
    with file_faults(root):
        root.exists()  # fails where the file system refuses the path itself
    try:
        parts = {
            split: getattr(datasets, name)(root, download=False, **arguments) for split, arguments in SETS[name].items()
        }
    except Exception as error:  # each set reads its files in its own way, some with assert
        raise InputError(
            f"torchvision cannot read {name} in data.path {root} ({error}). Nothing is downloaded here; get it by:"
            f' python -c "import torchvision; torchvision.datasets.{name}({str(root)!r}, download=True)"'
        ) from None
    if empty := [split for split, part in parts.items() if not len(part)]:
        raise InputError(f"data.path {root}: {name} has no images in its {empty[0]} split")
    where = [(part, index) for part in parts.values() for index in range(len(part))]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        facts = list(pool.map(_facts, where))
    labels = np.array([label for label, _, _ in facts], np.int64)
    classes = tuple(map(str, getattr(parts["train"], "classes", range(labels.max() + 1))))
    if labels.min() < 0 or labels.max() >= len(classes):
        found = f"{labels.min()} to {labels.max()}"
        raise InputError(f"data.path {root}: labels of {name} run from {found}; it has {len(classes)} classes")
    ends = dict(zip(parts, np.cumsum([len(part) for part in parts.values()]), strict=True))

    def read(index: int) -> Image.Image:
        return _item(where[index])[0]

    return Pictures(
        read=read,
        labels=labels,
        classes=classes,
        shorter_side=int(np.median([side for _, side, _ in facts])),
        in_chans=1 if all(grey for _, _, grey in facts) else 3,
        given={split: np.arange(end - len(parts[split]), end) for split, end in ends.items() if split != "train"},
    )


def _item(item: Item) -> tuple[Image.Image, int]:
    part, index = item
    try:
        image, label = part[index]
        image.load()
    except Exception as error:  # a broken file may fail anywhere in Pillow's decoders
        raise InputError(f"image {index} of torchvision's {type(part).__name__} cannot be read ({error})") from None
    return image, label


def _facts(item: Item) -> tuple[int, int, bool]:
    """Label, shorter side in pixels, and whether it is grey."""
    image, label = _item(item)
    return int(label), min(image.size), image.mode in ("1", "L")
