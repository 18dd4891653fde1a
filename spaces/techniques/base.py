"""What a technique is: one dimension of the search, one file, one record in the registry.

A choice is a kind, with values for the knobs that this kind has: `rezero`, or `{kind: uniform, factor: 0.25}`.
Choices are always given per stage, as a tuple with one entry a stage of the backbone; a choice for the
whole network is the same entry in every stage. Knows the anatomy of a model, nothing of files or searches.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, final

from torch import nn

from spaces.anatomy import Anatomy
from spaces.errors import hint, shown, unknown

Scalar = None | bool | int | float | str
Choice = Scalar | Mapping[str, Scalar]
PerStage = tuple[Choice, ...]


class NotApplicable(Exception):
    """A choice that this backbone cannot take; the message is the reason, as a clause: `it has no ...`."""


@dataclass(frozen=True, kw_only=True)
class Knob:
    """A parameter that some kinds of a technique have beside their name.

    Attributes:
        kinds: which have it; empty for every kind.
        defaults: of kinds that have another default.
        meaning: one line for the documentation.
        allowed: the values; where empty, numbers between the bounds.
        low, high, above, below: closed and open bounds of numbers, which always have two.
        whole: whole numbers only.
        pattern: of texts, where not every one will do.
        example: a text that will.
    """

    kinds: tuple[str, ...] = ()
    default: Scalar
    meaning: str
    allowed: tuple[Scalar, ...] = ()
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    whole: bool = False
    pattern: str = ".*"
    example: str = ""
    defaults: Mapping[Scalar, Scalar] = field(default_factory=dict)

    def default_of(self, kind: Scalar) -> Scalar:
        return self.defaults.get(kind, self.default)

    def check(self, given: object) -> Scalar:
        """The value in its normal form; ValueError says what is allowed."""
        if self.allowed:
            if any(given == value and type(given) is type(value) for value in self.allowed):
                return given  # type: ignore[return-value]
            raise ValueError(f"{shown(given)} is not {self.range}{hint(given, map(str, self.allowed))}")
        if type(self.default) is str:
            if isinstance(given, str) and re.fullmatch(self.pattern, given):
                return given
        elif isinstance(given, int | float) and not isinstance(given, bool) and self._inside(given):
            return int(given) if self.whole else float(given)
        raise ValueError(f"{shown(given)} is not {self.range}")

    def _inside(self, value: float) -> bool:
        return (
            (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
            and (not self.whole or value == int(value))
        )

    @property
    def range(self) -> str:
        """What is allowed, in words."""
        if self.allowed:
            return f"one of {', '.join(v if isinstance(v, str) else shown(v) for v in self.allowed)}"
        if type(self.default) is str:
            return f"a text such as {self.example}"
        words = {"from": self.low, "above": self.above, "up to": self.high, "below": self.below}
        bounds = " ".join(f"{word} {value:g}" for word, value in words.items() if value is not None)
        return f"a {'whole ' if self.whole else ''}number {bounds}".strip()


class Technique(ABC):
    """One dimension. Subclasses are final and hold no state.

    Attributes:
        name: the key under `dimensions:`.
        default: the choice that leaves every backbone as it is.
        choices: the kinds that may be written, each with one line of explanation.
        knobs: the parameters that some kinds have, by name.
        after: the dimensions whose choices decide what a choice of this one does.
        paper: the source, by arXiv id.
    """

    name: ClassVar[str]
    default: ClassVar[Choice]
    choices: ClassVar[Mapping[str, str]]
    knobs: ClassVar[Mapping[str, Knob]] = {}
    after: ClassVar[tuple[str, ...]] = ()
    paper: ClassVar[str]

    @final
    def check(self, choice: object) -> Choice:
        """The choice in its normal form: knobs at their default are left out, `{kind: none}` is `none`.

        Raises:
            ValueError: says what was given and what is allowed.
        """
        if not isinstance(choice, Mapping):
            return self.kind(choice)
        if "kind" not in choice:
            raise ValueError(f"{shown(choice)} has no kind; for example {{kind: {next(iter(self.choices))}}}")
        kind = self.kind(choice["kind"])
        values: dict[str, Scalar] = {}
        for name in sorted(set(choice) - {"kind"}):
            if not self.takes(kind, name):
                raise ValueError(self._not_taken(kind, name))
            try:
                values[name] = self.knobs[name].check(choice[name])
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        values = {name: value for name, value in values.items() if value != self.knobs[name].default_of(kind)}
        return {"kind": kind, **values} if values else kind

    def kind(self, given: object) -> Scalar:
        """The kind in its normal form; ValueError with the nearest name. Techniques with numbers override it."""
        if isinstance(given, str) and given in self.choices:
            return given
        raise ValueError(unknown(f"choice of {self.name}", given, self.choices))

    def takes(self, kind: Scalar, knob: str) -> bool:
        return knob in self.knobs and (not self.knobs[knob].kinds or kind in self.knobs[knob].kinds)

    def _not_taken(self, kind: Scalar, knob: str) -> str:
        if knob in self.knobs:
            return f"{knob!r} is no parameter of {kind}, only of {', '.join(self.knobs[knob].kinds)}"
        if not self.taken(kind):
            return f"unknown parameter {shown(knob)}; {self.name} {kind} has none"
        return unknown(f"parameter of {self.name} {kind}", knob, self.taken(kind))

    def taken(self, kind: Scalar) -> tuple[str, ...]:
        """The knobs of a kind."""
        return tuple(name for name in self.knobs if self.takes(kind, name))

    def value(self, choice: Choice, knob: str) -> Any:
        """What a choice says of a knob, or the knob's default for its kind."""
        given = choice.get(knob) if isinstance(choice, Mapping) else None
        return self.knobs[knob].default_of(kind_of(choice)) if given is None else given

    def sees(self, anatomy: Anatomy, stage: int) -> Collection[int]:
        """The stages whose choices of the dimensions in `after` decide what a choice for this one does."""
        return range(max(1, len(anatomy.stages)))

    @abstractmethod
    def canonical(self, choices: PerStage, anatomy: Anatomy, before: Mapping[str, PerStage]) -> PerStage:
        """What these choices really do to this backbone; `default` in each stage where they change nothing.

        Args:
            before: canonical choices of the dimensions that are composed before this one, where not the default.

        Raises:
            NotApplicable: the backbone lacks what the choice acts on.
        """

    @abstractmethod
    def rewrite(self, model: nn.Module, choices: PerStage, anatomy: Anatomy, *, trained: bool) -> None:
        """Change `model`, which `anatomy` describes, in place; `choices` are canonical.

        Args:
            trained: the weights in the model are worth keeping; otherwise new ones may be drawn.
        """

    def offers(self, anatomy: Anatomy) -> tuple[Choice, ...]:
        """Choices that a user of this backbone may look at first: each kind with its defaults."""
        return tuple(self.choices)

    def label(self, choice: Choice) -> str:
        """The few characters by which a person tells this choice apart in a list of trials."""
        knobs = [f"{value:g}" if isinstance(value, float) else str(value) for value in values_of(choice).values()]
        return f"{self.name}={':'.join([str(kind_of(choice)), *knobs])}"


def kind_of(choice: Choice) -> Scalar:
    """`rezero` of `rezero` and of `{kind: rezero, ...}`."""
    return choice["kind"] if isinstance(choice, Mapping) else choice


def values_of(choice: Choice) -> dict[str, Scalar]:
    """The knobs that a choice sets."""
    return {name: value for name, value in choice.items() if name != "kind"} if isinstance(choice, Mapping) else {}
