"""norm: the normalisation layers. Only `keep` can be chosen so far."""

from collections.abc import Mapping
from typing import ClassVar

from torch import nn

from spaces.anatomy import Anatomy
from spaces.techniques.base import Choice, PerStage, Technique, one_of


class Norm(Technique):
    name: ClassVar[str] = "norm"
    default: ClassVar[Choice] = "keep"
    choices: ClassVar[Mapping[str, str]] = {"keep": "the normalisation of the backbone"}
    paper: ClassVar[str] = "1502.03167 (BatchNorm), 1607.06450 (LayerNorm)"

    def check(self, choice: object) -> Choice:
        return one_of(choice, self)

    def canonical(self, choices: PerStage, anatomy: Anatomy) -> PerStage:
        return choices

    def rewrite(self, model: nn.Module, choices: PerStage, anatomy: Anatomy) -> None:
        """Nothing to do: `keep` is the only choice."""
