"""What pydantic finds wrong, in plain words: where, what was given, what is allowed, the nearest name.

What is allowed is read from the JSON schema, so a message can never differ from the grammar.
Knows nothing of what a space file is about.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from spaces.errors import SpaceError, shown, unknown
from spaces.schema.document import Document, KeyPath, dotted

JsonSchema = Mapping[str, Any]


class Section(BaseModel):
    """A part of a space file: frozen, nothing unknown, no conversion of types, no nan or inf."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class GrammarError(ValueError):
    """Raised by a rule of the grammar that pydantic has no word for.

    Attributes:
        below: the key path of the culprit, below what is being validated.
    """

    def __init__(self, reason: str, *below: str | int):
        super().__init__(reason)
        self.below: KeyPath = below


def complain(error: ValidationError, document: Document, schema: JsonSchema) -> SpaceError:
    """The first problem in the order of the file as one message that also says where the others are."""
    order = {path: place for place, path in enumerate(document.lines)}

    def place(found: tuple[KeyPath, str]) -> float:
        path = found[0]
        if path in order:
            return order[path]
        while path not in order:
            path = path[:-1]
        # A missing key stands just after the end of its section.
        return 0.5 + max(order[other] for other in order if other[: len(path)] == path)

    problems = sorted((_problem(details, document, schema) for details in error.errors(include_url=False)), key=place)
    (path, reason), *others = problems
    keys = list(dict.fromkeys(dotted(other) for other, _ in others if other != path))
    more = f" (and {len(keys)} more: {', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})" if keys else ""
    return document.error(reason + more, path)


def _problem(details: ErrorDetails, document: Document, schema: JsonSchema) -> tuple[KeyPath, str]:
    """The key path of one problem, as far as it is written in the file, and what to say about it."""
    path, kind, given = details["loc"], details["type"], details["input"]
    nodes = list(_nodes(schema, path, schema))
    if kind == "missing":
        example = next((node["examples"][0] for node in nodes if "examples" in node), None)
        return path, f"is missing; for example `{path[-1]}: {example}`"
    if kind == "extra_forbidden":
        names = {name for node in _nodes(schema, path[:-1], schema) for name in node.get("properties", ())}
        return path, unknown("key", path[-1], names)
    reason = details.get("ctx", {}).get("error")
    if isinstance(reason, GrammarError):
        path += reason.below
    while path not in document.lines and not (isinstance(reason, GrammarError) and reason.below):
        path = path[:-1]
    if isinstance(reason, ValueError):
        return path, str(reason)
    if kind == "literal_error":
        return path, unknown("value", given, [str(name) for node in nodes for name in node.get("enum", ())])
    return path, f"{shown(given)} is not {' or '.join(dict.fromkeys(map(_allowed, nodes)))}"


def _nodes(node: JsonSchema, path: KeyPath, root: JsonSchema) -> Iterator[JsonSchema]:
    """Every alternative, except null, that the JSON schema `root` allows at `path` below `node`."""
    if "$ref" in node:
        target = root["$defs"][node["$ref"].rpartition("/")[2]]
        rest = {key: value for key, value in node.items() if key != "$ref"}
        yield from _nodes({**target, **rest}, path, root)
    elif "anyOf" in node:
        for alternative in node["anyOf"]:
            rest = {key: value for key, value in node.items() if key != "anyOf"}
            yield from _nodes({**alternative, **rest}, path, root)
    elif not path:
        if node.get("type") != "null":
            yield node
    elif isinstance(path[0], int):
        yield from _nodes(node.get("items", {}), path[1:], root)
    else:
        below = node.get("properties", {}).get(path[0], node.get("additionalProperties"))
        if isinstance(below, Mapping):
            yield from _nodes(below, path[1:], root)


def _allowed(node: JsonSchema) -> str:
    """What a JSON schema allows, as words: `a whole number of at least 1`."""
    kinds = {
        "integer": "a whole number",
        "number": "a number",
        "string": "text",
        "boolean": "true or false",
        "array": "a list",
        "object": "a mapping of keys to values",
    }
    words = [kinds.get(str(node.get("type")), "allowed here")]
    limits = {
        "minimum": "of at least",
        "exclusiveMinimum": "above",
        "maximum": "at most",
        "exclusiveMaximum": "below",
        "minLength": "of at least this many letters:",
        "maxLength": "of at most this many letters:",
        "minItems": "of at least this many:",
        "maxItems": "of at most this many:",
        "pattern": "that matches",
    }
    words += [f"{word} {node[limit]}" for limit, word in limits.items() if limit in node]
    return " ".join(words[:2]) + "".join(f" and {word}" for word in words[2:])
