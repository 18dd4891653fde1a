"""Walks: a way through the decisions of a space, with what else could have been decided, and those one step aside.

Knows spaces, nothing of costs.
"""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from spaces import Architecture, Parameter, SearchSpace
from spaces.questions import Label


@dataclass(frozen=True, kw_only=True)
class Walk:
    """
    Attributes:
        answers: what was decided, by name of the parameter, in the order in which it was asked.
        offers: the labels that there were to choose from, by the same names.
    """

    architecture: Architecture
    answers: Mapping[str, Label]
    offers: Mapping[str, tuple[Label, ...]] = field(repr=False)


def stem(name: str) -> str:
    """A parameter's name without the labels that are left of it: `norm` of `norm(keep|group)`."""
    return name.partition("(")[0]


def walk(space: SearchSpace, wanted: Mapping[str, Label], rng: random.Random) -> Walk:
    """The walk that decides as `wanted` where that is asked and on offer, and by chance everywhere else.

    Args:
        wanted: by name of the parameter, whatever labels are left of it.
    """
    stems = {stem(name): label for name, label in wanted.items()}
    answers: dict[str, Label] = {}
    offers: dict[str, tuple[Label, ...]] = {}

    def choose(parameter: Parameter) -> Label:
        given = stems.get(stem(parameter.name))
        offers[parameter.name] = parameter.choices
        answers[parameter.name] = given if given in parameter.choices else rng.choice(parameter.choices)
        return answers[parameter.name]

    architecture = space.decide(choose)
    return Walk(architecture=architecture, answers=answers, offers=offers)


def neighbours(space: SearchSpace, start: Walk, rng: random.Random) -> Iterator[Walk]:
    """Walks that decide one thing otherwise, in random order; what is asked only then is decided by chance."""
    steps = [(name, label) for name, labels in start.offers.items() for label in labels if label != start.answers[name]]
    rng.shuffle(steps)
    for name, label in steps:
        yield walk(space, {**start.answers, name: label}, rng)
