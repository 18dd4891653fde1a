"""SearchSpace: every architecture that a space file allows, counted exactly, sampled, enumerated.

A space is a short program of decisions: the backbone, its arguments, then what each dimension still offers
this backbone. `decide` runs it with any chooser: a generator, a sampler, an enumeration. What does not apply
to a backbone, or changes nothing, is not asked. Knows nothing of searches or trials.
"""

import json
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

from spaces.anatomy import Anatomy, anatomy_of
from spaces.architecture import Architecture
from spaces.build import check
from spaces.errors import SpaceError
from spaces.schema import Backbone, Dimension, SpaceFile
from spaces.techniques import TECHNIQUES, Choice, NotApplicable, Technique

Label = bool | int | float | str
MOST_COMBINATIONS = 1_000  # of a backbone's arguments: each is built once on the meta device, in a tenth of a second


@dataclass(frozen=True)
class Parameter:
    """One decision: a name with the labels that can be chosen; equal names have equal labels."""

    name: str
    choices: tuple[Label, ...]


Chooser = Callable[[Parameter], Label]


@dataclass(frozen=True)
class _Option:
    """What a label stands for: the choice as written."""

    label: Label
    choice: Any


@dataclass(frozen=True)
class _Question:
    """A dimension, or one stage of it, with the options that differ on one backbone."""

    dimension: str
    parameter: Parameter
    options: tuple[_Option, ...]

    def ask(self, choose: Chooser) -> Any:
        if len(self.options) == 1:
            return self.options[0].choice
        chosen = choose(self.parameter)
        return self.options[self.parameter.choices.index(chosen)].choice


class SearchSpace:
    """The architectures of a space file.

    Args:
        file: a checked space file (`spaces.load`).

    Raises:
        SpaceError: a backbone cannot be built as asked for, or no choice of a dimension applies to it.

    Attributes:
        notes: what is left out because it does not apply or changes nothing, one sentence each.
    """

    def __init__(self, file: SpaceFile):
        self.file = file
        self._notes: dict[str, None] = {}
        self._questions: dict[str, tuple[_Question, ...]] = {}
        self._refused: dict[tuple[str, str], str] = {}
        self._backbones = dict(_labelled(file.backbones))
        for index, (label, entry) in enumerate(self._backbones.items()):
            count = math.prod(len(value) for value in entry.kwargs.values() if isinstance(value, list | tuple))
            if count > MOST_COMBINATIONS:
                reason = f"{count:,} combinations of arguments; at most {MOST_COMBINATIONS:,} can be looked at"
                raise SpaceError(reason, key=f"backbones[{index}].kwargs")
            for kwargs in _combinations(entry):
                try:
                    self._ask(label, kwargs)
                except SpaceError as error:
                    if error.key and error.key.startswith("dimensions"):
                        raise
                    place = ".".join(part for part in (f"backbones[{index}]", error.key) if part)
                    raise SpaceError(error.reason, key=place) from None
        for name, dimension in file.dimensions.items():
            for parameter in dimension.parameters:
                self._notes[f"{name}: {parameter} is asked by none of its choices"] = None
        if not file.backbones:
            self._plain = tuple(
                _Question(name, Parameter(name, _labels(d.choices)), _options(d.choices))
                for name, d in file.dimensions.items()
            )

    @property
    def notes(self) -> list[str]:
        return list(self._notes)

    def decide(self, choose: Chooser) -> Architecture:
        """The architecture that a chooser picks, with every choice in words; asked is only what makes a difference."""
        if not self._backbones:
            return Architecture(choices={question.dimension: question.ask(choose) for question in self._plain})
        names = tuple(self._backbones)
        label = str(choose(Parameter("backbone", names))) if len(names) > 1 else names[0]
        entry = self._backbones[label]
        kwargs = {}
        for key, value in entry.kwargs.items():
            if isinstance(value, list | tuple):
                question = _Question("", Parameter(f"{label}.{key}", _labels(value)), _options(value))
                kwargs[key] = question.ask(choose)
            else:
                kwargs[key] = value
        choices: dict[str, Any] = {}
        for question in self._ask(label, kwargs):
            choice = question.ask(choose)
            if self.file.dimensions[question.dimension].per == "stage":
                choices.setdefault(question.dimension, []).append(choice)
            else:
                choices[question.dimension] = choice
        return Architecture(backbone=entry.name, kwargs=kwargs, choices=choices)

    def sample(self, rng: random.Random) -> Architecture:
        """An architecture with every decision taken uniformly."""
        return self.decide(lambda parameter: rng.choice(parameter.choices))

    def answers(self, rng: random.Random) -> dict[str, Label]:
        """The answers of a random walk by parameter name, to be given to `decide` again."""
        answers: dict[str, Label] = {}

        def choose(parameter: Parameter) -> Label:
            answers[parameter.name] = rng.choice(parameter.choices)
            return answers[parameter.name]

        self.decide(choose)
        return answers

    @cached_property
    def size(self) -> int:
        """The exact number of distinct architectures."""
        if not self._backbones:
            return math.prod(len(question.options) for question in self._plain)
        return sum(
            math.prod(len(question.options) for question in self._ask(label, kwargs))
            for label, kwargs in self._networks()
        )

    def __iter__(self) -> Iterator[Architecture]:
        """Every distinct architecture, in a fixed order."""
        for answers in self.walks():
            yield self.decide(lambda parameter, answers=answers: answers[parameter.name])  # type: ignore[misc]

    def walks(self) -> Iterator[dict[str, Label]]:
        """The answers that lead to each distinct architecture, by parameter name, in a fixed order."""
        starts: Iterator[tuple[dict[str, Label], tuple[_Question, ...]]]
        if self._backbones:
            starts = ((self._start(label, kwargs), self._ask(label, kwargs)) for label, kwargs in self._networks())
        else:
            starts = iter([({}, self._plain)])
        for start, questions in starts:
            for labels in product(*(question.parameter.choices for question in questions)):
                named = zip((question.parameter.name for question in questions), labels, strict=True)
                yield start | dict(named)

    def backbones(self) -> Iterator[Architecture]:
        """Every backbone with its arguments, unmodified."""
        for label, kwargs in self._networks():
            yield Architecture(backbone=self._backbones[label].name, kwargs=kwargs).canonical

    def _start(self, label: str, kwargs: Mapping[str, Any]) -> dict[str, Label]:
        lists = {key: v for key, v in self._backbones[label].kwargs.items() if isinstance(v, list | tuple)}
        chosen = {f"{label}.{key}": _label(kwargs[key]) for key in lists}
        return {"backbone": label, **chosen}

    def _networks(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Backbones with arguments, without those that are the same network as an earlier one."""
        seen: set[str] = set()
        for label, entry in self._backbones.items():
            for kwargs in _combinations(entry):
                plain = Architecture(backbone=entry.name, kwargs=kwargs).canonical.to_json()
                if plain not in seen:
                    seen.add(plain)
                    yield label, kwargs

    def _ask(self, label: str, kwargs: Mapping[str, Any]) -> tuple[_Question, ...]:
        """The questions of all dimensions for one backbone with its arguments."""
        key = f"{label} {json.dumps(kwargs, sort_keys=True)}"
        if key not in self._questions:
            anatomy = anatomy_of(self._backbones[label].name, kwargs)
            self._questions[key] = tuple(
                question
                for name, dimension in self.file.dimensions.items()
                for question in self._dimension(label, name, dimension, anatomy)
            )
        return self._questions[key]

    def _dimension(self, label: str, name: str, dimension: Dimension, anatomy: Anatomy) -> Iterator[_Question]:
        technique = TECHNIQUES[name]
        usable = [choice for choice in dimension.choices if self._applies(label, technique, choice, anatomy)]
        if not usable:
            place = f"{_text(anatomy.kwargs)} {label} {name}"
            reasons = "; ".join(dict.fromkeys(self._refused[place, _text(choice)] for choice in dimension.choices))
            raise SpaceError(
                f"no choice applies to {label}: {reasons}; add {technique.default!r}, which always applies",
                key=f"dimensions.{name}",
            )
        stages = max(1, len(anatomy.stages))
        if dimension.per == "network":
            options = _distinct(usable, [technique.canonical((choice,) * stages, anatomy) for choice in usable])
            yield self._question(label, name, name, dimension, options)
            return
        for stage in range(stages):
            options = _distinct(usable, [_at(technique, choice, stage, anatomy) for choice in usable])
            yield self._question(label, name, f"{name}.{stage}", dimension, options)

    def _question(
        self, label: str, name: str, asked: str, dimension: Dimension, options: tuple[_Option, ...]
    ) -> _Question:
        labels = tuple(option.label for option in options)
        if labels != _labels(dimension.choices):
            asked += f"({'|'.join(map(str, labels))})"
        if len(labels) == 1 < len(dimension.choices):
            self._notes[f"{label}: {name} makes no difference beyond {labels[0]}"] = None
        return _Question(name, Parameter(asked, labels), options)

    def _applies(self, label: str, technique: Technique, choice: Choice, anatomy: Anatomy) -> bool:
        """Whether a choice can be built on a backbone with these arguments: built on the meta device, and run."""
        key = (f"{_text(anatomy.kwargs)} {label} {technique.name}", _text(choice))
        if key not in self._refused:
            reason = ""
            try:
                technique.canonical((choice,) * max(1, len(anatomy.stages)), anatomy)
                check(
                    Architecture(
                        backbone=anatomy.backbone, kwargs=anatomy.kwargs, choices={technique.name: choice}
                    ).canonical
                )
            except (NotApplicable, SpaceError) as error:
                reason = error.reason if isinstance(error, SpaceError) else str(error)
                self._notes[f"{label}: {technique.name} {_label(choice)} is left out: {reason}"] = None
            self._refused[key] = reason
        return not self._refused[key]


def _labelled(backbones: tuple[Backbone, ...]) -> Iterator[tuple[str, Backbone]]:
    """Backbones with a name each of its own: the second `resnet18` is `resnet18#2`."""
    count: dict[str, int] = {}
    for entry in backbones:
        count[entry.name] = count.get(entry.name, 0) + 1
        yield entry.name if count[entry.name] == 1 else f"{entry.name}#{count[entry.name]}", entry


def _combinations(entry: Backbone) -> Iterator[dict[str, Any]]:
    lists = {key: value if isinstance(value, list | tuple) else [value] for key, value in entry.kwargs.items()}
    for values in product(*lists.values()):
        yield dict(zip(lists, values, strict=True))


def _at(technique: Technique, choice: Choice, stage: int, anatomy: Anatomy) -> Choice:
    """What a choice does in one stage while the others stay as they are."""
    choices = [technique.default] * max(1, len(anatomy.stages))
    choices[stage] = choice
    return technique.canonical(tuple(choices), anatomy)[stage]


def _distinct(choices: Sequence[Choice], effects: Sequence[Any]) -> tuple[_Option, ...]:
    """The first choice of each effect."""
    options: dict[str, _Option] = {}
    for choice, effect in zip(choices, effects, strict=True):
        options.setdefault(_text(effect), _Option(_label(choice), choice))
    return tuple(options.values())


def _text(choice: Any) -> str:
    return json.dumps(choice, sort_keys=True)


def _label(choice: Any) -> Label:
    return choice if isinstance(choice, bool | int | float | str) else _text(choice)


def _labels(choices: Any) -> tuple[Label, ...]:
    return tuple(_label(choice) for choice in choices)


def _options(choices: Any) -> tuple[_Option, ...]:
    return tuple(_Option(_label(choice), choice) for choice in choices)
