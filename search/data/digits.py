"""The handwritten digits inside scikit-learn: 1,797 real grey images of 8x8 pixels, nothing to download."""

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from search.data.dataset import Pictures
from spaces.schema import Data


def open_digits(data: Data) -> Pictures:
    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)  # stored as 0 .. 16

    def read(index: int) -> Image.Image:
        return Image.fromarray(images[index])

    return Pictures(
        read=read,
        labels=digits.target.astype(np.int64),
        classes=tuple(map(str, digits.target_names)),
        shorter_side=8,
        in_chans=1,
    )
