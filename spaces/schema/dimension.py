"""The `dimensions` section: three ways to write what may be chosen, one way to keep it.

A list of choices, `{choices: [...], per: stage}`, or `{kind: [...], PARAMETER: ...}` where kinds have parameters of
their own: each value is then tried with each kind that takes it. Knows the techniques by their `check`, nothing of
how they rewrite a model.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import GetJsonSchemaHandler, SkipValidation
from pydantic_core import CoreSchema

from spaces.errors import shown, unknown
from spaces.schema.complaint import GrammarError, Section
from spaces.techniques.base import Choice, Knob, Scalar, Technique, kind_of, values_of

Per = Literal["network", "stage"]

# Names of dimensions without a technique: what MLflow takes as the name of a parameter, but for `/` and `:`.
_PLAIN_NAME = re.compile(r"\w[\w .-]*")

# A range without `step` has this many equal steps: few enough that every value can be tried.
DEFAULT_STEPS = 5
MOST_STEPS = 1000
MOST_OPTIONS = 1000  # of a dimension, kinds times values: each is looked at for every backbone

_SCALAR = {"type": ["boolean", "integer", "number", "string"]}
_CHOICES = {
    "type": "array",
    "minItems": 1,
    "uniqueItems": True,
    "items": {"type": [*_SCALAR["type"], "object"]},
}
_PER = {"enum": list(get_args(Per)), "default": "network"}
_RANGE = {
    "type": "object",
    "properties": {"low": {"type": "number"}, "high": {"type": "number"}, "step": {"type": "number"}},
    "required": ["low", "high"],
    "additionalProperties": False,
}


class Dimension(Section):
    """What one dimension may be.

    Attributes:
        choices: each in the normal form of its technique, in the order of the file, none twice.
        per: whether one choice holds for the whole network, or each stage has its own.
        parameters: values by name, of the parameters that some of the choices ask for.
    """

    choices: Annotated[tuple[Choice, ...], SkipValidation]
    per: Per = "network"
    parameters: Annotated[Mapping[str, tuple[Scalar, ...]], SkipValidation] = {}

    def open(self, choice: Choice, technique: Technique) -> dict[str, tuple[Scalar, ...]]:
        """The parameters that the kind of a choice takes and the choice itself leaves open, with their values."""
        kind, given = kind_of(choice), values_of(choice)
        return {
            name: values
            for name, values in self.parameters.items()
            if technique.takes(kind, name) and name not in given
        }

    def to_plain(self) -> dict[str, Any]:
        """As it may be written in a file."""
        word = "kind" if self.parameters else "choices"
        values = {name: list(values) for name, values in self.parameters.items()}
        return {word: list(self.choices), "per": self.per, **values}

    @classmethod
    def __get_pydantic_json_schema__(cls, _: CoreSchema, __: GetJsonSchemaHandler) -> dict[str, Any]:
        """The grammar of the file, not of the attributes."""
        values = {"anyOf": [_CHOICES, _RANGE]}
        mappings = [
            {"type": "object", "properties": {word: _CHOICES, "per": _PER}, "required": [word]}
            | {"additionalProperties": values}  # the parameters of the technique's kinds
            for word in ("choices", "kind")
        ]
        return {"anyOf": [_CHOICES, *mappings]}


def read_dimensions(given: object, techniques: Mapping[str, Technique] | None) -> dict[str, Dimension]:
    """The section as written; `techniques` is None in a space of plain choices.

    Raises:
        GrammarError: the first thing that is wrong, with its key below the section.
    """
    if not isinstance(given, dict) or (not given and techniques is None):
        raise GrammarError(f"{shown(given)} is not a mapping of names to choices, such as `scaling: [none, rezero]`")
    result = {}
    for name, value in given.items():
        if techniques is not None and name not in techniques:
            raise GrammarError(unknown("dimension", name, techniques), name)
        if techniques is None and not _PLAIN_NAME.fullmatch(name):
            raise GrammarError(f"{name!r} is not a name: letters, digits, spaces, '.', '_' and '-'", name)
        result[name] = _read(name, value, techniques[name] if techniques else None)
    return result


def _read(name: str, given: object, technique: Technique | None) -> Dimension:
    if isinstance(given, list):
        return _bounded(Dimension(choices=_choices(given, technique, name)), technique, name)
    if not isinstance(given, dict):
        hint = f"; write [{given}] for a single one" if isinstance(given, str | int | float) else ""
        raise GrammarError(f"{shown(given)} is not a list of choices{hint}", name)
    knobs = technique.knobs if technique else {}
    words = ("choices", "kind", "per", *knobs) if technique else ("choices", "per")
    for word in given:
        if word not in words:
            raise GrammarError(unknown("key", word, words), name, word)
    if ("choices" in given) == ("kind" in given):
        both = "`choices` and `kind` mean the same; keep one" if "kind" in given else None
        raise GrammarError(both or f"has no choices; for example `{name}: {{choices: [...]}}`", name)
    word = "kind" if "kind" in given else "choices"
    per = given.get("per", "network")
    if per not in get_args(Per):
        raise GrammarError(unknown("value", per, get_args(Per)), name, "per")
    if per == "stage" and technique is None:
        raise GrammarError("there are no stages without backbones; allowed is network", name, "per")
    choices = _choices(given[word], technique, name, word)
    parameters = {key: _parameter(given[key], knob, name, key) for key, knob in knobs.items() if key in given}
    return _bounded(Dimension(choices=choices, per=per, parameters=parameters), technique, name)


def _bounded(dimension: Dimension, technique: Technique | None, name: str) -> Dimension:
    opened = [dimension.open(choice, technique) for choice in dimension.choices if technique]
    count = sum(math.prod(map(len, values.values())) for values in opened)
    if count > MOST_OPTIONS:
        reason = f"{count:,} choices with all values of their parameters; at most {MOST_OPTIONS:,} can be looked at"
        raise GrammarError(reason, name)
    return dimension


def _choices(given: object, technique: Technique | None, *below: str) -> tuple[Choice, ...]:
    return _each(given, "choice", technique.check if technique else _scalar, *below)


def _each(given: object, what: str, check: Callable[[object], Any], *below: str) -> tuple[Any, ...]:
    """The items of a list, each as its check gives it back, none twice."""
    if not isinstance(given, list) or not given:
        raise GrammarError(f"{shown(given)} is not a list of at least one {what}", *below)
    result: list[Any] = []
    for index, item in enumerate(given):
        try:
            checked = check(item)
        except ValueError as error:
            raise GrammarError(str(error), *below, index) from None
        if checked in result:
            raise GrammarError(f"the {what} {json.dumps(checked)} is there twice", *below, index)
        result.append(checked)
    return tuple(result)


def _scalar(given: object) -> bool | int | float | str:
    if isinstance(given, bool | int | float | str):
        return given
    raise ValueError(f"{shown(given)} is not a choice; without backbones it is text, a number, true or false")


def _parameter(given: object, knob: Knob, *below: str) -> tuple[Scalar, ...]:
    """Values given as a list or as a range `{low, high, step}`, each one that the knob can take."""
    if not isinstance(given, list | dict):
        raise GrammarError(f"{shown(given)} is neither a list of values nor a range {{low, high}}", *below)
    if isinstance(given, list):
        return _each(given, "value", knob.check, *below)
    values = _range(given, *below)
    for word in ("low", "high"):
        try:
            knob.check(given[word])
        except ValueError as error:
            raise GrammarError(str(error), *below, word) from None
    try:
        return tuple(knob.check(value) for value in values)
    except ValueError as error:  # a step that leads past what is allowed, as 0.5 to whole numbers
        raise GrammarError(f"the range has values that do not fit: {error}", *below) from None


def _range(given: Mapping[str, Any], *below: str) -> tuple[float, ...]:
    words = ("low", "high", "step")
    for word, value in given.items():
        if word not in words:
            raise GrammarError(unknown("key", word, words), *below, word)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise GrammarError(f"{shown(value)} is not a number", *below, word)
    for word in words[:2]:
        if word not in given:
            raise GrammarError(f"is missing; for example `{word}: 0.5`", *below, word)
    low, high = float(given["low"]), float(given["high"])
    if low > high:
        raise GrammarError(f"low {low} is above high {high}", *below)
    step = float(given.get("step", (high - low) / DEFAULT_STEPS or 1.0))
    if step <= 0 or (high - low) / step > MOST_STEPS:
        raise GrammarError(f"{step} is not a step above 0 with at most {MOST_STEPS} from low to high", *below, "step")
    count = math.floor((high - low) / step + 1e-9) + 1  # the last value may miss `high` by rounding
    return tuple(round(low + index * step, 12) for index in range(count))
