"""A folder of a user's own pictures, to compare an exported model on. Knows pictures, nothing of models."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from search.data.dataset import file_faults
from search.data.folder import open_picture, pictures_in
from search.data.preprocessing import Preprocessing
from spaces import InputError

MOST = 64  # pictures; more take time and tell no more


def squares_of(folder: Path, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """The first pictures of a folder by name, at any depth, as a model's squares `[N, S, S, C]`, N up to MOST.

    Raises:
        InputError: no such folder, no picture in it, or one that cannot be read.
    """
    with file_faults(folder):
        if not folder.is_dir():
            raise InputError(f"--images {folder} is not a folder; give one with some pictures in it")
        found = pictures_in(folder)[:MOST]
    if not found:
        raise InputError(f"--images {folder}: there is no picture in it")
    return np.stack([preprocessing.square(open_picture(path)) for path in found])
