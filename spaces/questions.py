"""What there is to decide: questions with labelled answers, and the menu that a space file gives one backbone.

What does not apply to the backbone is left off the menu, what changes nothing is not asked. Knows techniques
and anatomy, nothing of files, searches or trials.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, final

from spaces.anatomy import Anatomy
from spaces.architecture import Architecture
from spaces.build import check
from spaces.errors import SpaceError
from spaces.schema import Dimension
from spaces.techniques import TECHNIQUES, Choice, NotApplicable, PerStage, Technique, kind_of, values_of

Label = bool | int | float | str


@dataclass(frozen=True)
class Parameter:
    """One decision: a name with the labels that can be chosen; equal names have equal labels."""

    name: str
    choices: tuple[Label, ...]


Chooser = Callable[[Parameter], Label]


@dataclass(frozen=True)
class Option:
    """A choice, and the labels that lead to it: the kind, then a value for each parameter; None where it has none."""

    labels: tuple[Label | None, ...]
    choice: Any


@dataclass(frozen=True)
class Question:
    """A dimension, or one stage of it, with the options that differ on one backbone.

    Attributes:
        names: of the kind and of each parameter of kinds.
        declared: the labels of each, as the file has them.
    """

    dimension: str
    names: tuple[str, ...]
    declared: tuple[tuple[Label, ...], ...]
    options: tuple[Option, ...]

    def ask(self, choose: Chooser) -> Any:
        """The choice that a chooser comes to; asked is only what makes a difference."""
        return self._descend(lambda level, parameter: choose(parameter)).choice

    def answers(self, option: Option) -> dict[str, Label]:
        """What to answer to come to an option, by name of the parameter."""
        given: dict[str, Label] = {}

        def answer(level: int, parameter: Parameter) -> Label:
            given[parameter.name] = option.labels[level]  # type: ignore[assignment]
            return given[parameter.name]

        self._descend(answer)
        return given

    def _descend(self, answer: Callable[[int, Parameter], Label]) -> Option:
        left = self.options
        for level, (name, declared) in enumerate(zip(self.names, self.declared, strict=True)):
            labels = tuple(dict.fromkeys(option.labels[level] for option in left if option.labels[level] is not None))
            if len(labels) > 1:
                asked = name if labels == declared else f"{name}({'|'.join(map(str, labels))})"
                chosen = answer(level, Parameter(asked, labels))  # type: ignore[arg-type]
                left = tuple(option for option in left if _same(option.labels[level], chosen))
        return left[0]


def _same(one: Label | None, two: Label) -> bool:
    """Equal, and as much a number: 1 is not true."""
    return one == two and isinstance(one, bool) == isinstance(two, bool)


def plain(name: str, choices: Sequence[Label]) -> Question:
    """A question of a space without backbones."""
    labels = tuple(choices)
    return Question(name, (name,), (labels,), tuple(Option((label,), label) for label in labels))


@final
class Menu:
    """What the dimensions of a space file offer one backbone.

    Args:
        label: how messages call the backbone.

    Raises:
        SpaceError: no choice of a dimension applies to it.

    Attributes:
        notes: what is left off because it does not apply or changes nothing, one sentence each.
    """

    def __init__(self, label: str, anatomy: Anatomy, dimensions: Mapping[str, Dimension]):
        self.notes: dict[str, None] = {}
        self._label, self._anatomy, self._dimensions = label, anatomy, dimensions
        self._names = tuple(name for name in TECHNIQUES if name in dimensions)
        self._usable = {name: self._applicable(TECHNIQUES[name]) for name in self._names}
        self._asked: dict[tuple[str, str], tuple[Question, ...]] = {}
        self._count: dict[tuple[int, str], int] = {}
        for name in self._names:
            self._questions(name, {})

    def decide(self, choose: Chooser) -> dict[str, Any]:
        """The choices, as in a space file, by dimension; a list where each stage has its own."""
        choices: dict[str, Any] = {}
        before: dict[str, PerStage] = {}
        for name in self._names:
            chosen = [question.ask(choose) for question in self._questions(name, before)]
            choices[name] = chosen if self._dimensions[name].per == "stage" else chosen[0]
            before |= self._learnt(name, chosen, before)
        return choices

    @property
    def size(self) -> int:
        """The number of different decisions."""
        return self._size(0, {})

    def walks(self) -> Iterator[dict[str, Label]]:
        """The answers that lead to each different decision, in a fixed order."""
        yield from self._walks(0, {})

    def _size(self, index: int, before: Mapping[str, PerStage]) -> int:
        key = index, _text(before)
        if key not in self._count:
            if index == len(self._names):
                return 1
            name = self._names[index]
            questions = self._questions(name, before)
            if self._decisive(name):
                chosen = product(*([option.choice for option in question.options] for question in questions))
                rest = (self._size(index + 1, {**before, **self._learnt(name, one, before)}) for one in chosen)
                self._count[key] = sum(rest)
            else:
                here = math.prod(len(question.options) for question in questions)
                self._count[key] = here * self._size(index + 1, before)
        return self._count[key]

    def _walks(self, index: int, before: Mapping[str, PerStage]) -> Iterator[dict[str, Label]]:
        if index == len(self._names):
            yield {}
            return
        name = self._names[index]
        questions = self._questions(name, before)
        for options in product(*(question.options for question in questions)):
            given = [question.answers(option) for question, option in zip(questions, options, strict=True)]
            here = {asked: label for answers in given for asked, label in answers.items()}
            after = {**before, **self._learnt(name, [option.choice for option in options], before)}
            for rest in self._walks(index + 1, after):
                yield here | rest

    def _decisive(self, name: str) -> bool:
        """Whether another dimension of the file depends on this one."""
        return any(name in TECHNIQUES[other].after for other in self._names)

    def _learnt(self, name: str, chosen: Sequence[Choice], before: Mapping[str, PerStage]) -> dict[str, PerStage]:
        """What later dimensions have to know of a decision."""
        if not self._decisive(name):
            return {}
        stages = tuple(chosen) if self._dimensions[name].per == "stage" else tuple(chosen) * self._stages
        return {name: TECHNIQUES[name].canonical(stages, self._anatomy, before)}

    @property
    def _stages(self) -> int:
        return max(1, len(self._anatomy.stages))

    def _questions(self, name: str, before: Mapping[str, PerStage]) -> tuple[Question, ...]:
        known = {other: before[other] for other in TECHNIQUES[name].after if other in before}
        key = name, _text(known)
        if key not in self._asked:
            stages: list[int | None] = [None]
            if self._dimensions[name].per == "stage":
                stages = list(range(self._stages))
            self._asked[key] = tuple(self._question(name, stage, known) for stage in stages)
        return self._asked[key]

    def _question(self, name: str, stage: int | None, before: Mapping[str, PerStage]) -> Question:
        dimension = self._dimensions[name]
        options: dict[str, Option] = {}
        for option in self._usable[name]:
            effect = _text(self._effect(name, option.choice, stage, before))
            options.setdefault(effect, option)
        asked = name if stage is None else f"{name}.{stage}"
        names = (asked, *(f"{asked}.{parameter}" for parameter in dimension.parameters))
        declared = (tuple(map(label_of, dimension.choices)), *dimension.parameters.values())
        if len(options) == 1 < max(map(len, declared)):
            kept = label_of(next(iter(options.values())).choice)
            self.notes[f"{self._label}: {name} makes no difference beyond {kept}"] = None
        return Question(name, names, declared, tuple(options.values()))  # type: ignore[arg-type]

    def _effect(self, name: str, choice: Choice, stage: int | None, before: Mapping[str, PerStage]) -> Any:
        """What a choice does, to one stage while the others stay as they are."""
        technique = TECHNIQUES[name]
        if stage is None:
            return technique.canonical((choice,) * self._stages, self._anatomy, before)
        choices = [technique.default] * self._stages
        choices[stage] = choice
        try:
            return technique.canonical(tuple(choices), self._anatomy, before)[stage]
        except NotApplicable:  # to this stage alone
            return technique.default

    def _applicable(self, technique: Technique) -> tuple[Option, ...]:
        """The options that this backbone can take; each kind is built and run on the meta device."""
        dimension = self._dimensions[technique.name]
        reasons: dict[Label, str] = {}
        options = []
        for choice in dimension.choices:
            for option in _with_values(technique, choice, dimension):
                reason = self._refusal(technique, option.choice, run=label_of(choice) not in reasons)
                reasons[label_of(choice)] = reason
                if reason:
                    shown = label_of(option.choice)
                    self.notes[f"{self._label}: {technique.name} {shown} is left out: {reason}"] = None
                else:
                    options.append(option)
        if not options:
            raise SpaceError(
                f"no choice applies to {self._label}: {'; '.join(dict.fromkeys(reasons.values()))};"
                f" add {technique.default!r}, which always applies",
                key=f"dimensions.{technique.name}",
            )
        return tuple(options)

    def _refusal(self, technique: Technique, choice: Choice, *, run: bool) -> str:
        """Why a choice cannot be built, alone, on this backbone; empty where it can."""
        anatomy = self._anatomy
        try:
            technique.canonical((choice,) * self._stages, anatomy, {})
            if run:
                choices = {technique.name: choice}
                check(Architecture(backbone=anatomy.backbone, kwargs=anatomy.kwargs, choices=choices).canonical)
        except NotApplicable as error:
            return str(error)
        except SpaceError as error:
            return error.reason
        return ""


def _with_values(technique: Technique, choice: Choice, dimension: Dimension) -> Iterator[Option]:
    """A choice with every combination of values for those parameters that its kind takes and it leaves open."""
    kind, given = kind_of(choice), values_of(choice)
    open_ = [name for name in dimension.parameters if technique.takes(kind, name) and name not in given]
    for values in product(*(dimension.parameters[name] for name in open_)):
        chosen = dict(zip(open_, values, strict=True))
        whole = technique.check({"kind": kind, **given, **chosen})
        yield Option((label_of(choice), *(chosen.get(name) for name in dimension.parameters)), whole)


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def label_of(choice: Any) -> Label:
    """A choice as a sampler sees it."""
    return choice if isinstance(choice, bool | int | float | str) else _text(choice)
