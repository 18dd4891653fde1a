"""Forecast: what the architectures of a space cost, and what each decision does to that; from a sample of them.

Numbers in, numbers out. Knows walks and costs, nothing of how they are counted.
"""

import json
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from search.planning.feasibility import Looked
from search.planning.walks import Walk, stem, walk
from spaces import SearchSpace
from spaces.questions import Label, label_of
from spaces.techniques import TECHNIQUES

EVERY = "all"  # backbones together


@dataclass(frozen=True, kw_only=True)
class Extent:
    """Of one cost, over `count` architectures."""

    count: int
    min: float
    median: float
    max: float


@dataclass(frozen=True, kw_only=True)
class Model:
    """An architecture in words and as `Architecture.to_dict` has it, with all its costs."""

    label: str
    architecture: Mapping[str, Any]
    costs: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What one choice does to the costs, everything else equal.

    Attributes:
        parameter: as it is asked: `norm`, `width.0` of the first stage, `sharing.scope`.
        reference: what it is compared with: the backbone as it is, where that is a choice, else the first.
        ratios: by cost, the median of the cost over that of the reference.
        count: pairs that this is the median of.
    """

    parameter: str
    choice: Label
    reference: Label
    ratios: Mapping[str, float]
    count: int


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """
    Attributes:
        size: distinct architectures of the space; a bound above them where it is not `exact`.
        extents: by backbone (EVERY first, where there are several) and cost.
        by: the cost that the models are the least, the middle and the most of: macs, where it is known.
    """

    size: int
    exact: bool
    extents: Mapping[str, Mapping[str, Extent]]
    by: str
    smallest: Model
    median: Model
    largest: Model
    effects: tuple[Effect, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def forecast(space: SearchSpace, drawn: Sequence[Looked], aside: Sequence[Looked] = ()) -> Forecast:
    """
    Args:
        drawn: by chance, or all; what has no costs does not count.
        aside: others, to be compared with those: of their `twins`.
    """
    counted = [each for each in drawn if each.costs]
    assert counted, "nothing of the sample has costs"
    by = "macs" if "macs" in counted[0].costs else next(iter(counted[0].costs))
    ordered = sorted(counted, key=lambda each: each.costs[by])
    return Forecast(
        size=space.size,
        exact=space.exact,
        extents=extents(counted),
        by=by,
        smallest=_model(ordered[0]),
        median=_model(ordered[len(ordered) // 2]),
        largest=_model(ordered[-1]),
        effects=tuple(effects([*counted, *(each for each in aside if each.costs)])),
    )


def _model(looked: Looked) -> Model:
    architecture = looked.walk.architecture
    return Model(label=architecture.label, architecture=architecture.to_dict(), costs=dict(looked.costs))


def extents(drawn: Sequence[Looked]) -> dict[str, dict[str, Extent]]:
    """By backbone and cost."""
    groups = _by_backbone(drawn)
    if len(groups) > 1 or not groups:
        groups = {EVERY: list(drawn), **groups}
    return {
        backbone: {name: extent([e.costs[name] for e in group if name in e.costs]) for name in names(group)}
        for backbone, group in groups.items()
    }


def names(group: Sequence[Looked]) -> list[str]:
    """Of all costs that any of them has; only some have those that were measured or predicted."""
    return list(dict.fromkeys(name for each in group for name in each.costs))


def sizes(drawn: Sequence[Looked]) -> dict[str, tuple[Looked, ...]]:
    """The smallest, the median and the largest of each backbone, each architecture once: those to be timed."""
    found = {}
    for backbone, group in _by_backbone(drawn).items():
        ordered = sorted(group, key=lambda each: each.costs["macs"])
        three = (ordered[0], ordered[len(ordered) // 2], ordered[-1])
        found[backbone] = tuple({each.walk.architecture.id: each for each in three}.values())
    return found


def _by_backbone(drawn: Sequence[Looked]) -> dict[str, list[Looked]]:
    """By the name that the space has for it; nothing of a space of plain choices."""
    groups: dict[str, list[Looked]] = defaultdict(list)
    for each in drawn:
        if each.backbone:
            groups[each.backbone].append(each)
    return dict(groups)


def extent(values: Sequence[float]) -> Extent:
    """Of one or more numbers."""
    return Extent(count=len(values), min=min(values), median=median(values), max=max(values))


def twins(space: SearchSpace, start: Walk, rng: random.Random) -> Iterator[Walk]:
    """For each decision that is not the reference, the walk with that one taken back."""
    for name, label in start.answers.items():
        reference = _reference(name, start.offers[name])
        if name != "backbone" and label != reference:
            yield walk(space, {**start.answers, name: reference}, rng)


def _reference(name: str, offered: Sequence[Label]) -> Label:
    technique = TECHNIQUES.get(stem(name).partition(".")[0])
    default = None if technique is None else label_of(technique.default)
    return default if default in offered else offered[0]  # type: ignore[return-value]


def effects(counted: Sequence[Looked]) -> list[Effect]:
    """From all pairs that differ in one decision, of which one has the reference; in the order of the decisions."""
    peers: dict[str, dict[str, dict[str, tuple[Label, Looked]]]] = defaultdict(lambda: defaultdict(dict))
    offers: dict[str, dict[Label, None]] = defaultdict(dict)
    for each in counted:
        named = {stem(name): label for name, label in each.walk.answers.items()}
        offers_here = {stem(name): offered for name, offered in each.walk.offers.items() if name != "backbone"}
        for parameter, offered in offers_here.items():
            offers[parameter] |= dict.fromkeys(offered)
            others = json.dumps([one for one in named.items() if not _part(one[0], parameter)])
            own = json.dumps([one for one in named.items() if _part(one[0], parameter)])
            peers[parameter][others][own] = named[parameter], each
    found = []
    for parameter, groups in peers.items():
        reference = _reference(parameter, tuple(offers[parameter]))
        pairs: dict[Label, list[tuple[Looked, Looked]]] = {label: [] for label in offers[parameter]}
        for group in groups.values():
            base = next((each for label, each in group.values() if label == reference), None)
            for label, each in group.values():
                if base is not None and label != reference:
                    pairs[label].append((each, base))
        found += [_effect(parameter, label, reference, each) for label, each in pairs.items() if each]
    return found


def _part(name: str, parameter: str) -> bool:
    """Whether a decision is this one, or only taken because of it."""
    return name == parameter or name.startswith(f"{parameter}.")


def _effect(parameter: str, choice: Label, reference: Label, pairs: Sequence[tuple[Looked, Looked]]) -> Effect:
    ratios: dict[str, list[float]] = defaultdict(list)
    for each, base in pairs:
        for name in each.costs.keys() & base.costs.keys():
            if base.costs[name] > 0:
                ratios[name].append(each.costs[name] / base.costs[name])
    return Effect(
        parameter=parameter,
        choice=choice,
        reference=reference,
        ratios={name: median(ratios[name]) for name in names([each for each, _ in pairs]) if name in ratios},
        count=len(pairs),
    )
