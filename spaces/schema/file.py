"""SpaceFile: the ONE grammar of a space file, as YAML or as the same object from Python.

Knows what may be written and what contradicts itself; whether a choice applies to a backbone, and which costs
there are to optimise or to constrain, is found where they are known.
"""

import json
import os
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from spaces.errors import SpaceError, shown
from spaces.schema.backbone import Backbone
from spaces.schema.complaint import GrammarError, Section, complain
from spaces.schema.costs import ACCURACY, BETTER_HIGH, KINDS, CostEntry, checked, named
from spaces.schema.data import Data
from spaces.schema.dimension import Dimension, read_dimensions
from spaces.schema.document import dotted, read_mapping, read_yaml
from spaces.schema.recipe import NONE, PRETRAINED, Bound, Search, Train
from spaces.techniques import TECHNIQUES

# A name is also a directory of runs/ and an experiment of MLflow.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
NAMES = "up to 100 letters, digits, '.', '_' and '-', with a letter or a digit first"


def is_name(name: str) -> bool:
    """Whether a search can have this name."""
    return _NAME.fullmatch(name) is not None


class SpaceFile(Section):
    """What to search, by what, and with which budget. Made by `load`, frozen, picklable.

    Without `backbones` it is a space of plain choices: dimensions have any names, choices are scalars.
    """

    name: str = Field(examples=["my-search"])
    """Of the search: its directory under runs/ and its experiment in MLflow."""
    data: Data | None = None
    """The images; needed with backbones."""
    backbones: Annotated[tuple[Backbone, ...], Field(strict=False)] = ()
    """timm models to start from."""
    dimensions: Mapping[str, Dimension] = Field(default_factory=dict, examples=["{scaling: [none, rezero]}"])
    """What may be changed, by technique."""
    objectives: Mapping[str, Literal["maximize", "minimize"]] = Field(examples=["{accuracy: maximize, macs: minimize}"])
    """What is good: accuracy, or the name of a cost."""
    constraints: Mapping[str, Bound] = Field(default_factory=dict)
    """Hard bounds, by cost."""
    costs: Annotated[Mapping[str, CostEntry], BeforeValidator(named), AfterValidator(checked)] = Field(
        default_factory=dict
    )
    """How costs are measured, and costs of your own."""
    search: Search = Field(examples=["{trials: 16, fidelity: {min: 3, max: 9}}"])
    """How the budget is spent."""
    train: Train = Field(default_factory=lambda: Train())
    """How one network is trained."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data with every default written out; `load` reads it back to an equal SpaceFile."""
        plain = self.model_dump(mode="json", exclude={"dimensions", "costs"})
        plain["dimensions"] = {name: dimension.to_plain() for name, dimension in self.dimensions.items()}
        plain["costs"] = {name: entry.to_plain() for name, entry in self.costs.items()}
        ordered = {name: plain[name] for name in type(self).model_fields}
        result: dict[str, Any] = json.loads(json.dumps(ordered, allow_nan=False))
        return {name: value for name, value in result.items() if value not in (None, {}, [])}

    def changes(self, other: "SpaceFile") -> list[str]:
        """What differs in `other`, key by key: `search.trials was 16 and is now 24`."""
        before, after = _leaves(self.to_dict()), _leaves(other.to_dict())
        return [
            f"{key} was {before.get(key, 'not there')} and is now {after.get(key, 'not there')}"
            for key in dict.fromkeys([*before, *after])
            if before.get(key) != after.get(key)
        ]

    @field_validator("name")
    @classmethod
    def _safe_name(cls, name: str) -> str:
        if not is_name(name):
            raise GrammarError(f"{shown(name)} cannot name a directory; allowed are {NAMES}")
        return name

    @field_validator("backbones")
    @classmethod
    def _distinct_backbones(cls, backbones: tuple[Backbone, ...]) -> tuple[Backbone, ...]:
        if not backbones:
            raise GrammarError("an empty list; give at least one timm model, or leave the key out")
        for index, backbone in enumerate(backbones):
            if backbone in backbones[:index]:
                raise GrammarError(f"{backbone.name} is there twice with the same kwargs", index)
        return backbones

    @field_validator("dimensions", mode="before")
    @classmethod
    def _read_dimensions(cls, given: object, info: ValidationInfo) -> dict[str, Dimension]:
        plain = info.data.get("backbones", None) == ()  # where the section itself is wrong, it was meant
        return read_dimensions(given, None if plain else TECHNIQUES)

    @field_validator("objectives")
    @classmethod
    def _sensible_objectives(cls, objectives: Mapping[str, str]) -> Mapping[str, str]:
        if not objectives:
            raise GrammarError("an empty mapping; give at least one objective, such as `accuracy: maximize`")
        for name, direction in objectives.items():
            if name == ACCURACY and direction == "minimize":
                raise GrammarError(f"{name} is better the higher it is; allowed is maximize", name)
        return objectives

    @field_validator("objectives", "constraints", "costs")
    @classmethod
    def _names(cls, named: Mapping[str, Any]) -> Mapping[str, Any]:
        for name in named:
            if not (name.isascii() and name.isidentifier()):
                raise GrammarError(f"{name!r} is not a name: letters, digits and _, with no digit first", name)
        return named

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        if not self.backbones and not self.dimensions:
            raise GrammarError("is missing; for example `dimensions: {rate: [0.1, 0.2]}`", "dimensions")
        reference = self.search.reference_point
        if reference is not None and set(reference) != set(self.objectives):
            raise GrammarError(
                f"names {', '.join(reference) or 'nothing'}; it needs one number for each objective: "
                + ", ".join(self.objectives),
                *("search", "reference_point"),
            )
        if not self.backbones:
            if self.costs:
                raise GrammarError("are those of networks; there are no backbones", "costs")
            if self.train.inherit != NONE:
                reason = f"{self.train.inherit} is for weights of networks; there are no backbones"
                raise GrammarError(reason, "train", "inherit")
            return self
        for name, direction in self.objectives.items():
            kind = self.costs[name].cost if name in self.costs else name
            if kind in KINDS and (direction == "maximize") != (kind in BETTER_HIGH):
                better, allowed = ("higher", "maximize") if kind in BETTER_HIGH else ("lower", "minimize")
                raise GrammarError(f"{kind} is better the {better} it is; allowed is {allowed}", "objectives", name)
        for name, value in (reference or {}).items():
            kind = self.costs[name].cost if name in self.costs else name
            if (kind == ACCURACY and value >= 1) or (kind in KINDS and kind not in BETTER_HIGH and value <= 0):
                limit = "below 1" if kind == ACCURACY else "above 0"
                reason = f"{value:g} is a value that no network is better than; it has to be {limit}"
                raise GrammarError(reason, "search", "reference_point", name)
        if self.train.inherit == NONE and self.train.importance != Train.model_fields["importance"].default:
            reason = f"{self.train.importance} is there, but there are no weights to choose from; set train.inherit"
            raise GrammarError(f"{reason}, or leave it out", "train", "importance")
        if self.data is None:
            raise GrammarError("is missing with backbones; for example `data: {source: digits}`", "data")
        if "fidelity" not in self.search.model_fields_set:
            example = "fidelity: {min: 3, max: 9, reduction: 3}"
            raise GrammarError(f"is missing with backbones; for example `{example}`", "search", "fidelity")
        fidelity = self.search.fidelity
        if fidelity.unit != "epoch":
            raise GrammarError(
                f"{fidelity.unit!r} is not how timm models train; allowed is epoch",
                "search",
                "fidelity",
                "unit",
            )
        for index, backbone in enumerate(self.backbones):
            if backbone.weights and self.train.inherit != PRETRAINED:
                reason = f"is there, but train.inherit is {self.train.inherit}; set it to {PRETRAINED}"
                raise GrammarError(f"{reason}, or leave the weights out", "backbones", index, "weights")
        if self.train.warmup_epochs > fidelity.max:
            raise GrammarError(
                f"{self.train.warmup_epochs} is more than the {fidelity.max} epochs of search.fidelity",
                *("train", "warmup_epochs"),
            )
        return self


def load(source: str | os.PathLike[str] | Mapping[str, Any]) -> SpaceFile:
    """Read and check a space file.

    Args:
        source: the path of a YAML file, or the same object from Python; relative paths in it start from
            the file's directory, or from the working directory.

    Raises:
        SpaceError: anything at all is wrong with it; file, line, key, what was given, what is allowed.
    """
    document = read_mapping(source) if isinstance(source, Mapping) else read_yaml(source)
    try:
        return SpaceFile.model_validate(document.data, context={"directory": document.directory})
    except ValidationError as error:
        raise complain(error, document, json_schema()) from None


def locate(error: SpaceError, source: str | os.PathLike[str] | Mapping[str, Any]) -> SpaceError:
    """The same error with file and line, for what is found wrong after loading: its key is looked up in the source.

    An error without a key, or with a key that is not written, is given the nearest place there is.
    """
    if error.file is not None or isinstance(source, Mapping):
        return error
    document = read_yaml(source)
    if error.key is None:
        return SpaceError(error.reason, file=document.file)
    lines = {dotted(path): line for path, line in document.lines.items()}
    key = error.key
    while key not in lines:
        key = key[: max(key.rfind("."), key.rfind("["), 0)]
    return SpaceError(error.reason, key=error.key, file=document.file, line=lines[key])


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a space file, for editors that check and complete YAML."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **SpaceFile.model_json_schema()}


def _leaves(node: object, key: str = "") -> dict[str, str]:
    """Every value of nested mappings, as JSON, by its dotted key; a list is one value."""
    if not isinstance(node, dict) or not node:
        return {key: json.dumps(node, ensure_ascii=False)}
    return {
        leaf: value
        for name, below in node.items()
        for leaf, value in _leaves(below, f"{key}.{name}".lstrip(".")).items()
    }
