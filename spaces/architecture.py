"""Architecture: one network of a space, said in the fewest words, with an identity.

Two architectures that build the same network have the same `id` in any process: choices that change
nothing are dropped, sizes are rounded, kwargs at their default are left out. (Two names that timm gives one
network, as deit_tiny and vit_tiny, stay two. So do a kwarg and a choice that come to the same: `embed_dim: 96` and
width 0.5 of 192, an `init_values` and the scaling that replaces what it starts. And other choices for a branch that
`removed` takes away still count.) Without a backbone an architecture is a point of a space of plain choices, kept as
it is.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import Any, Self

from spaces.anatomy import anatomy_of
from spaces.backbone import check_backbone, same_network
from spaces.errors import SpaceError, shown, unknown
from spaces.techniques import TECHNIQUES
from spaces.techniques.base import Choice, NotApplicable, PerStage


@dataclass(frozen=True, kw_only=True, eq=False)
class Architecture:
    """A backbone, its constructor arguments, and one choice per dimension.

    Attributes:
        backbone: a timm model name; None in a space of plain choices.
        kwargs: arguments of `timm.create_model` (JSON values), without weights, classes and channels.
        choices: by dimension; a list means one choice a stage.
    """

    backbone: str | None = None
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    choices: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.backbone, str | None):
            raise SpaceError(f"{shown(self.backbone)} is not a name", key="backbone")
        for name in ("kwargs", "choices"):
            value = getattr(self, name)
            try:
                plain = json.loads(json.dumps(value, allow_nan=False))
            except (TypeError, ValueError) as error:
                raise SpaceError(f"{shown(value)} is not made of JSON values: {error}", key=name) from None
            if not isinstance(plain, dict):
                raise SpaceError(f"{shown(value)} is not a mapping", key=name)
            object.__setattr__(self, name, MappingProxyType(plain))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_dict, (self.to_dict(),)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Architecture) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash(self.to_json())

    def to_json(self) -> str:
        """JSON with sorted keys and no spaces; `from_json` reads it back to an equal architecture."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))

    def to_dict(self) -> dict[str, Any]:
        return {"backbone": self.backbone, "kwargs": dict(self.kwargs), "choices": dict(self.choices)}

    @classmethod
    def from_dict(cls, given: object) -> Self:
        """The inverse of `to_dict`, for files from anywhere: it only ever makes plain data.

        Raises:
            SpaceError: not a mapping with just the keys backbone, kwargs and choices.
        """
        if not isinstance(given, dict):
            raise SpaceError(f"an architecture is a mapping, not {type(given).__name__}")
        for key in given:
            if key not in ("backbone", "kwargs", "choices"):
                raise SpaceError(unknown("key of an architecture", key, ("backbone", "kwargs", "choices")))
        return cls(**given)

    @classmethod
    def from_json(cls, text: str) -> Self:
        try:
            return cls.from_dict(json.loads(text))
        except (ValueError, RecursionError) as error:
            raise SpaceError(f"not JSON: {error}") from None

    @cached_property
    def canonical(self) -> "Architecture":
        """The same network in the fewest words.

        Raises:
            SpaceError: no such backbone, kwarg, dimension or choice, or one that does not apply.
        """
        if self.backbone is None:
            return self
        backbone = self.backbone.partition(".")[0]  # a pretrained tag names weights, not a network
        kwargs = json.loads(_plain_kwargs(self.backbone, json.dumps(dict(self.kwargs), sort_keys=True)))
        choices = {}
        for name, per_stage in resolve(backbone, kwargs, self.choices).items():
            choices[name] = per_stage[0] if len(set(map(_text, per_stage))) == 1 else list(per_stage)
        return Architecture(backbone=backbone, kwargs=kwargs, choices=choices)

    @cached_property
    def id(self) -> str:
        """First 12 hex digits of the SHA-256 of the canonical JSON."""
        return hashlib.sha256(self.canonical.to_json().encode()).hexdigest()[:12]

    @property
    def label(self) -> str:
        """A name that a person can tell apart: `convnext_atto w=0.5 rezero share=stage`."""
        if self.backbone is None:
            return " ".join(f"{name}={value}" for name, value in self.choices.items())
        canonical = self.canonical
        words = []
        for name, choice in canonical.choices.items():
            stages = choice if isinstance(choice, list) else [choice]
            labels = [TECHNIQUES[name].label(one) for one in stages]
            short = [label.partition("=")[2] or label for label in labels[1:]]
            words.append(",".join([labels[0], *short]))
        words += [f"{name}={value}" for name, value in canonical.kwargs.items()]  # last: where a page cuts it off
        return " ".join([self.backbone, *words])


@lru_cache(maxsize=4096)
def _plain_kwargs(backbone: str, kwargs_json: str) -> str:
    """Arguments in the fewest words that give the same network: defaults dropped, 2.0 as 2, [5, 5] as 5."""
    kwargs = json.loads(kwargs_json)
    check_backbone(backbone, kwargs)
    backbone = backbone.partition(".")[0]
    for name in sorted(kwargs):
        rest = {other: value for other, value in kwargs.items() if other != name}
        shorter = [rest]
        if isinstance(kwargs[name], float) and kwargs[name].is_integer():
            shorter.append(kwargs | {name: int(kwargs[name])})
        if isinstance(kwargs[name], list) and len(set(map(json.dumps, kwargs[name]))) == 1:
            shorter.append(kwargs | {name: kwargs[name][0]})
        kwargs = next((other for other in shorter if same_network(backbone, kwargs, other)), kwargs)
    return json.dumps(kwargs, sort_keys=True)


def resolve(backbone: str, kwargs: Mapping[str, Any], choices: Mapping[str, Any]) -> dict[str, PerStage]:
    """The canonical choices of each dimension that changes something, one a stage, in composition order.

    Raises:
        SpaceError: an unknown dimension, a bad choice, or one that does not apply to this backbone.
    """
    anatomy = anatomy_of(backbone, kwargs)
    for name in choices:
        if name not in TECHNIQUES:
            raise SpaceError(unknown("dimension", name, TECHNIQUES), key="choices")
    resolved: dict[str, PerStage] = {}
    for name, technique in TECHNIQUES.items():
        if name not in choices:
            continue
        given, count = choices[name], max(1, len(anatomy.stages))
        stages = given if isinstance(given, list) else [given] * count
        if len(stages) != count:
            reason = f"{shown(given)} has {len(stages)} entries; {backbone} has {count} stages"
            raise SpaceError(reason, key=f"choices.{name}")
        try:
            checked: tuple[Choice, ...] = tuple(technique.check(choice) for choice in stages)
            per_stage = technique.canonical(checked, anatomy, resolved)
        except ValueError as error:
            raise SpaceError(str(error), key=f"choices.{name}") from None
        except NotApplicable as reason:
            raise SpaceError(f"{given!r} does not apply to {backbone}: {reason}", key=f"choices.{name}") from None
        if any(choice != technique.default for choice in per_stage):
            resolved[name] = per_stage
    return resolved


def _text(choice: Choice) -> str:
    return json.dumps(choice, sort_keys=True)
