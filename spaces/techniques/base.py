"""What a technique is: one dimension of the search, one file, one record in the registry.

A choice is always given per stage, as a tuple with one entry a stage of the backbone; a choice for the
whole network is the same entry in every stage. Knows the anatomy of a model, nothing of files or searches.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from torch import nn

from spaces.anatomy import Anatomy
from spaces.errors import unknown

Scalar = None | bool | int | float | str
Choice = Scalar | Mapping[str, Scalar]
PerStage = tuple[Choice, ...]


class NotApplicable(Exception):
    """A choice that this backbone cannot take; the message is the reason, as a clause: `it has no ...`."""


class Technique(ABC):
    """One dimension. Subclasses are final and hold no state.

    Attributes:
        name: the key under `dimensions:`.
        default: the choice that leaves every backbone as it is.
        choices: what may be written, each with one line of explanation.
        paper: the source, by arXiv id.
    """

    name: ClassVar[str]
    default: ClassVar[Choice]
    choices: ClassVar[Mapping[str, str]]
    paper: ClassVar[str]

    @abstractmethod
    def check(self, choice: object) -> Choice:
        """The choice in its normal form (`1` becomes `1.0`); ValueError says what is allowed."""

    @abstractmethod
    def canonical(self, choices: PerStage, anatomy: Anatomy) -> PerStage:
        """What these choices really do to this backbone; `default` in each stage where they change nothing.

        Raises:
            NotApplicable: the backbone lacks what the choice acts on.
        """

    @abstractmethod
    def rewrite(self, model: nn.Module, choices: PerStage, anatomy: Anatomy) -> None:
        """Change `model`, which `anatomy` describes, in place; `choices` are canonical."""

    def label(self, choice: Choice) -> str:
        """The few characters by which a person tells this choice apart in a list of trials."""
        return f"{self.name}={choice}"


class Reserved(Technique):
    """A dimension of which only the default can be chosen so far."""

    def check(self, choice: object) -> Choice:
        return one_of(choice, self)

    def canonical(self, choices: PerStage, anatomy: Anatomy) -> PerStage:
        return choices

    def rewrite(self, model: nn.Module, choices: PerStage, anatomy: Anatomy) -> None:
        """Never needed: the default changes nothing."""


def one_of(choice: object, technique: Technique) -> str:
    """A choice that must be one of the technique's names; ValueError with the nearest one otherwise."""
    if isinstance(choice, str) and choice in technique.choices:
        return choice
    raise ValueError(unknown(f"choice of {technique.name}", choice, technique.choices))
