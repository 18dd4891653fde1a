"""scaling: how strongly each residual branch counts, by a learnable factor at its end.

A model's own LayerScale is left by `keep`, removed by `none` and replaced by any other choice. A scale takes
over from a zero-initialised norm gain at the end of a branch (timm's ResNets): that gain starts at one
instead, since a product of two zeros never learns.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import ClassVar, TypeGuard

import torch
from torch import Tensor, nn

from spaces.anatomy import Anatomy, Branch
from spaces.backbone import create
from spaces.techniques.base import Choice, NotApplicable, PerStage, Technique, one_of


class Scale(nn.Module):
    """x -> gamma * x.

    Args:
        channels: length of gamma, one factor a channel; None for one factor in all.
        start: initial value of every factor.
        trailing: axes of x after the channels (2 for NCHW, 0 for [N, tokens, C]).
    """

    def __init__(self, channels: int | None, start: float, trailing: int, device: torch.device):
        super().__init__()
        self.start = start
        self.gamma = nn.Parameter(torch.full((channels or 1,), start, device=device))  # one axis: no weight decay
        self._shape = (-1, *[1] * trailing) if channels else (1,)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma.view(self._shape)

    def extra_repr(self) -> str:
        return f"{len(self.gamma)}, start={self.start:g}"


def layerscale_start(depth: int) -> float:
    """Initial LayerScale by depth in blocks (2103.17239, section 2): 0.1 to 18, 1e-5 to 24, 1e-6 beyond."""
    return 0.1 if depth <= 18 else 1e-5 if depth <= 24 else 1e-6


class Scaling(Technique):
    name: ClassVar[str] = "scaling"
    default: ClassVar[Choice] = "keep"
    choices: ClassVar[Mapping[str, str]] = {
        "keep": "the backbone's own scales, if it has any",
        "none": "no scales",
        "rezero": "one learnable factor a branch, starting at 0",
        "layerscale": "one learnable factor a channel, starting small by depth",
    }
    paper: ClassVar[str] = "2003.04887 (ReZero), 2103.17239 (LayerScale)"

    def check(self, choice: object) -> Choice:
        return one_of(choice, self)

    def canonical(self, choices: PerStage, anatomy: Anatomy) -> PerStage:
        return tuple(_effect(choice, anatomy, stage) for stage, choice in enumerate(choices))

    def rewrite(self, model: nn.Module, choices: PerStage, anatomy: Anatomy) -> None:
        for branch in anatomy.branches:
            choice = choices[branch.stage]
            if choice == "keep":
                continue
            _remove_own(model, branch)
            if choice != "none":
                _free_gain(model, branch)
                _append(model, branch, per_channel=choice == "layerscale", start=_start(choice, anatomy))

    def label(self, choice: Choice) -> str:
        return f"scale={choice}" if choice == "none" else str(choice)


@lru_cache(maxsize=64)
def _own_starts(anatomy: Anatomy) -> dict[str, float]:
    """Initial values of the model's own scales per channel, where they are constant; made once for real."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        model = create(anatomy.backbone, anatomy.kwargs, num_classes=10, in_chans=3)
    starts = {}
    for branch in anatomy.branches:
        if branch.own_scale is not None:
            gamma = model.get_parameter(branch.own_scale).detach()
            if gamma.numel() > 1 and torch.all(gamma == gamma.flatten()[0]):
                starts[branch.own_scale] = float(gamma.flatten()[0])
    return starts


def _effect(choice: Choice, anatomy: Anatomy, stage: int) -> Choice:
    branches = [branch for branch in anatomy.branches if branch.stage == stage]
    if choice == "none":
        return "none" if any(branch.own_scale for branch in branches) else "keep"
    if choice == "keep":
        return choice
    if not branches:
        raise NotApplicable("it has no residual branches")
    for branch in branches:
        if branch.target is None or branch.width is None:
            raise NotApplicable(f"the branch added in {branch.module} does not end in a module")
    if choice == "layerscale" and all(branch.own_scale for branch in branches):
        start, own = torch.tensor(_start(choice, anatomy), device="cpu"), _own_starts(anatomy)
        if all(own.get(str(branch.own_scale)) == float(start) for branch in branches):
            return "keep"
    return choice


def _start(choice: Choice, anatomy: Anatomy) -> float:
    depth = sum(len(stage.blocks) for stage in anatomy.stages)
    return 0.0 if choice == "rezero" else layerscale_start(depth)


def _remove_own(model: nn.Module, branch: Branch) -> None:
    """Take the model's own scale away: an empty slot for a module of its own, None for a bare parameter."""
    if branch.own_scale is None:
        return
    path, _, name = branch.own_scale.rpartition(".")
    owner = model.get_submodule(path)
    if len(list(owner.parameters())) == 1:
        model.set_submodule(path, nn.Identity())
    else:
        setattr(owner, name, None)


def _free_gain(model: nn.Module, branch: Branch) -> None:
    """What the model starts at zero to begin as the identity starts as usual: gains at one, a last layer by its law."""
    for module in model.get_submodule(branch.module).modules():
        gain = module.weight if isinstance(module, _NORMS) else getattr(module, "gain", None)
        if _starts_at_zero(gain):
            nn.init.ones_(gain)
    last = next((m for m in map(model.get_submodule, branch.producers) if list(m.parameters(recurse=False))), None)
    if isinstance(last, nn.Linear | nn.Conv2d) and _starts_at_zero(last.weight):
        last.reset_parameters()


_NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)


def _starts_at_zero(parameter: object) -> TypeGuard[nn.Parameter]:
    return isinstance(parameter, nn.Parameter) and not parameter.is_meta and not parameter.any()


def _append(model: nn.Module, branch: Branch, *, per_channel: bool, start: float) -> None:
    assert branch.target is not None
    assert branch.width is not None
    name, axis = branch.width
    reference = model.get_parameter(name)
    scale = Scale(reference.shape[axis] if per_channel else None, start, branch.trailing, reference.device)
    end = model.get_submodule(branch.target)
    model.set_submodule(branch.target, scale if type(end) is nn.Identity else nn.Sequential(end, scale))
