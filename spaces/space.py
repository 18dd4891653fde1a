"""SearchSpace: every architecture that a space file allows, counted, sampled, enumerated.

A space is a short program of decisions: the backbone, its arguments, then what each dimension still offers
this backbone. `decide` runs it with any chooser: a generator, a sampler, an enumeration. What does not apply
to a backbone, or changes nothing, is not asked. Knows nothing of searches or trials.
"""

import json
import math
import random
from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import product
from typing import Any

from spaces.anatomy import anatomy_of
from spaces.architecture import Architecture
from spaces.errors import SpaceError
from spaces.menu import Menu
from spaces.questions import Chooser, Label, Parameter, label_of, plain
from spaces.schema import Backbone, SpaceFile
from spaces.techniques import TECHNIQUES, kind_of

MOST_COMBINATIONS = 1_000  # of a backbone's arguments: each is built once on the meta device, in a tenth of a second


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
        self._menus: dict[str, Menu] = {}
        self._backbones = dict(_labelled(file.backbones))
        for index, (label, entry) in enumerate(self._backbones.items()):
            count = math.prod(len(value) for value in entry.kwargs.values() if isinstance(value, list | tuple))
            if count > MOST_COMBINATIONS:
                reason = f"{count:,} combinations of arguments; at most {MOST_COMBINATIONS:,} can be looked at"
                raise SpaceError(reason, key=f"backbones[{index}].kwargs")
            for kwargs in entry.combinations():
                try:
                    self._menu(label, kwargs)
                except SpaceError as error:
                    if error.key and error.key.startswith("dimensions"):
                        raise
                    place = ".".join(part for part in (f"backbones[{index}]", error.key) if part)
                    raise SpaceError(error.reason, key=place) from None
        self._plain = tuple(
            plain(name, dimension.choices)  # type: ignore[arg-type]
            for name, dimension in file.dimensions.items()
            if not file.backbones
        )

    @property
    def notes(self) -> list[str]:
        """In the order of the file."""
        unused = (
            f"{name}: {parameter} is asked by none of its choices"
            for name, dimension in self.file.dimensions.items()
            for parameter in dimension.parameters
            if not any(TECHNIQUES[name].takes(kind_of(choice), parameter) for choice in dimension.choices)
        )
        return list(dict.fromkeys([*unused, *(note for menu in self._menus.values() for note in menu.notes)]))

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
                labels = tuple(map(label_of, value))
                chosen = choose(Parameter(f"{label}.{key}", labels)) if len(labels) > 1 else labels[0]
                kwargs[key] = value[labels.index(chosen)]
            else:
                kwargs[key] = value
        choices = self._menu(label, kwargs).decide(choose)
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
        """The number of distinct architectures, or where `exact` is false a bound above it."""
        if not self._backbones:
            return math.prod(len(question.options) for question in self._plain)
        return sum(self._menu(label, kwargs).size for label, kwargs in self._networks())

    @property
    def exact(self) -> bool:
        """Whether `size` is a number and not a bound, as where the width of each of many stages decides over others."""
        return all(menu.exact for menu in self._menus.values())

    def __iter__(self) -> Iterator[Architecture]:
        """Every distinct architecture, in a fixed order."""
        for answers in self.walks():
            yield self.decide(lambda parameter, answers=answers: answers[parameter.name])  # type: ignore[misc]

    def walks(self) -> Iterator[dict[str, Label]]:
        """The answers that lead to each distinct architecture, by parameter name, in a fixed order."""
        if not self._backbones:
            names = [question.dimension for question in self._plain]
            for labels in product(*(question.declared[0] for question in self._plain)):
                yield dict(zip(names, labels, strict=True))
        for label, kwargs in self._networks():
            for answers in self._menu(label, kwargs).walks():
                yield self._start(label, kwargs) | answers

    def backbones(self) -> Iterator[Architecture]:
        """Every backbone with its arguments, unmodified."""
        for label, kwargs in self._networks():
            yield Architecture(backbone=self._backbones[label].name, kwargs=kwargs).canonical

    def _start(self, label: str, kwargs: Mapping[str, Any]) -> dict[str, Label]:
        lists = {key: v for key, v in self._backbones[label].kwargs.items() if isinstance(v, list | tuple)}
        chosen = {f"{label}.{key}": label_of(kwargs[key]) for key in lists}
        return {"backbone": label, **chosen}

    def _networks(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Backbones with arguments, without those that are the same network as an earlier one."""
        seen: set[str] = set()
        for label, entry in self._backbones.items():
            for kwargs in entry.combinations():
                plain = Architecture(backbone=entry.name, kwargs=kwargs).canonical.to_json()
                if plain not in seen:
                    seen.add(plain)
                    yield label, kwargs

    def _menu(self, label: str, kwargs: Mapping[str, Any]) -> Menu:
        key = f"{label} {json.dumps(kwargs, sort_keys=True)}"
        if key not in self._menus:
            anatomy = anatomy_of(self._backbones[label].name, kwargs)
            self._menus[key] = Menu(label, anatomy, self.file.dimensions)
        return self._menus[key]


def _labelled(backbones: tuple[Backbone, ...]) -> Iterator[tuple[str, Backbone]]:
    """Backbones with a name each of its own: the second `resnet18` is `resnet18#2`."""
    count: dict[str, int] = {}
    for entry in backbones:
        count[entry.name] = count.get(entry.name, 0) + 1
        yield entry.name if count[entry.name] == 1 else f"{entry.name}#{count[entry.name]}", entry
