"""Remove residual branches whose adaptive gate has died, so that a trained model becomes smaller and faster.

Knows architectures and their networks, nothing of training.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spaces.anatomy import Anatomy, anatomy_of
from spaces.architecture import Architecture, resolve
from spaces.build import build
from spaces.techniques.base import Choice, kind_of, values_of
from spaces.techniques.scaling.ends import ends_of
from spaces.techniques.scaling.removed import TOLERANCE, removable
from spaces.techniques.scaling.scales import Gate, Learned, mean_factors, scales_of


@dataclass(frozen=True, kw_only=True, eq=False)
class Removal:
    """What came of it.

    Attributes:
        architecture: of `model`; `build(architecture, ...)` loads its state.
        model: the reduced network with the weights of the trained one.
        removed: the ends of the branches that are gone, as `layer1.0.bn2`.
        kept: dead branches that had to stay, with the reason.
    """

    architecture: Architecture
    model: nn.Module
    removed: tuple[str, ...]
    kept: Mapping[str, str]


def remove_dead(
    model: nn.Module, architecture: Architecture, batches: Sequence[Tensor], *, threshold: float = 0.01
) -> Removal:
    """The network without the branches whose adaptive gate is at most `threshold` (1 at the start of training).

    The rate falls to 0 by the end of a training, so that a gate that has died comes to rest below 0.01.

    A gate that depends on the image counts by its mean over `batches`. What is removed is checked: on the first
    batch the result gives the outputs of `model` with these gates at 0.

    Args:
        model: a trained network of `architecture`, in any mode; it stays as it is.
        batches: images [N, C, H, W] on the model's device, at least one batch.
    """
    canonical = architecture.canonical
    assert canonical.backbone is not None
    anatomy = anatomy_of(canonical.backbone, canonical.kwargs)
    choices = resolve(canonical.backbone, canonical.kwargs, canonical.choices).get("scaling", ())
    gates = _gates(model, batches)
    reduced: list[Choice] = []
    removed: list[str] = []
    kept: dict[str, str] = {}
    for stage, choice in enumerate(choices):
        if kind_of(choice) == "adaptive":
            dead = [end.path for end in ends_of(anatomy, stage) if gates.get(end.path, threshold + 1) <= threshold]
            choice, refused = _without(choice, anatomy, stage, dead)
            kept |= refused
            removed += [path for path in dead if path not in refused]
        reduced.append(choice)
    if not removed:
        return Removal(architecture=canonical, model=model, removed=(), kept=kept)
    smaller = Architecture(
        backbone=canonical.backbone, kwargs=dict(canonical.kwargs), choices={**canonical.choices, "scaling": reduced}
    ).canonical
    small = _rebuilt(model, smaller, batches[0])
    difference = _difference(model, small, removed, batches[0])
    if difference > TOLERANCE:
        reason = f"without it the outputs differ by {difference:.1e} from those with its gate at 0"
        return Removal(architecture=canonical, model=model, removed=(), kept=kept | dict.fromkeys(removed, reason))
    return Removal(architecture=smaller, model=small, removed=tuple(removed), kept=kept)


def _gates(model: nn.Module, batches: Sequence[Tensor]) -> dict[str, float]:
    """How far each gate is open, by place."""
    means = mean_factors(model, batches)
    gates = {}
    for place, scale in scales_of(model).items():
        if isinstance(scale, Learned) and len(scale.gamma) == 1:
            gates[place] = abs(float(scale.gamma.detach()))
        elif isinstance(scale, Gate):
            gates[place] = means[place][0]
    return gates


def _without(choice: Choice, anatomy: Anatomy, stage: int, dead: Sequence[str]) -> tuple[Choice, dict[str, str]]:
    """The choice without the dead branches of a stage; those that cannot be removed, with the reason."""
    paths = [end.path for end in ends_of(anatomy, stage)]
    before = {int(index) for index in str(values_of(choice).get("removed", "")).split(",") if index}
    gone = before | {paths.index(path) for path in dead}
    refused = removable(anatomy, stage, tuple(sorted(gone))).refused
    left = ",".join(str(index) for index in sorted(gone - refused.keys()))
    return {**values_of(choice), "kind": "adaptive", "removed": left}, {
        paths[index]: reason for index, reason in refused.items()
    }


def _rebuilt(model: nn.Module, architecture: Architecture, images: Tensor) -> nn.Module:
    """The network of an architecture with the weights of `model` that it still has."""
    with torch.no_grad():
        classes = copy.deepcopy(model).eval()(images[:1]).shape[1]
    with torch.random.fork_rng(devices=[]), images.device:
        small = build(architecture, classes, images.shape[1])
    state = model.state_dict()
    small.load_state_dict({name: state[name] for name in small.state_dict()})
    return small.train(model.training)


def _difference(model: nn.Module, small: nn.Module, removed: Sequence[str], images: Tensor) -> float:
    """Between the outputs of the small network and those of the whole one with these gates at 0; of the largest."""
    zeroed = copy.deepcopy(model).eval()
    scales = scales_of(zeroed)
    with torch.no_grad():
        for place in removed:
            for parameter in scales[place].parameters():
                parameter.zero_()
        wanted, outputs = zeroed(images), copy.deepcopy(small).eval()(images)
    return float((outputs - wanted).abs().max() / wanted.abs().max().clamp(min=1.0))
