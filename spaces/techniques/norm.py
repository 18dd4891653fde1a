"""norm: the kind of the normalisation layers of a stage.

Replaced are all layers of torch and timm that normalise channels, whatever their layout; a norm that is of
the wanted kind already stays as it is. The stem's go with the first stage, the head's with the last. Norms of
queries and keys stay: they normalise the channels of a head.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

from torch import nn

from spaces.anatomy import Anatomy, channel_axis
from spaces.anatomy.dims import Dim
from spaces.techniques import wrapping
from spaces.techniques.base import Choice, NotApplicable, PerStage, Technique
from spaces.techniques.norms import FUSED, NORMS, channels_of, is_a, replaced


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a norm stands: its stage, the axes of what comes in, whether channels are the last, H x W or tokens."""

    path: str
    stage: int
    rank: int
    last: bool
    positions: int


class Norm(Technique):
    name: ClassVar[str] = "norm"
    default: ClassVar[Choice] = "keep"
    choices: ClassVar[Mapping[str, str]] = {
        "keep": "the normalisation of the backbone",
        "batch": "by the mean and variance of a channel over the batch",
        "layer": "by the mean and variance of a position over its channels",
        "group": "by the mean and variance of an image over a group of channels, 32 groups",
        "rms": "by the root mean square of a position over its channels, without bias",
        "dyt": "no statistics: a tanh with a learnable slope in place of each norm",
    }
    paper: ClassVar[str] = (
        "1502.03167 (batch), 1607.06450 (layer), 1803.08494 (group), 1910.07467 (RMS), 2503.10622 (DyT)"
    )

    def canonical(self, choices: PerStage, anatomy: Anatomy, before: Mapping[str, PerStage]) -> PerStage:
        if not _places(anatomy) and any(choice != "keep" for choice in choices):
            raise NotApplicable(_reason(anatomy))
        changed = {
            stage
            for stage, choice in enumerate(choices)
            if any(place.stage == stage and _changes(anatomy, place, str(choice)) for place in _places(anatomy))
        }
        return tuple(choice if stage in changed else "keep" for stage, choice in enumerate(choices))

    def rewrite(self, model: nn.Module, choices: PerStage, anatomy: Anatomy, *, trained: bool) -> None:
        for place in _places(anatomy):
            kind = str(choices[place.stage])
            if _changes(anatomy, place, kind):
                new = replaced(
                    model.get_submodule(place.path),
                    kind,
                    rank=place.rank,
                    last=place.last,
                    positions=place.positions,
                )
                wrapping.place(model, place.path, new)


def _changes(anatomy: Anatomy, place: Place, kind: str) -> bool:
    norm = anatomy.model.get_submodule(place.path)
    return kind != "keep" and not is_a(norm, kind, channels_of(norm), place.positions)


@lru_cache(maxsize=1024)
def _places(anatomy: Anatomy) -> tuple[Place, ...]:
    return tuple(_found(anatomy))


def _found(anatomy: Anatomy) -> Iterator[Place]:
    """The norms of channels whose forward runs, in the order of the modules."""
    along: dict[str, list[Dim]] = defaultdict(list)  # of a module's own vectors: gain, bias, running statistics
    for name, dims in anatomy.dims.items():
        if len(dims) == 1:
            along[name.rpartition(".")[0]].append(dims[0].find())
    for path, norm in anatomy.model.named_modules():
        if not isinstance(norm, NORMS) or path not in anatomy.outputs:
            continue
        out = anatomy.outputs[path]
        axis = next((place for place, dim in enumerate(out) if dim.find() in along[path]), channel_axis(out))
        if _of_a_head(anatomy, path, axis):
            continue
        owner = anatomy.owner(path)
        yield Place(
            path=path,
            stage=max(0, len(anatomy.stages) - 1) if owner is None else owner,
            rank=len(out),
            last=axis == len(out) - 1,
            positions=math.prod(dim.find().size for place, dim in enumerate(out) if place not in (0, axis)),
        )


def _of_a_head(anatomy: Anatomy, path: str, axis: int) -> bool:
    """Whether what comes in is [N, heads, tokens, channels of a head]: a matrix beside it takes heads x channels."""
    *others, channels = (dim.find().size for dim in anatomy.outputs[path])
    if len(others) < 3 or axis != len(others) or max(others[1:]) == 1:
        return False
    parent = path.rpartition(".")[0]
    around = anatomy.model.get_submodule(parent)
    beside = around.modules() if parent in anatomy.attentions else around.children()
    matrices = [p for module in beside for p in module.parameters(recurse=False) if p.ndim == 2]
    return any(count * channels == matrix.shape[1] for count in others[1:] for matrix in matrices)


def _reason(anatomy: Anatomy) -> str:
    fused = {type(module).__name__ for module in anatomy.model.modules() if isinstance(module, FUSED)}
    if fused:
        return f"its norms ({', '.join(sorted(fused))}) are one with their activation"
    if any(isinstance(module, NORMS) for module in anatomy.model.modules()):
        return "it normalises nothing but queries and keys"
    return "it has no normalisation layers"
