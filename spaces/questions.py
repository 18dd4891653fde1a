"""What there is to decide: parameters with labelled answers, and the questions that they are part of.

Knows labels and what they lead to, nothing of techniques, backbones or files.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

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


def label_of(choice: Any) -> Label:
    """A choice as a sampler sees it."""
    return choice if isinstance(choice, bool | int | float | str) else json.dumps(choice, sort_keys=True)
