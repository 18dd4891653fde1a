"""The `backbones` section: which timm models, with which constructor arguments.

What timm knows and which arguments are refused is `spaces.backbone`'s; that the arguments fit together is
found when the space is opened.
"""

from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field, JsonValue, ValidationInfo, field_validator, model_validator

from spaces.backbone import REFUSED_KWARGS, check_backbone
from spaces.errors import SpaceError, shown
from spaces.schema.complaint import GrammarError, Section
from spaces.schema.data import absolute


def _name_alone(schema: dict[str, Any]) -> None:
    mapping = dict(schema)
    schema.clear()
    schema["anyOf"] = [{"type": "string"}, mapping]


class Backbone(Section):
    """A timm model, by its name or as `{name, kwargs, weights}`."""

    model_config = ConfigDict(json_schema_extra=_name_alone)

    name: str = Field(examples=["resnet10t"])
    """As timm lists it; a pretrained tag (`resnet18.a1_in1k`) may follow."""
    kwargs: Mapping[str, JsonValue] = {}
    """Arguments of the model. A list is a choice; a value that is a list itself is a list in the list."""
    weights: str | None = Field(default=None, examples=["weights/resnet10t.safetensors"])
    """With `inherit: pretrained`: a safetensors file to start from, relative to the space file. None: timm's own."""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, given: object) -> object:
        return {"name": given} if isinstance(given, str) else given

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        try:
            check_backbone(name, {})
        except SpaceError as error:
            raise GrammarError(error.reason) from None
        return name

    @field_validator("weights")
    @classmethod
    def _safe(cls, weights: str | None, info: ValidationInfo) -> str | None:
        if weights is None:
            return None
        if not weights.endswith(".safetensors"):
            name = shown(Path(weights).name)
            raise GrammarError(f"{name} is not a .safetensors file, the one kind that cannot run code")
        return absolute(weights, info)

    @field_validator("kwargs")
    @classmethod
    def _allowed(cls, kwargs: Mapping[str, JsonValue]) -> Mapping[str, JsonValue]:
        for key, value in kwargs.items():
            if not key.isidentifier():
                raise GrammarError(f"{key!r} cannot be the name of an argument", key)
            if key in REFUSED_KWARGS:
                raise GrammarError(f"cannot be set here: {REFUSED_KWARGS[key]}", key)
            choices = value if isinstance(value, list) else [value]
            if not choices:
                raise GrammarError("an empty list is no choice; give at least one value", key)
            for index, item in enumerate(choices):
                if item in choices[:index]:
                    raise GrammarError(f"the choice {shown(item)} is there twice", key, index)
        return kwargs

    def combinations(self) -> Iterator[dict[str, Any]]:
        """Every set of arguments, with one value in place of each list of choices."""
        lists = {key: value if isinstance(value, list | tuple) else [value] for key, value in self.kwargs.items()}
        for values in product(*lists.values()):
            yield dict(zip(lists, values, strict=True))
