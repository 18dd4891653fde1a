"""The same classifier with fewer parts, for inference: scales folded, layer attention without what decides and skips.

What comes out gives the outputs of the trained network, up to rounding, and is smaller or equal. Where an architecture
says it, it is named: `build` of it takes the state. Knows networks and architectures, nothing of formats.
"""

import copy
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from spaces.anatomy.meta import InputSize, meta_image, on_meta
from spaces.anatomy.trace import Trace
from spaces.architecture import Architecture
from spaces.build import build
from spaces.errors import SpaceError
from spaces.fold import fold
from spaces.techniques.base import Choice, kind_of, values_of
from spaces.techniques.layer_attention.mrla import BaseLayer
from spaces.techniques.scaling.scales import Static, own_scales


@dataclass(frozen=True, kw_only=True, eq=False)
class Simple:
    """
    Attributes:
        model: in evaluation mode, with tensors of its own.
        architecture: the one whose `build` takes the state of `model`; None where there is none.
        notes: what was done, and what could not be, a clause each.
    """

    model: nn.Module
    architecture: Architecture | None
    notes: tuple[str, ...]


def simplify(model: nn.Module, architecture: Architecture, input_size: InputSize) -> Simple:
    """A smaller network with the outputs of `model` in evaluation mode; `model` stays as it is.

    Args:
        architecture: of `model`.
        input_size: (C, H, W) of an image.
    """
    small = copy.deepcopy(model).eval().requires_grad_(False)
    before = _scales(small, input_size)
    left = fold(small, input_size)
    after = _scales(small, input_size)
    skipped = _settle(small)
    notes = [f"{before - after} scales are folded into the weights before them"] if before > after else []
    reasons = Counter(line.partition(": ")[2] for line in left)
    notes += [f"{number} scales stay: {reason}" for reason, number in reasons.items()]
    notes += [f"{skipped} layer attentions that are skipped are removed"] if skipped else []
    canonical = architecture.canonical
    choices = dict(canonical.choices)
    if not left:
        choices["scaling"] = _each(choices.get("scaling", "keep"), _folded)
    if "layer_attention" in choices:
        choices["layer_attention"] = _each(choices["layer_attention"], _settled)
    said = Architecture(backbone=canonical.backbone, kwargs=dict(canonical.kwargs), choices=choices)
    says = (not left or before == after) and _builds(said, small, input_size)
    return Simple(model=small, architecture=said.canonical if says else None, notes=tuple(notes))


def _scales(model: nn.Module, input_size: InputSize) -> int:
    """How many scales there are that do not depend on the image, ours and the model's own."""
    ours = sum(isinstance(module, Static) for module in model.modules())
    shadow = on_meta(model)
    return ours + len(own_scales(Trace(shadow, meta_image(model, input_size)), shadow))


def _settle(model: nn.Module) -> int:
    """What the gates of layer attentions have decided becomes the network; how many attentions are skipped and go."""
    skipped = 0
    for layer in model.modules():
        if isinstance(layer, BaseLayer) and layer.gate is not None:
            if not layer.gate.open:
                layer.update = nn.Identity()
                skipped += 1
            layer.gate = None
    if hasattr(model, "skip_controller"):
        del model.skip_controller
    return skipped


def _each(choices: Any, change: Callable[[Choice], Choice]) -> Any:
    """Of a choice for the whole network, or of a list with one a stage."""
    return [change(choice) for choice in choices] if isinstance(choices, list) else change(choices)


def _folded(choice: Choice) -> Choice:
    dynamic = kind_of(choice) in ("se", "eca") or values_of(choice).get("conditioned")
    return choice if dynamic else "none"


def _settled(choice: Choice) -> Choice:
    if kind_of(choice) != "ela":
        return choice
    size = values_of(choice).get("head_dim")
    return {"kind": "mrla_base", "head_dim": size} if size else "mrla_base"


def _builds(architecture: Architecture, model: nn.Module, input_size: InputSize) -> bool:
    """Whether the network of an architecture has the tensors of a model, and no others."""
    with torch.no_grad():
        classes = model(torch.zeros(1, *input_size)).shape[1]
    try:
        with torch.device("meta"):
            outline = build(architecture, classes, input_size[0])
    except SpaceError:
        return False
    wanted, given = ({name: t.shape for name, t in one.state_dict().items()} for one in (outline, model))
    return wanted == given
