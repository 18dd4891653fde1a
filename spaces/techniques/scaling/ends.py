"""Where a layer ends: the module after which a scale goes, and what the model itself does there.

Reads anatomies and changes models; knows nothing of choices.
"""

import copy
from collections import Counter, defaultdict
from collections.abc import Collection
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeGuard
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from spaces.anatomy import Anatomy, Branch
from spaces.anatomy.dims import Dim
from spaces.anatomy.meta import OnlySmall
from spaces.backbone import create
from spaces.errors import SpaceError
from spaces.techniques.base import NotApplicable
from spaces.techniques.norms import NORMS
from spaces.techniques.scaling.scales import is_own_scale
from spaces.techniques.wrapping import chained, place


@dataclass(frozen=True, kw_only=True)
class End:
    """The end of a layer.

    Attributes:
        branch: the layer.
        path: the module whose output is scaled; no other layer ends in it.
        trailing: axes of that output after its channels.
        own_scale: the parameter with which the model itself scales the layer, if any.
    """

    branch: Branch
    path: str
    trailing: int
    own_scale: str | None


@lru_cache(maxsize=4096)
def ends_of(anatomy: Anatomy, stage: int) -> tuple[End, ...]:
    """The ends of a stage's residual branches, or of its blocks where nothing is added to a shortcut.

    Raises:
        NotApplicable: there are none, or one has no module of its own at its end.
    """
    branches = anatomy.ends(stage) if anatomy.stages else ()
    if not branches:
        raise NotApplicable("it has no layers that end in a module")
    again = _called_again(anatomy)
    return tuple(_end(anatomy, branch, shared=branch.target in again) for branch in branches)


@lru_cache(maxsize=1024)
def _called_again(anatomy: Anatomy) -> frozenset[str]:
    """Modules that run more than once in a forward pass, so that more than one layer may end in them."""
    model = copy.deepcopy(anatomy.model)
    counts: Counter[str] = Counter()
    for path, module in model.named_modules():
        module.register_forward_hook(lambda *_, path=path: counts.update([path]))
    with torch.no_grad():
        model(torch.empty(2, 3, anatomy.image_size, anatomy.image_size, device="meta"))
    return frozenset(path for path, count in counts.items() if count > 1)


def _end(anatomy: Anatomy, branch: Branch, *, shared: bool) -> End:
    own = branch.own_scale if branch.own_scale and is_own_scale(anatomy.model, branch.own_scale) else None
    if branch.width is None:
        raise NotApplicable(f"the channels that {branch.module} ends with cannot be followed")
    if branch.target is not None and not shared:
        return End(branch=branch, path=branch.target, trailing=branch.trailing, own_scale=own)
    name, axis = branch.width
    channels = anatomy.dims[name][axis].find()
    for path in _parts(anatomy, branch):
        found = [place for place, dim in enumerate(anatomy.outputs[path]) if dim.find() is channels]
        if found:
            trailing = len(anatomy.outputs[path]) - 1 - found[-1]
            return End(branch=branch, path=path, trailing=trailing, own_scale=own)
    raise NotApplicable(f"the branch added in {branch.module} does not end in a module of its own")


def _parts(anatomy: Anatomy, branch: Branch) -> list[str]:
    """The modules right inside the adding one through which only this branch goes, the last first."""
    parts = []
    for name, module in anatomy.model.get_submodule(branch.module).named_children():
        path = f"{branch.module}.{name}"
        own = {f"{path}.{parameter}" for parameter, _ in module.named_parameters()}
        if own and own <= branch.parameters and path in anatomy.outputs:
            parts.append(path)
    return sorted(parts, key=anatomy.places.rank, reverse=True)


def channels_of(model: nn.Module, anatomy: Anatomy, end: End) -> int:
    """How many channels a layer of `model` ends with, whatever else of it has been changed."""
    assert end.branch.width is not None
    name, axis = end.branch.width
    found = length_of(model, anatomy, anatomy.dims[name][axis].find())
    assert found is not None, f"nothing in the model is as long as the output of {end.path}"
    return found


def length_of(model: nn.Module, anatomy: Anatomy, size: Dim) -> int | None:
    """What a size of the backbone is in `model`, read off its parameters; None where none of them has it."""
    for name, axis in _as_long_as(anatomy, size):
        path, _, leaf = name.rpartition(".")
        try:
            modules = tuple(chained(model.get_submodule(path)))
        except AttributeError:  # another technique put something else there
            continue
        for module in modules:  # a pointwise convolution may follow, and makes the channels
            tensor = getattr(module, leaf, None)
            if isinstance(tensor, Tensor) and tensor.ndim == len(anatomy.dims[name]):
                return tensor.shape[axis]
    return None


@lru_cache(maxsize=4096)
def _as_long_as(anatomy: Anatomy, size: Dim) -> tuple[tuple[str, int], ...]:
    """The axes of parameters that are one and the same size: axis 0 first, since grouping changes only axis 1."""
    alike = [(name, axis) for name, dims in anatomy.dims.items() for axis, dim in enumerate(dims) if dim.find() is size]
    return tuple(sorted(alike, key=lambda found: found[1]))


def light_model(anatomy: Anatomy) -> nn.Module:
    """The backbone on the CPU, new, with large weights on the meta device; whole where its making computes with them.

    Leaves torch's generator as it was.
    """
    for sparing in (OnlySmall(), nullcontext()):
        with torch.random.fork_rng(devices=[]), torch.device("cpu"), sparing, suppress(SpaceError):
            return create(anatomy.backbone, anatomy.kwargs, num_classes=10, in_chans=3)
    raise AssertionError("it could be built on the meta device")


@lru_cache(maxsize=64)
def own_starts(anatomy: Anatomy) -> dict[str, tuple[bool, float]]:
    """By own scale whose factors all start alike: whether it has one a channel, and the start that the model makes."""
    names = [branch.own_scale for branch in anatomy.branches if branch.own_scale is not None]
    model = light_model(anatomy) if names else anatomy.model
    starts = {}
    for name in names:
        gamma = model.get_parameter(name).detach().flatten()
        if torch.all(gamma == gamma[0]):
            starts[name] = (gamma.numel() > 1, float(gamma[0]))
    return starts


def remove_own(model: nn.Module, names: Collection[str], shadow: nn.Module, image: Tensor) -> None:
    """Take the model's own scales away.

    A module of its own becomes an empty slot, a bare parameter None; where the code multiplies by it without
    asking, ones stay in its place.

    Args:
        shadow: the model on the meta device, to try on; never changed.
        image: what `shadow` runs on.
    """
    bare = []
    for name in names:
        path, _, _ = name.rpartition(".")
        if len(list(model.get_submodule(path).parameters())) == 1:
            place(model, path, nn.Identity())
        else:
            bare.append(name)
    for name in _multiplied_by(shadow, tuple(bare), image) if bare else ():
        path, _, leaf = name.rpartition(".")
        owner = model.get_submodule(path)
        ones = torch.ones_like(model.get_parameter(name).detach())
        delattr(owner, leaf)
        owner.register_buffer(leaf, ones, persistent=False)
        bare.remove(name)
    for name in bare:
        path, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(path), leaf, None)


def _multiplied_by(shadow: nn.Module, names: tuple[str, ...], image: Tensor) -> tuple[str, ...]:
    """Those of the parameters without which the model does not run; alike in all modules of one class."""
    known = _multiplied.setdefault(shadow, {})
    if names not in known:
        known[names] = tuple(_tried(shadow, names, image))
    return known[names]


_multiplied: WeakKeyDictionary[nn.Module, dict[tuple[str, ...], tuple[str, ...]]] = WeakKeyDictionary()


def _tried(shadow: nn.Module, names: Collection[str], image: Tensor) -> list[str]:
    trial = copy.deepcopy(shadow)
    kinds: dict[tuple[type, str], list[str]] = defaultdict(list)
    for name in names:
        path, _, leaf = name.rpartition(".")
        kinds[type(trial.get_submodule(path)), leaf].append(name)
    needed = []
    for (_, leaf), members in kinds.items():
        kept = {name: trial.get_parameter(name) for name in members}
        for name in members:
            setattr(trial.get_submodule(name.rpartition(".")[0]), leaf, None)
        try:
            with torch.no_grad():
                trial(image)
        except Exception:  # whatever the code does with None
            needed += members
            for name, parameter in kept.items():
                setattr(trial.get_submodule(name.rpartition(".")[0]), leaf, parameter)
    return needed


def free_gain(model: nn.Module, branch: Branch) -> None:
    """What the model starts at zero to begin as the identity starts as usual: gains at one, a last layer by its law."""
    if next(model.parameters()).is_meta:
        return  # nothing there has a value
    for module in model.get_submodule(branch.module).modules():
        gain = module.weight if isinstance(module, NORMS) else getattr(module, "gain", None)
        if _starts_at_zero(gain):
            nn.init.ones_(gain)
    there = dict(model.named_modules())  # another norm has no parts of the old one
    parts = (there[path] for path in branch.producers if path in there)
    last = next((module for module in parts if list(module.parameters(recurse=False))), None)
    if isinstance(last, nn.Linear | nn.Conv2d) and _starts_at_zero(last.weight):
        last.reset_parameters()


def _starts_at_zero(parameter: object) -> TypeGuard[nn.Parameter]:
    return isinstance(parameter, nn.Parameter) and not parameter.is_meta and not parameter.any()
