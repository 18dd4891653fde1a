"""Train, validation and test: disjoint, stratified, seeded; a split that the data bring is kept.

Knows labels, nothing of images.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from sklearn.model_selection import train_test_split

from spaces.errors import InputError


def split(
    labels: np.ndarray,
    classes: Sequence[str],
    given: Mapping[str, np.ndarray],
    fractions: Mapping[str, float],
    seed: int,
) -> dict[str, np.ndarray]:
    """Indices by split: "train", "val", "test".

    Args:
        labels: int `[N]`.
        given: indices of the splits that are kept as they are, by name: "val", "test".
        fractions: the share of the images in no given split to draw for "val" and "test"; 0 leaves it empty.

    Raises:
        InputError: a class has too few images to be in each split that is drawn, and in training.
    """
    splits = {"val": np.empty(0, np.int64), "test": np.empty(0, np.int64), **given}
    pool = np.setdiff1d(np.arange(len(labels)), np.concatenate(list(splits.values())))
    rest = pool
    drawn = [name for name in ("test", "val") if name not in given and fractions[name] > 0]
    try:
        for name in drawn:
            rest, splits[name] = train_test_split(
                rest, test_size=round(fractions[name] * len(pool)), stratify=labels[rest], random_state=seed
            )
    except ValueError:  # a class of one, or a split smaller than the number of classes
        rest = rest[:0]
    splits["train"] = rest
    if any(len(np.unique(labels[splits[name]])) < len(classes) for name in ("train", *drawn)):
        raise InputError(_too_few(labels[pool], classes, {name: fractions[name] for name in drawn}))
    return {name: np.asarray(splits[name], np.int64) for name in ("train", "val", "test")}


def _too_few(labels: np.ndarray, classes: Sequence[str], fractions: Mapping[str, float]) -> str:
    counts = np.bincount(labels, minlength=len(classes))
    rarest = int(counts.argmin())
    # stratified, a share f of a class of n is at least floor(f n) images
    least = max((math.ceil(1 / fraction) for fraction in fractions.values()), default=0) + 1
    shares = ", ".join(f"data.{name}_fraction {fraction:g}" for name, fraction in fractions.items())
    return (
        f"class {classes[rarest]!r} has {counts[rarest]} of the {len(labels)} images to train on and to split"
        f" ({shares or 'validation and test are given'}); give it at least {least}, or leave the class out"
    )
