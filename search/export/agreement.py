"""Whether what was exported says the same as the model: on real images, with a tolerance that says where it comes from.

Knows models and arrays, nothing of formats.
"""

import copy
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from search.model import Model
from spaces import InputError

TIMES_ROUNDING = 10  # another order of the same sums rounds otherwise, in every layer
LEAST, MOST = 1e-5, 1e-3  # of a probability: nobody acts on less; with more, it is another model


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """
    Attributes:
        images: how many were compared.
        difference: of probabilities, the largest.
        equal: how many images got the same answer.
        tolerance: of `difference`.
    """

    images: int
    difference: float
    equal: int
    tolerance: float

    @property
    def holds(self) -> bool:
        return self.difference <= self.tolerance  # not so for NaN

    def __str__(self) -> str:
        return (
            f"probabilities differ by at most {self.difference:.1e} from the torch model's on {self.images} real images"
            f" (allowed: {self.tolerance:.1e}), equal answers {self.equal} of {self.images}"
        )


def agreement(found: NDArray[np.float32], model: Model, squares: NDArray[np.uint8]) -> Agreement:
    """How far probabilities `[N, classes]` found elsewhere are from the model's own on the same squares.

    Allowed is ten times what single precision itself does to this network on these images: its outputs against those
    in double precision. That is at least 1e-5 and at most 1e-3.

    Raises:
        InputError: the model's own outputs are no numbers.
    """
    wanted = model.predict(squares).numpy()
    if not np.isfinite(wanted).all():
        raise InputError(f"{model.architecture.label} gives no finite outputs on these images; it cannot be compared")
    if found.shape != wanted.shape:
        raise InputError(f"the exported model gives {list(found.shape)} for {len(squares)} images, not {wanted.shape}")
    rounding = float(np.abs(_in_double(model, squares) - wanted).max())
    return Agreement(
        images=len(squares),
        difference=float(np.abs(found - wanted).max()),
        equal=int((found.argmax(1) == wanted.argmax(1)).sum()),
        tolerance=min(max(LEAST, TIMES_ROUNDING * rounding), MOST),
    )


def _in_double(model: Model, squares: NDArray[np.uint8]) -> NDArray[np.float64]:
    preprocessing = model.preprocessing
    images = preprocessing.normalise(preprocessing.crop(torch.from_numpy(squares)))
    with torch.no_grad():
        logits: torch.Tensor = copy.deepcopy(model.module).eval().double()(images.double())
        probabilities: NDArray[np.float64] = logits.softmax(dim=1).numpy()
    return probabilities
