"""layer_attention: layers that attend to the layers before them. Only `none` can be chosen so far."""

from collections.abc import Mapping
from typing import ClassVar

from torch import nn

from spaces.anatomy import Anatomy
from spaces.techniques.base import Choice, PerStage, Technique, one_of


class LayerAttention(Technique):
    name: ClassVar[str] = "layer_attention"
    default: ClassVar[Choice] = "none"
    choices: ClassVar[Mapping[str, str]] = {"none": "no attention between layers"}
    paper: ClassVar[str] = "2302.03985 (MRLA), 2503.06473 (ELA)"

    def check(self, choice: object) -> Choice:
        return one_of(choice, self)

    def canonical(self, choices: PerStage, anatomy: Anatomy) -> PerStage:
        return choices

    def rewrite(self, model: nn.Module, choices: PerStage, anatomy: Anatomy) -> None:
        """Nothing to do: `none` is the only choice."""
