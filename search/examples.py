"""A few real images beside a model, to try it on: of the validation split, as squares that are still to be cropped.

They stand in a safetensors file, uint8 `[N, S, S, C]` with S = `preprocessing.resize_size`. Knows data sets and files,
nothing of networks.
"""

import reprlib
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from search.data.dataset import Dataset, file_faults
from search.data.preprocessing import Preprocessing
from spaces import InputError

EXAMPLES = "examples.safetensors"
MOST = 8


def examples_of(dataset: Dataset) -> NDArray[np.uint8]:
    """Of the validation images the first of each class, then the second, and so on, up to MOST."""
    seen, turns = Counter[int](), list[tuple[int, int, int]]()
    for index in dataset.val.tolist():
        label = int(dataset.labels[index])
        turns.append((seen[label], label, index))
        seen[label] += 1
    images: NDArray[np.uint8] = dataset.images[[index for _, _, index in sorted(turns)[:MOST]]]
    return images


def write_examples(path: Path, examples: NDArray[np.uint8]) -> None:
    part = path.with_name(f"{path.name}.part")  # a reader, and a killed process, sees the old file or the new one
    save_file({"images": torch.from_numpy(examples.copy())}, part)
    part.replace(path)


def read_examples(path: Path, preprocessing: Preprocessing) -> NDArray[np.uint8] | None:
    """What `write_examples` has written; None where there is no such file.

    Raises:
        InputError: it holds something else than a few squares for this preprocessing; seen before memory is taken.
    """
    side, channels = preprocessing.resize_size, preprocessing.in_chans
    with file_faults(path):
        if not path.is_file():
            return None
    try:
        with safe_open(path, framework="pt") as file:
            parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            given = {name: (part.get_dtype(), part.get_shape()) for name, part in parts.items()}
        if given not in [{"images": ("U8", [n, side, side, channels])} for n in range(1, MOST + 1)]:
            wanted = f"one tensor `images`, U8 [1 to {MOST}, {side}, {side}, {channels}]"
            raise InputError(f"{path} must hold {wanted}, not {reprlib.repr(given)}")
        images: NDArray[np.uint8] = load_file(path)["images"].numpy()
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is not a safetensors file: {error}") from None
    return images
