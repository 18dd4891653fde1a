"""What stands in for residual branches that are gone, so that neither their weights nor their work remain.

A plan is found by trying: each proposal runs against the same block with its branch multiplied by zero, on
inputs and weights without structure, and only what agrees is taken. Reads anatomies; knows nothing of choices.
"""

import copy
import itertools
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map_only

from spaces.anatomy import Anatomy, Branch
from spaces.anatomy.stages import inside
from spaces.techniques.scaling.ends import End, ends_of, light_model, remove_own
from spaces.techniques.scaling.scales import Fixed
from spaces.techniques.wrapping import append

TOLERANCE = 1e-5  # of the largest output


@final
class First(nn.Module):
    """Hands its first argument on, whatever else it is called with."""

    def forward(self, x: Tensor, *others: Any, **named: Any) -> Tensor:
        return x


@final
class Zeros(nn.Module):
    """Zeros to add to a shortcut, in the shape of the first argument, or in one that broadcasts to any."""

    def __init__(self, *, broadcast: bool):
        super().__init__()
        self.broadcast = broadcast

    def forward(self, x: Tensor, *others: Any, **named: Any) -> Tensor:
        return x.new_zeros((1,) * x.ndim) if self.broadcast else torch.zeros_like(x)


@dataclass(frozen=True, kw_only=True)
class StandIn:
    """What takes the place of the module at `path`.

    Attributes:
        zeros: None for parts of it, else whether the zeros broadcast.
        parts: children of it that stay, one after another; none hands the input on.
    """

    path: str
    zeros: bool | None = None
    parts: tuple[str, ...] = ()

    def displaces(self, path: str) -> bool:
        """Whether the module at `path` is no longer there."""
        return inside(path, self.path) and not any(inside(path, f"{self.path}.{part}") for part in self.parts)

    def put(self, root: nn.Module, prefix: str = "") -> nn.Module:
        """Change `root`, the module at `prefix`, in place; returns what stands there then."""
        below = self.path.removeprefix(prefix).removeprefix(".")
        new: nn.Module
        if self.zeros is not None:
            new = Zeros(broadcast=self.zeros)
        elif self.parts:
            old = root.get_submodule(below)
            new = nn.Sequential(OrderedDict((name, old.get_submodule(name)) for name in self.parts))
            for module in new.modules():
                if hasattr(module, "inplace"):  # what it gets now is also wanted elsewhere
                    vars(module)["inplace"] = False
        else:
            new = First()
        if not below:
            return new
        root.set_submodule(below, new)
        return root


Plan = tuple[StandIn, ...]
Given = tuple[Any, dict[str, Any]]  # arguments of a module


@dataclass(frozen=True, kw_only=True)
class Removable:
    """How branches of a stage can be taken out.

    Attributes:
        plan: the stand-ins, those inside others first.
        inside: further branches, by index in the stage, that go with them, as they are parts of them.
        refused: why others cannot, by index.
    """

    plan: Plan
    inside: tuple[int, ...]
    refused: Mapping[int, str]


@lru_cache(maxsize=256)
def removable(anatomy: Anatomy, stage: int, gone: tuple[int, ...]) -> Removable:
    """How the residual branches `gone`, by index in the stage, can be taken out together.

    Raises:
        NotApplicable: the stage has no ends.
    """
    ends = ends_of(anatomy, stage)
    by_block: dict[str, list[int]] = defaultdict(list)
    for index, end in enumerate(ends):
        by_block[end.branch.module].append(index)
    model, given = _bare(anatomy), _given(anatomy, list(by_block))
    plan: list[StandIn] = []
    refused: dict[int, str] = {}
    for path, members in by_block.items():
        dead = [index for index in members if index in gone]
        if not dead:
            continue
        proposals = _proposals(anatomy, path, [ends[index] for index in dead], whole=dead == members)
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.manual_seed(0)
            block = _unstructured(model.get_submodule(path))
            arguments = tree_map_only(Tensor, _random, given[path])
            found = _first_that_agrees(block, path, arguments, [ends[index] for index in dead], proposals)
        if found is None:
            refused |= dict.fromkeys(dead, f"nothing that stands in for it in {path} gives the same output")
        plan += found or ()
    plan.sort(key=lambda stand_in: -stand_in.path.count("."))
    held = [
        index
        for index, end in enumerate(ends)
        if index not in gone and any(stand_in.displaces(end.path) for stand_in in plan)
    ]
    return Removable(plan=tuple(plan), inside=tuple(held), refused=refused)


def _bare(anatomy: Anatomy) -> nn.Module:
    """The backbone in evaluation mode without scales of its own, with its large weights on the meta device."""
    model = light_model(anatomy).eval()
    own = [branch.own_scale for branch in anatomy.branches if branch.own_scale]
    remove_own(model, own, anatomy.model, torch.empty(2, 3, anatomy.image_size, anatomy.image_size, device="meta"))
    return model


def _given(anatomy: Anatomy, blocks: Sequence[str]) -> dict[str, Given]:
    """What each block gets in a forward pass, on the meta device."""
    given: dict[str, Given] = {}

    def keep(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
            given.setdefault(path, (args, kwargs))

        return hook

    shadow = copy.deepcopy(anatomy.model)
    for path in blocks:
        shadow.get_submodule(path).register_forward_pre_hook(keep(path), with_kwargs=True)
    with torch.no_grad():
        shadow(torch.empty(1, 3, anatomy.image_size, anatomy.image_size, device="meta"))
    return given


def _random(tensor: Tensor) -> Tensor:
    return torch.randn(tensor.shape) if tensor.is_floating_point() else torch.zeros(tensor.shape, dtype=tensor.dtype)


def _unstructured(block: nn.Module) -> nn.Module:
    """A copy of which nothing is zero, one, alike or on the meta device."""
    block = copy.deepcopy(block)
    for module in block.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            noise = 0.1 * torch.randn(weight.shape)
            module.register_parameter(name, nn.Parameter(noise if weight.is_meta else weight.detach() + noise))
        for name, buffer in list(module.named_buffers(recurse=False)):
            if buffer.is_floating_point():  # a variance stays positive
                noise = 0.1 * torch.rand(buffer.shape)
                module.register_buffer(name, noise if buffer.is_meta else buffer + noise)
    return block


def _proposals(anatomy: Anatomy, path: str, dead: Sequence[End], *, whole: bool) -> Iterator[Plan]:
    """The whole block first (its input, its shortcut, an activation after it), then its parts one by one."""
    if whole:
        rest = _others(anatomy, path, [end.branch for end in dead])
        for count in range(3):  # nothing, a shortcut or an activation, both
            for parts in itertools.combinations(rest, count):
                yield (StandIn(path=path, parts=parts),)
    for broadcast, all_zeros in itertools.product((False, True), repeat=2):
        plan: list[StandIn] = []
        for end in dead:
            inner = _inner(anatomy, end.branch)
            for part in inner:
                zeros = all_zeros or inside(end.path, part)
                plan.append(StandIn(path=part, zeros=broadcast if zeros else None))
            if not any(inside(end.path, part) for part in inner):
                plan.append(StandIn(path=end.path, zeros=broadcast))
        yield tuple(plan)


def _others(anatomy: Anatomy, path: str, dead: Sequence[Branch]) -> list[str]:
    """Parts of a block that its dead branches do not have for themselves, in order of execution."""
    names = []
    for name, module in anatomy.model.get_submodule(path).named_children():
        part = f"{path}.{name}"
        own = {f"{part}.{parameter}" for parameter, _ in module.named_parameters()}
        alone = any(own & branch.parameters for branch in dead)
        if type(module) is not nn.Identity and part in anatomy.called and not alone:
            names.append(name)
    return sorted(names, key=lambda name: anatomy.places.rank(f"{path}.{name}"))


def _inner(anatomy: Anatomy, branch: Branch) -> list[str]:
    """The largest called parts of the adding module that have parameters, all of which only this branch has."""
    found: list[str] = []
    for below, module in anatomy.model.get_submodule(branch.module).named_modules():
        path = f"{branch.module}.{below}"
        own = {f"{path}.{parameter}" for parameter, _ in module.named_parameters()} & anatomy.dims.keys()
        if (
            below
            and path in anatomy.called
            and own
            and own <= branch.parameters
            and not any(inside(path, other) for other in found)
        ):
            found.append(path)
    return found


def _first_that_agrees(
    block: nn.Module, path: str, given: Given, dead: Sequence[End], proposals: Iterator[Plan]
) -> Plan | None:
    zeroed = copy.deepcopy(block)
    holder = nn.ModuleDict({"block": zeroed})
    for end in dead:
        append(holder, f"block{end.path.removeprefix(path)}", Fixed(end.path, end.trailing, 0.0))
    wanted = _outputs(zeroed, given)
    gone = {name.removeprefix(f"{path}.") for end in dead for name in end.branch.parameters}
    for plan in proposals:
        trial = copy.deepcopy(block)
        for stand_in in plan:
            trial = stand_in.put(trial, path)
        left = gone.intersection(name for name, _ in trial.named_parameters(remove_duplicate=False))
        try:
            agrees = not left and _agree(_outputs(trial, given), wanted)
        except Exception:  # whatever a block raises in which something is missing
            continue
        if agrees:
            return plan
    return None


def _outputs(block: nn.Module, given: Given) -> list[Tensor]:
    args, kwargs = tree_map_only(Tensor, torch.clone, given)
    with torch.no_grad():
        return [item for item in tree_flatten(block(*args, **kwargs))[0] if isinstance(item, Tensor)]


def _agree(outputs: Sequence[Tensor], wanted: Sequence[Tensor]) -> bool:
    return len(outputs) == len(wanted) and all(
        one.shape == two.shape and float((one - two).abs().max()) <= TOLERANCE * max(1.0, float(two.abs().max()))
        for one, two in zip(outputs, wanted, strict=True)
    )
