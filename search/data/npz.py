"""Arrays in a NumPy .npz file: images uint8 `[N, H, W]` or `[N, H, W, C]`, labels whole numbers or names `[N]`.

Keys: `train_images`, `train_labels` (or `x_train`, `y_train`), the same for `test` and `val` where the
splits are given, or plain `images`, `labels` (`x`, `y`); `classes` holds the names. Nothing in the file
can run code: arrays of objects are refused.
"""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from search.data.dataset import Pictures, file_faults, refuse_too_big
from search.data.preprocessing import as_image
from spaces.errors import InputError, unknown
from spaces.schema import Data

_KEYS = {
    "train": (("train_images", "train_labels"), ("x_train", "y_train"), ("images", "labels"), ("x", "y")),
    "val": (("val_images", "val_labels"), ("x_val", "y_val")),
    "test": (("test_images", "test_labels"), ("x_test", "y_test")),
}


def open_npz(data: Data) -> Pictures:
    path = Path(data.path or "").expanduser()
    arrays = _read(path)
    parts = {}
    for name, pairs in _KEYS.items():
        present = [pair for pair in pairs if pair[0] in arrays or pair[1] in arrays]
        if len(present) > 1 or (name == "train" and not present):
            wanted = ", or ".join(" and ".join(pair) for pair in pairs)
            raise InputError(
                f"{path}: has {', '.join(sorted(arrays)) or 'no array'}; exactly one of {wanted} is needed"
            )
        if present:
            parts[name] = _part(path, arrays, *present[0])
    images = {name: part[0] for name, part in parts.items()}
    if len({array.shape[1:] for array in images.values()}) > 1:
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in images.items())
        raise InputError(f"{path}: the images of all splits must have one shape, not {shapes}")
    if len({part[1].dtype.kind == "U" for part in parts.values()}) > 1:
        kinds = ", ".join(f"{name} {part[1].dtype}" for name, part in parts.items())
        raise InputError(f"{path}: the labels of all splits must be whole numbers or all be names, not {kinds}")
    labels, classes = _classes(path, np.concatenate([part[1] for part in parts.values()]), arrays.get("classes"))
    ends = np.cumsum([len(array) for array in images.values()])
    owners = [(array, int(end) - len(array)) for array, end in zip(images.values(), ends, strict=True)]

    def read(index: int) -> Image.Image:
        array, start = owners[int(np.searchsorted(ends, index, side="right"))]
        return as_image(array[index - start])

    height, width, *channels = images["train"].shape[1:]
    return Pictures(
        read=read,
        labels=labels,
        classes=classes,
        shorter_side=min(height, width),
        in_chans=channels[0] if channels else 1,
        given={
            name: np.arange(end - len(images[name]), end)
            for name, end in zip(images, ends, strict=True)
            if name != "train"
        },
    )


def _read(path: Path) -> dict[str, np.ndarray]:
    with file_faults(path):
        if not path.is_file():
            raise InputError(f"data.path {path} is not a file; source npz reads a NumPy .npz file")
        with path.open("rb") as file:
            arrays = _load(path, file)
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):  # NumPy gives the bytes of what is no .npy file
            raise InputError(f"{path}: not a NumPy .npz file of plain arrays ({name} is no array)")
    return arrays


def _load(path: Path, file: BinaryIO) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(file) as archive:
            refuse_too_big(sum(member.file_size for member in archive.infolist()), f"the arrays of {path}")
        file.seek(0)
        with np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except InputError:
        raise
    except Exception as error:  # a broken or encrypted archive may fail anywhere in zipfile and NumPy
        raise InputError(f"{path}: not a NumPy .npz file of plain arrays ({error or type(error).__name__})") from None


def _part(path: Path, arrays: Mapping[str, np.ndarray], *pair: str) -> tuple[np.ndarray, np.ndarray]:
    """The images and labels of one split, checked."""
    if missing := [name for name in pair if name not in arrays]:
        raise InputError(f"{path}: has {', '.join(arrays)}, but no {missing[0]}")
    images, labels = (arrays[name] for name in pair)
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or images.shape[3:] not in ((), (1,), (3,)):
        raise InputError(
            f"{path}: {pair[0]} is {images.dtype} {list(images.shape)};"
            " allowed are uint8 [N, H, W], [N, H, W, 1] and [N, H, W, 3]"
        )
    if labels.shape not in ((len(images),), (len(images), 1)) or labels.dtype.kind not in "iuU":
        raise InputError(
            f"{path}: {pair[1]} is {labels.dtype} {list(labels.shape)};"
            f" {pair[0]} has {len(images)} images, so whole numbers or names [{len(images)}] are needed"
        )
    if min(images.shape[:3]) == 0:
        raise InputError(f"{path}: {pair[0]} {list(images.shape)} has no pixels")
    return images, labels.reshape(len(images))


def _classes(path: Path, labels: np.ndarray, names: np.ndarray | None) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels as int64 indices, and the name of each; without names, the sorted distinct labels are the names.

    With names, a label is a name's place, or the name itself.
    """
    if names is None:
        distinct, indices = np.unique(labels, return_inverse=True)
        return indices.astype(np.int64), tuple(map(str, distinct))
    if names.ndim != 1 or names.dtype.kind not in "iuU":
        raise InputError(f"{path}: classes is {names.dtype} {list(names.shape)}; names [K] are needed")
    if labels.dtype.kind == "U":
        places = {str(name): place for place, name in enumerate(names)}
        if strange := sorted(set(labels.tolist()) - set(places)):
            raise InputError(f"{path}: {unknown('label', strange[0], places)}; classes must name all labels")
        return np.array([places[label] for label in labels.tolist()], np.int64), tuple(map(str, names))
    if labels.min() < 0 or labels.max() >= len(names):
        raise InputError(
            f"{path}: labels run from {labels.min()} to {labels.max()}; with {len(names)} classes named,"
            f" 0 to {len(names) - 1} are allowed"
        )
    return labels.astype(np.int64), tuple(map(str, names))
