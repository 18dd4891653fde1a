"""A folder of pictures: one sub-folder a class, or `train/`, `test/` and `val/` with one sub-folder a class each.

Splits that the folder has are kept. Only common picture formats are opened: none of them can run code.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from torchvision.datasets.folder import IMG_EXTENSIONS

from search.data.dataset import Pictures, file_faults
from spaces.errors import InputError, unknown
from spaces.schema import Data

_SPLITS = {"train": "train", "test": "test", "val": "val", "valid": "val", "validation": "val"}
_FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # those of IMG_EXTENSIONS; EPS would start Ghostscript
_MOST_PIXELS = 89_478_485  # Pillow's own MAX_IMAGE_PIXELS: a quarter GiB of RGB


def open_folder(data: Data) -> Pictures:
    root = Path(data.path or "").expanduser()
    with file_faults(root):
        classes, found = _find(root)
    files = [file for split in found.values() for file, _ in split]
    labels = [label for split in found.values() for _, label in split]
    ends = dict(zip(found, np.cumsum([len(split) for split in found.values()]), strict=True))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        headers = list(pool.map(_header, files))

    def read(index: int) -> Image.Image:
        return open_picture(files[index])

    return Pictures(
        read=read,
        labels=np.array(labels, np.int64),
        classes=tuple(classes),
        shorter_side=int(np.median([side for side, _ in headers])),
        in_chans=1 if all(grey for _, grey in headers) else 3,
        given={name: np.arange(end - len(found[name]), end) for name, end in ends.items() if name != "train"},
    )


def _find(root: Path) -> tuple[list[str], dict[str, list[tuple[Path, int]]]]:
    """The classes, and the pictures of each split with their labels."""
    if not root.is_dir():
        raise InputError(f"data.path {root} is not a folder; source folder reads a folder with one sub-folder a class")
    splits = _splits(root)
    classes = _classes(splits["train"])
    found = {name: list(_pictures(folder, classes)) for name, folder in splits.items()}
    if empty := [name for name in splits if not found[name]]:
        raise InputError(
            f"{splits[empty[0]]}: has no picture in a class folder ({', '.join(classes)}); fill it, or remove it and"
            f" {empty[0]} pictures are drawn from train/"
        )
    return classes, found


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _splits(root: Path) -> dict[str, Path]:
    """The folder of each split; all of `root` is "train" unless it has a `train/` that holds folders itself."""
    train = root / "train"
    if not (train.is_dir() and _folders(train)):
        return {"train": root}
    splits: dict[str, Path] = {}
    for folder in _folders(root):
        if folder.name not in _SPLITS:
            raise InputError(f"{root}: {unknown('folder beside train/', folder.name, _SPLITS)}")
        if _SPLITS[folder.name] in splits:
            raise InputError(f"{root}: {splits[_SPLITS[folder.name]].name}/ and {folder.name}/ are the same split")
        splits[_SPLITS[folder.name]] = folder
    return splits


def _classes(folder: Path) -> list[str]:
    classes = [path.name for path in _folders(folder)]
    if len(classes) < 2:
        raise InputError(f"{folder}: has {len(classes)} sub-folders; at least two, one a class, are needed")
    return classes


def _pictures(folder: Path, classes: list[str]) -> Iterator[tuple[Path, int]]:
    """The pictures of each class folder, at any depth and sorted, with their label."""
    for path in _folders(folder):
        if path.name not in classes:
            raise InputError(f"{folder}: {unknown('class', path.name, classes)}")
        found = pictures_in(path)
        if not found:
            raise InputError(f"{path}: no picture in this class folder (looked for {', '.join(IMG_EXTENSIONS)})")
        yield from ((file, classes.index(path.name)) for file in found)


def pictures_in(folder: Path) -> list[Path]:
    """At any depth and sorted; told by their names."""
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in IMG_EXTENSIONS and file.is_file())


def _open(path: Path) -> Image.Image:
    try:
        image = Image.open(path, formats=_FORMATS)
    except Image.DecompressionBombError as error:
        raise InputError(f"{path}: {error}") from None
    except Exception as error:  # a broken header may fail anywhere in Pillow's plugins
        raise InputError(f"{path}: not a picture that can be read ({error})") from None
    if image.width * image.height > _MOST_PIXELS:
        raise InputError(f"{path}: {image.width}x{image.height} pixels; at most {_MOST_PIXELS} are allowed")
    return image


def _header(path: Path) -> tuple[int, bool]:
    """Shorter side in pixels, and whether it is grey, without decoding."""
    with _open(path) as image:
        return min(image.size), image.mode in ("1", "L")


def open_picture(path: Path) -> Image.Image:
    """InputError: too large, or not a picture of a common format that can be read."""
    with _open(path) as image:
        try:
            image.load()
        except Exception as error:  # a broken file may fail anywhere in Pillow's decoders
            raise InputError(f"{path}: a broken picture ({error})") from None
        return image
