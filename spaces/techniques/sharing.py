"""sharing: one set of weights for several blocks.

`stage` ties all blocks of a stage that are of the same make. Tied are the weights of layers (modules with a
parameter of two or more axes, with their biases); norms and scales stay private to each block.
"""

from collections.abc import Mapping
from typing import ClassVar

from torch import nn

from spaces.anatomy import Anatomy
from spaces.techniques.base import Choice, NotApplicable, PerStage, Technique, one_of


class Sharing(Technique):
    name: ClassVar[str] = "sharing"
    default: ClassVar[Choice] = "none"
    choices: ClassVar[Mapping[str, str]] = {
        "none": "every block has its own weights",
        "stage": "blocks of the same make share their weights within a stage",
    }
    paper: ClassVar[str] = "1909.11942 (ALBERT), 1702.08782 (ShaResNet)"

    def check(self, choice: object) -> Choice:
        return one_of(choice, self)

    def canonical(self, choices: PerStage, anatomy: Anatomy) -> PerStage:
        if not anatomy.stages and any(choice != "none" for choice in choices):
            raise NotApplicable("it has no residual blocks")
        return tuple(
            "stage" if choice == "stage" and any(len(group) > 1 for group in anatomy.alike(stage)) else "none"
            for stage, choice in enumerate(choices)
        )

    def rewrite(self, model: nn.Module, choices: PerStage, anatomy: Anatomy) -> None:
        for stage, choice in enumerate(choices):
            if choice == "stage":
                for first, *others in anatomy.alike(stage):
                    for other in others:
                        _tie(model.get_submodule(first), model.get_submodule(other))

    def label(self, choice: Choice) -> str:
        return f"share={choice}"


def _tie(block: nn.Module, other: nn.Module) -> None:
    """Let `other` use the layer weights of `block`."""
    for path, module in block.named_modules():
        own = dict(module.named_parameters(recurse=False))
        if any(parameter.ndim >= 2 for parameter in own.values()):
            for name, parameter in own.items():
                setattr(other.get_submodule(path), name, parameter)
