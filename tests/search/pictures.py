"""Small data sets on disk, and the way to those that are shared."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from search.data import load_data
from spaces.errors import InputError
from spaces.schema import Data

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def needs(name: str) -> Path:
    if not (SHARED / name).exists():
        pytest.skip(f"shared/data/{name} is not here")
    return SHARED / name


def data_of(source: str, **keys: Any) -> Data:
    return Data.model_validate({"source": source, **keys})


def folder_of(root: Path, images_a_class: int = 10, mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> Path:
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for index in range(images_a_class):
            pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
            Image.fromarray(pixels).convert(mode).save(root / name / f"{index}.png")
    return root


def npz_of(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def some_images(count: int = 20, *shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *(shape or (12, 12, 3))), dtype=np.uint8)


def some_labels(count: int = 20) -> np.ndarray:
    return np.arange(count) % 2


def refused(data: Data) -> str:
    with pytest.raises(InputError) as caught:
        load_data(data)
    return str(caught.value)


def png_header(width: int, height: int) -> bytes:
    """The first bytes of a picture far larger than its file."""
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", b""))
    body = (
        struct.pack(">I", len(data)) + tag + data + struct.pack(">I", zlib.crc32(tag + data)) for tag, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)
