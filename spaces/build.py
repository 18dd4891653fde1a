"""Architecture -> nn.Module: the backbone from timm, then each technique in the one fixed order.

Every architecture is first built on the meta device and run there once, so what cannot work is refused before
any weight is made.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_model
from torch import nn

from spaces.anatomy import Anatomy, anatomy_of
from spaces.anatomy.meta import Unfilled
from spaces.architecture import Architecture
from spaces.backbone import create, first_line, shortened
from spaces.errors import SpaceError
from spaces.resizing.descent import Follow, by_channels, by_shape, take_over
from spaces.resizing.importance import Batch, check_method, scores
from spaces.resizing.sizing import sizes
from spaces.techniques import TECHNIQUES, PerStage
from spaces.techniques.width import Width, chosen_scales
from spaces.twin import modules_of, twin
from spaces.weights import cached


@dataclass(frozen=True, kw_only=True)
class Start:
    """Trained weights to start from.

    Attributes:
        weights: a .safetensors file of the backbone; None for timm's own from the local cache, of the tag that
            the architecture's backbone names (`resnet18.a1_in1k`), else of its first.
        architecture: whose weights they are, as `build` made it for as many classes and channels of images: any of the
            same backbone. None for those of timm, or of a file in timm's form, of the unmodified backbone.
        importance: by what the channels of a narrower network are chosen, one of `spaces.resizing.importance.METHODS`.
        batch: images [N, C, H, W] and labels [N] for the importance `taylor`.

    Raises:
        SpaceError: no such importance, `taylor` without a batch, or an architecture without its weights.
    """

    weights: Path | None = None
    architecture: Architecture | None = None
    importance: str = "l2"
    batch: Batch | None = None

    def __post_init__(self) -> None:
        check_method(self.importance, self.batch)
        if self.architecture is not None and self.weights is None:
            raise SpaceError("an architecture to start from needs a file of its weights", key="weights")


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
    backbone, canonical = _checked(architecture, num_classes, in_chans), architecture.canonical
    check(canonical)
    if start is not None and start.architecture is not None:
        return _descended(canonical, num_classes, in_chans, start, start.architecture.canonical)
    weights = (start.weights or cached(backbone)) if start else None
    name = canonical.backbone or ""
    model = create(name, canonical.kwargs, num_classes=num_classes, in_chans=in_chans, weights=weights)
    return _rewrite(model, _anatomy(canonical), _steps(canonical), start)


def _descended(
    canonical: Architecture, num_classes: int, in_chans: int, start: Start, before: Architecture
) -> nn.Module:
    """A network that starts from what it can continue of another one of its backbone."""
    if before.backbone != canonical.backbone:
        raise SpaceError(f"weights of {before.label} are no start for {canonical.label}, which has another backbone")
    with torch.random.fork_rng(devices=[]):
        donor = build(before, num_classes, in_chans)
    assert start.weights is not None
    try:
        load_model(donor, start.weights, strict=True)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise SpaceError(f"{start.weights} does not fit {before.label}: {shortened(error)}", key="weights") from None
    if before.kwargs == canonical.kwargs and not before.choices:
        return _rewrite(donor, _anatomy(canonical), _steps(canonical), start)
    follow: Follow = by_shape
    model = build(canonical, num_classes, in_chans)
    if before.kwargs == canonical.kwargs:
        anatomy = _anatomy(canonical)
        old, new = (sizes(anatomy, chosen_scales(anatomy, _steps(each))) for each in (before, canonical))
        kept = scores(donor, anatomy, start.importance, start.batch, size_of=old)
        follow = by_channels(anatomy, old, new, kept)
    take_over(model, donor, follow)
    return model


def skeleton(architecture: Architecture, num_classes: int, in_chans: int = 3) -> nn.Module:
    """The network of an architecture to be looked at: on the meta device, in evaluation mode.

    As `build` makes it, many times faster, but not tried: run it to see whether its parts fit together. Its modules
    are its own, its tensors are those of other skeletons too.

    Args:
        num_classes, in_chans: as for `build`.

    Raises:
        SpaceError: the architecture cannot be built; the message says why.
    """
    _checked(architecture, num_classes, in_chans)
    canonical = architecture.canonical
    steps = _steps(canonical)
    width = {name: steps.pop(name) for name in (Width.name,) if name in steps}
    often = not isinstance(canonical.choices.get(Width.name), list)  # one for each stage hardly comes again
    begun = _text(width if often else {})
    model = twin(_begun(canonical.backbone or "", _text(canonical.kwargs), begun, num_classes, in_chans))
    _rewrite(model, _anatomy(canonical), {} if often else width)
    with torch.device("meta"):
        _rewrite(model, _anatomy(canonical), steps)
    for module in modules_of(model):
        if module.training:
            module.eval()
    return model


@lru_cache(maxsize=64)
def _begun(name: str, kwargs_json: str, width_json: str, num_classes: int, in_chans: int) -> nn.Module:
    """A backbone of some width, never changed: what skeletons begin as. Width is what takes longest."""
    kwargs, width = json.loads(kwargs_json), {name: tuple(stages) for name, stages in json.loads(width_json).items()}
    if width:
        model = twin(_begun(name, kwargs_json, _text({}), num_classes, in_chans))
        return _rewrite(model, anatomy_of(name, kwargs), width)
    with torch.device("meta"), Unfilled():
        return create(name, kwargs, num_classes=num_classes, in_chans=in_chans).eval()


def _text(value: Mapping[str, Any]) -> str:
    return json.dumps(dict(value), sort_keys=True)


def _checked(architecture: Architecture, num_classes: int, in_chans: int) -> str:
    """The backbone, with its tag, of what `build` is asked for."""
    for name, number in (("num_classes", num_classes), ("in_chans", in_chans)):
        if not isinstance(number, int) or number < 1:
            raise SpaceError(f"{number!r} is not a whole number from 1", key=name)
    if architecture.backbone is None:
        raise SpaceError("an architecture of plain choices has no network; evaluate it with an Evaluator of your own")
    return architecture.backbone


def _anatomy(canonical: Architecture) -> Anatomy:
    assert canonical.backbone is not None
    return anatomy_of(canonical.backbone, canonical.kwargs)


def _steps(canonical: Architecture) -> dict[str, PerStage]:
    """The choices of each dimension, one a stage, in composition order."""
    count = max(1, len(_anatomy(canonical).stages))
    choices = canonical.choices.items()
    return {name: tuple(choice) if isinstance(choice, list) else (choice,) * count for name, choice in choices}


def _rewrite(
    model: nn.Module, anatomy: Anatomy, steps: Mapping[str, PerStage], start: Start | None = None
) -> nn.Module:
    """Rewrite a backbone in place."""
    for name, choices in steps.items():
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
    anatomy = _anatomy(canonical)
    try:
        with torch.device("meta"), torch.no_grad():
            model = _rewrite(twin(anatomy.model), anatomy, _steps(canonical)).eval()
            shape = model(torch.empty(2, 3, anatomy.image_size, anatomy.image_size)).shape
    except SpaceError:
        raise
    except Exception as error:  # whatever a forward pass raises
        notes = "".join(f"; {note}" for note in anatomy.notes[:1])
        raise SpaceError(f"{canonical.label} does not fit together: {first_line(error)}{notes}") from None
    if shape != (2, 10):
        raise SpaceError(f"{canonical.label} gives {tuple(shape)} for 2 images and 10 classes")
