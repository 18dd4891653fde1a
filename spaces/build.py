"""Architecture -> nn.Module: the backbone from timm, then each technique in the one fixed order.

Every architecture is first built on the meta device and run there once, so what cannot work is refused before
any weight is made.
"""

import copy
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import nn

from spaces.anatomy import anatomy_of
from spaces.architecture import Architecture, resolve
from spaces.backbone import create, first_line
from spaces.errors import SpaceError
from spaces.resizing.importance import Batch, check_method, scores
from spaces.techniques import TECHNIQUES
from spaces.techniques.width import Width
from spaces.weights import cached


@dataclass(frozen=True, kw_only=True)
class Start:
    """Trained weights to start from.

    Attributes:
        weights: a .safetensors file of the backbone; None for timm's own from the local cache, of the tag that
            the architecture's backbone names (`resnet18.a1_in1k`), else of its first.
        importance: by what the channels of a narrower network are chosen, one of `spaces.resizing.importance.METHODS`.
        batch: images [N, C, H, W] and labels [N] for the importance `taylor`.

    Raises:
        SpaceError: no such importance, or `taylor` without a batch.
    """

    weights: Path | None = None
    importance: str = "l2"
    batch: Batch | None = None

    def __post_init__(self) -> None:
        check_method(self.importance, self.batch)


def build(architecture: Architecture, num_classes: int, in_chans: int = 3, *, start: Start | None = None) -> nn.Module:
    """The network of an architecture on the default device, in training mode.

    Weights are drawn from torch's global generator: the same seed gives the same weights. Under
    `torch.device("meta")` no memory is used.

    Args:
        num_classes: outputs of the classifier, [N, num_classes].
        in_chans: channels of the images, [N, in_chans, H, W].
        start: trained weights, kept wherever the architecture leaves room for them; None for fresh ones.

    Raises:
        SpaceError: the architecture cannot be built, or the weights are not there; the message says why.
    """
    for name, number in (("num_classes", num_classes), ("in_chans", in_chans)):
        if not isinstance(number, int) or number < 1:
            raise SpaceError(f"{number!r} is not a whole number from 1", key=name)
    if architecture.backbone is None:
        raise SpaceError("an architecture of plain choices has no network; evaluate it with an Evaluator of your own")
    check(architecture.canonical)
    weights = (start.weights or cached(architecture.backbone)) if start else None
    canonical = architecture.canonical
    name = canonical.backbone or ""
    model = create(name, canonical.kwargs, num_classes=num_classes, in_chans=in_chans, weights=weights)
    return _compose(canonical, model, start)


def _compose(canonical: Architecture, model: nn.Module, start: Start | None = None) -> nn.Module:
    """Rewrite the backbone of an architecture, in place."""
    assert canonical.backbone is not None
    anatomy = anatomy_of(canonical.backbone, canonical.kwargs)
    for name, choices in resolve(canonical.backbone, canonical.kwargs, canonical.choices).items():
        technique = TECHNIQUES[name]
        if start and isinstance(technique, Width):  # the one that chooses among weights
            kept = scores(model, anatomy, start.importance, start.batch)
            technique.rewrite(model, choices, anatomy, trained=True, importance=kept)
        else:
            technique.rewrite(model, choices, anatomy, trained=start is not None)
    return model


@lru_cache(maxsize=4096)
def check(canonical: Architecture) -> None:
    """Build and run a canonical architecture on the meta device.

    Raises:
        SpaceError: its parts do not fit together.
    """
    assert canonical.backbone is not None
    anatomy = anatomy_of(canonical.backbone, canonical.kwargs)
    try:
        with torch.device("meta"), torch.no_grad():
            model = _compose(canonical, copy.deepcopy(anatomy.model)).eval()
            shape = model(torch.empty(2, 3, anatomy.image_size, anatomy.image_size)).shape
    except SpaceError:
        raise
    except Exception as error:  # whatever a forward pass raises
        notes = "".join(f"; {note}" for note in anatomy.notes[:1])
        raise SpaceError(f"{canonical.label} does not fit together: {first_line(error)}{notes}") from None
    if shape != (2, 10):
        raise SpaceError(f"{canonical.label} gives {tuple(shape)} for 2 images and 10 classes")
