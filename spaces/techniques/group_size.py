"""group_size: channels per group of the spatial convolutions. Only `keep` can be chosen so far."""

from collections.abc import Mapping
from typing import ClassVar

from torch import nn

from spaces.anatomy import Anatomy
from spaces.techniques.base import Choice, PerStage, Technique, one_of


class GroupSize(Technique):
    name: ClassVar[str] = "group_size"
    default: ClassVar[Choice] = "keep"
    choices: ClassVar[Mapping[str, str]] = {"keep": "the groups of the backbone"}
    paper: ClassVar[str] = "1611.05431 (ResNeXt), 2003.13678 (RegNet)"

    def check(self, choice: object) -> Choice:
        return one_of(choice, self)

    def canonical(self, choices: PerStage, anatomy: Anatomy) -> PerStage:
        return choices

    def rewrite(self, model: nn.Module, choices: PerStage, anatomy: Anatomy) -> None:
        """Nothing to do: `keep` is the only choice."""
