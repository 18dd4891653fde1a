"""Blocks of equal make, and which of their parameters are weights that several of them could use.

Weights are those of Linear and convolution modules and other `weight` matrices (LSTM, routed kernels), with
their biases, and those of norms. Scales, gates and tables of positions are none. Knows modules and anatomy,
nothing of choices.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from torch import nn

from spaces.anatomy import Anatomy
from spaces.anatomy.stages import Stage, ancestors
from spaces.techniques.base import PerStage
from spaces.techniques.norms import FUSED, NORMS

CONVOLUTION = nn.modules.conv._ConvNd
_LAYERS = (nn.Linear, CONVOLUTION)


@dataclass(frozen=True, kw_only=True)
class Group:
    """Blocks of one stage of equal make, in order of execution.

    Attributes:
        make: what blocks of equal make in the whole network have in common.
        weights: those of the untouched block, as `weights` gives them.
    """

    make: Hashable
    blocks: tuple[str, ...]
    weights: Mapping[str, frozenset[str]]


def groups(anatomy: Anatomy, key: Callable[[str], Hashable] = lambda block: None) -> tuple[tuple[Group, ...], ...]:
    """The blocks of each stage in groups; one empty stage where there are none.

    Args:
        key: tells blocks apart that are of equal make in the untouched backbone.
    """
    found = []
    for stage in _untouched(anatomy):
        split: dict[tuple[Hashable, Hashable], list[str]] = defaultdict(list)
        for group in stage:
            for block in group.blocks:
                split[group.make, key(block)].append(block)
        held = {group.make: group.weights for group in stage}
        found.append(tuple(Group(make=make, blocks=tuple(split[make]), weights=held[make[0]]) for make in split))
    return tuple(found) or ((),)


@lru_cache(maxsize=64)
def _untouched(anatomy: Anatomy) -> tuple[tuple[Group, ...], ...]:
    blocks = tuple(block for stage in anatomy.stages for block in stage.blocks)
    alike = replace(anatomy, stages=(Stage(root="", blocks=blocks),)).alike(0)
    found = [weights(anatomy.model, group[0], anatomy) for group in alike]
    return tuple(
        tuple(
            Group(make=make, blocks=here, weights=found[make])
            for make, group in enumerate(alike)
            if (here := tuple(block for block in group if block in stage.blocks))
        )
        for stage in anatomy.stages
    )


def shapes(model: nn.Module, block: str, names: Iterable[str]) -> Hashable:
    """The shapes of a block's weights in a changed model: a key for `groups`."""
    here = model.get_submodule(block)
    return tuple((name, here.get_parameter(name).shape) for name in names)


def changes(before: Mapping[str, PerStage], anatomy: Anatomy) -> Callable[[str], Hashable]:
    """What choices composed earlier decide of a block: the key for `groups` where there is no changed model.

    Its stage decides all but its sizes; each of these goes with the width of the stage that it belongs to.
    """
    words = {name: [json.dumps(choice, sort_keys=True) for choice in choices] for name, choices in before.items()}

    def key(block: str) -> Hashable:
        stages = _stages(anatomy)[block]
        return tuple(
            tuple(chosen[stage] for stage in (stages if name == "width" else stages[:1]))
            for name, chosen in words.items()
        )

    return key


def seen(anatomy: Anatomy, stage: int) -> frozenset[int]:
    """The stages whose earlier choices `changes` looks at for the blocks of a stage."""
    blocks = anatomy.stages[stage].blocks if anatomy.stages else ()
    return frozenset(other for block in blocks for other in _stages(anatomy)[block])


@lru_cache(maxsize=64)
def _stages(anatomy: Anatomy) -> dict[str, tuple[int, ...]]:
    """By block its own stage, then that of every size of its parameters."""
    found = {block: [index] for index, stage in enumerate(anatomy.stages) for block in stage.blocks}
    for name, dims in anatomy.dims.items():
        inputs = [anatomy.conv_inputs[name]] if name in anatomy.conv_inputs else []
        leaves = [leaf for dim in [*dims, *inputs] for leaf in dim.leaves()]
        for block in (path for path in ancestors(name) if path in found):
            found[block] += [anatomy.channels[leaf] for leaf in leaves if leaf in anatomy.channels]
    return {block: tuple(stages) for block, stages in found.items()}


def weights(model: nn.Module, block: str, anatomy: Anatomy) -> dict[str, frozenset[str]]:
    """The weights of a block by name, each with the words that say where it belongs.

    Words are `norm`, or `block` with `attention`, `mlp` or `spatial_conv`; `module` for the weight of a layer that
    is called as a module. What `model` has in place of a layer of the untouched backbone belongs where that did.
    """
    found = {}
    known = _modules(anatomy)
    for path, module in model.get_submodule(block).named_modules(prefix=block):
        origin = next(place for place in ancestors(path) if place in known)
        words = _words(module, origin, anatomy)
        called = {"module"} if isinstance(module, _LAYERS) and origin in anatomy.called else set()
        for name in _own(module):
            key = f"{path}.{name}".removeprefix(f"{block}.")
            found[key] = frozenset(words | (called if name == "weight" else set()))
    return found


@lru_cache(maxsize=64)
def _modules(anatomy: Anatomy) -> dict[str, nn.Module]:
    return dict(anatomy.model.named_modules(remove_duplicate=False))


def _own(module: nn.Module) -> list[str]:
    """The parameters of a module itself that are weights."""
    own = {name: parameter for name, parameter in module._parameters.items() if parameter is not None}
    if isinstance(module, _LAYERS):
        return [name for name in own if name in ("weight", "bias")]  # a scaled convolution has a gain beside them
    if isinstance(module, (*NORMS, *FUSED)):
        return list(own)
    matrices = [name for name, p in own.items() if "weight" in name and sum(size > 1 for size in p.shape) > 1]
    biases = [name for name in own if name.endswith("bias") or name.startswith("bias_")]
    held = matrices or any(isinstance(part, nn.Linear) for part in module.children())
    return [*matrices, *biases] if held else []


def _words(module: nn.Module, origin: str, anatomy: Anatomy) -> set[str]:
    if isinstance(module, (*NORMS, *FUSED)):
        return {"norm"}
    attention = any(path in anatomy.attentions for path in ancestors(origin))
    spatial = _is_spatial(module) or _is_spatial(_modules(anatomy)[origin])
    point = isinstance(module, nn.Linear) or (isinstance(module, CONVOLUTION) and max(module.kernel_size) == 1)
    places = {"attention": attention, "spatial_conv": spatial, "mlp": point and not attention and not spatial}
    return {"block", *(word for word, holds in places.items() if holds)}


def _is_spatial(module: nn.Module) -> bool:
    """A convolution over pixels, not the one over channels of efficient channel attention."""
    return isinstance(module, CONVOLUTION) and len(module.kernel_size) > 1 and max(module.kernel_size) > 1
