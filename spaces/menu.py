"""The menu that a space file gives one backbone: what of it can still be decided, and in how many ways.

What does not apply to the backbone is left off the menu, what changes nothing is not asked. Knows techniques
and anatomy, nothing of files, searches or trials.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import product
from typing import Any, final

from spaces.anatomy import Anatomy
from spaces.architecture import Architecture
from spaces.build import check
from spaces.errors import SpaceError
from spaces.questions import Chooser, Label, Option, Question, label_of
from spaces.schema import Dimension
from spaces.techniques import TECHNIQUES, Choice, NotApplicable, PerStage, Technique, kind_of, values_of

MOST_CASES = 5_000  # that are told apart to count a menu: milliseconds each

Step = tuple[str, int | None]  # a dimension, and a stage where each has its own


class _TooMany(Exception):
    """Counting has to tell more than `MOST_CASES` apart."""


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
        self._asked: dict[tuple[Step, str], Question] = {}
        self._counted: dict[tuple[int, str], int] = {}
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

    @cached_property
    def size(self) -> int:
        """The number of different decisions, or where `exact` is false a bound above it."""
        if not self.exact:
            alone = {step: len(self._question(step, {}).options) for step in self._steps if not self._seen[step]}
            return math.prod(alone.get(step, len(self._usable[step[0]])) for step in self._steps)
        return self._count(0, {})

    @cached_property
    def exact(self) -> bool:
        """Whether `size` is a number and not a bound: what depends on what leaves few enough cases to go through."""
        try:
            self._count(0, {})
        except _TooMany:
            return False
        return True

    def walks(self) -> Iterator[dict[str, Label]]:
        """The answers that lead to each different decision, in a fixed order."""
        yield from self._walks(0, {})

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

    def _count(self, index: int, chosen: Mapping[Step, PerStage]) -> int:
        """In how many ways the steps from `index` on can go, where those that decide over them went as `chosen`."""
        if index == len(self._steps):
            return 1
        chosen = {step: choices for step, choices in chosen.items() if step in self._decisive[index]}
        key = index, _text([[*step, choices] for step, choices in chosen.items()])
        if key not in self._counted:
            step = self._steps[index]
            before = self._before(chosen)
            options = self._question(step, before).options
            if len(self._counted) >= MOST_CASES:
                raise _TooMany
            if step not in self._decisive[index]:
                self._counted[key] = len(options) * self._count(index + 1, chosen)
            else:
                effects = (self._effect(step, option.choice, self._known(step, before)) for option in options)
                self._counted[key] = sum(self._count(index + 1, {**chosen, step: effect}) for effect in effects)
        return self._counted[key]

    @cached_property
    def _steps(self) -> tuple[Step, ...]:
        """Stage by stage, so that little has to be remembered; but each after all that it sees."""
        left: list[Step] = sorted(
            (step for name in self._names for step in self._steps_of(name)),
            key=lambda step: (-1 if step[1] is None else step[1], self._names.index(step[0])),
        )
        ordered: list[Step] = []
        while left:
            ready = next(step for step in left if self._seen[step].issubset(ordered))
            left.remove(ready)
            ordered.append(ready)
        return tuple(ordered)

    @cached_property
    def _decisive(self) -> tuple[frozenset[Step], ...]:
        """By step, what it and those after it see."""
        seen = [self._seen[step] for step in self._steps]
        return tuple(frozenset[Step]().union(*seen[index:]) for index in range(len(seen)))

    @cached_property
    def _seen(self) -> dict[Step, frozenset[Step]]:
        """The steps that decide what can be chosen in each."""
        return {
            (name, stage): frozenset(
                step
                for other in TECHNIQUES[name].after
                if other in self._names
                for step in self._steps_of(other)
                if step[1] is None or step[1] in self._stages_seen((name, stage))
            )
            for name in self._names
            for _, stage in self._steps_of(name)
        }

    def _steps_of(self, name: str) -> list[Step]:
        per_stage = self._dimensions[name].per == "stage"
        return [(name, stage) for stage in range(self._stages)] if per_stage else [(name, None)]

    def _stages_seen(self, step: Step) -> frozenset[int]:
        name, stage = step
        return frozenset(range(self._stages) if stage is None else TECHNIQUES[name].sees(self._anatomy, stage))

    def _before(self, chosen: Mapping[Step, PerStage]) -> dict[str, PerStage]:
        """Steps put together to what was chosen of each dimension; the default where that is not known."""
        found: dict[str, list[Choice]] = {}
        for (name, stage), choices in chosen.items():
            stages = found.setdefault(name, [TECHNIQUES[name].default] * self._stages)
            if stage is None:
                stages[:] = choices
            else:
                stages[stage] = choices[stage]
        return {name: tuple(stages) for name, stages in found.items()}

    def _learnt(self, name: str, chosen: Sequence[Choice], before: Mapping[str, PerStage]) -> dict[str, PerStage]:
        """What later dimensions have to know of a decision."""
        if not any(name in TECHNIQUES[other].after for other in self._names):
            return {}
        stages = tuple(chosen) if self._dimensions[name].per == "stage" else tuple(chosen) * self._stages
        return {name: TECHNIQUES[name].canonical(stages, self._anatomy, before)}

    @property
    def _stages(self) -> int:
        return max(1, len(self._anatomy.stages))

    def _questions(self, name: str, before: Mapping[str, PerStage]) -> tuple[Question, ...]:
        return tuple(self._question(step, before) for step in self._steps_of(name))

    def _known(self, step: Step, before: Mapping[str, PerStage]) -> dict[str, PerStage]:
        """What of earlier decisions a step sees, without what leaves the backbone as it is."""
        known = {}
        stages_seen = self._stages_seen(step)
        for other in TECHNIQUES[step[0]].after:
            default = TECHNIQUES[other].default
            chosen = before.get(other, ())
            stages = tuple(choice if stage in stages_seen else default for stage, choice in enumerate(chosen))
            if any(choice != default for choice in stages):
                known[other] = stages
        return known

    def _question(self, step: Step, before: Mapping[str, PerStage]) -> Question:
        known = self._known(step, before)
        key = step, _text(known)
        if key not in self._asked:
            self._asked[key] = self._made(step, known)
        return self._asked[key]

    def _made(self, step: Step, known: Mapping[str, PerStage]) -> Question:
        name, stage = step
        dimension = self._dimensions[name]
        options: dict[str, Option] = {}
        for option in self._usable[name]:
            options.setdefault(_text(self._effect(step, option.choice, known)), option)
        asked = name if stage is None else f"{name}.{stage}"
        names = (asked, *(f"{asked}.{parameter}" for parameter in dimension.parameters))
        declared = (tuple(map(label_of, dimension.choices)), *dimension.parameters.values())
        if len(options) == 1 < max(map(len, declared)):
            kept = label_of(next(iter(options.values())).choice)
            self.notes[f"{self._label}: {name} makes no difference beyond {kept}"] = None
        return Question(name, names, declared, tuple(options.values()))  # type: ignore[arg-type]

    def _effect(self, step: Step, choice: Choice, known: Mapping[str, PerStage]) -> PerStage:
        """What a choice does; to one stage while the others stay as they are."""
        name, stage = step
        technique = TECHNIQUES[name]
        if stage is None:
            return technique.canonical((choice,) * self._stages, self._anatomy, known)
        choices = [technique.default] * self._stages
        choices[stage] = choice
        try:
            return technique.canonical(tuple(choices), self._anatomy, known)
        except NotApplicable:  # to this stage alone
            return (technique.default,) * self._stages

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
    left = dimension.open(choice, technique)
    for values in product(*left.values()):
        chosen = dict(zip(left, values, strict=True))
        whole = technique.check({"kind": kind_of(choice), **values_of(choice), **chosen})
        yield Option((label_of(choice), *(chosen.get(name) for name in dimension.parameters)), whole)


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
