"""A space file as plain data (dict, list, str, int, float, bool, None) with the place of every key.

Reads YAML 1.2 safely: only the core tags, one document, no repeated keys, and limits on size, depth and
on what aliases expand to; nothing in a file can run code or read another file. A mapping from Python goes
through the same limits. Knows nothing of the grammar.
"""

import difflib
import math
import os
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import CollectionEndEvent, CollectionStartEvent, DocumentStartEvent, NodeEvent
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from spaces.errors import SpaceError

# A long space file has a few hundred values and nests six deep; these limits are far above that, and low
# enough that the worst file is refused in a second or two.
MOST_BYTES = 1_000_000
MOST_VALUES = 10_000
MOST_DEPTH = 32
LONGEST_KEY = 200
LARGEST_INTEGER = 2**63 - 1  # what JSON readers and databases agree on

KeyPath = tuple[str | int, ...]

_CORE = "tag:yaml.org,2002:"
_TEXT_TAGS = {_CORE + name for name in ("str", "timestamp", "value")}  # the last two: `2026-01-01` and `=`


def dotted(path: KeyPath) -> str:
    """`("dimensions", "scaling", 1)` as `dimensions.scaling[1]`."""
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in path]
    return "".join(parts).removeprefix(".")


@dataclass(kw_only=True)
class Document:
    """What a space file says, before anyone asks whether it makes sense.

    Attributes:
        file: as the user gave it; None for a mapping from Python.
        directory: what relative paths in it start from.
        data: the top mapping.
        lines: the line (from 1; None without a file) of every key path, in the order of the document.
    """

    file: str | None = None
    directory: Path = field(default_factory=Path.cwd)
    data: dict[str, Any] = field(default_factory=dict)
    lines: dict[KeyPath, int | None] = field(default_factory=dict)

    def error(self, reason: str, path: KeyPath = (), line: int | None = None) -> SpaceError:
        """`reason` at a key path; where the path is not written, the line is its nearest parent's."""
        if line is None:
            written = (path[:end] for end in range(len(path), -1, -1) if path[:end] in self.lines)
            line = self.lines.get(next(written, ()))
        return SpaceError(reason, key=dotted(path) or None, file=self.file, line=line)

    def enter(self, path: KeyPath, line: int | None) -> None:
        """Note a place, or refuse the document for having too many or too deep."""
        self.lines[path] = line
        if len(self.lines) > MOST_VALUES:
            raise self.error(f"more than {MOST_VALUES} values, with every use of an alias counted", path)
        if len(path) > MOST_DEPTH:
            raise self.error(f"nested more than {MOST_DEPTH} deep", path)

    def text(self, value: str, path: KeyPath) -> str:
        if any(unicodedata.category(character) in ("Cc", "Cs") for character in value):
            raise self.error(f"{value!r} holds a control character; allowed is text on one line", path)
        return value

    def key(self, key: str, path: KeyPath, line: int | None = None) -> str:
        if len(key) > LONGEST_KEY:
            raise self.error(f"a key of {len(key):,} characters; the longest may have {LONGEST_KEY}", path, line)
        return self.text(key, path)

    def integer(self, value: int, path: KeyPath) -> int:
        if abs(value) > LARGEST_INTEGER:
            raise self.error(
                f"a whole number of {value.bit_length()} bits is beyond the largest, {LARGEST_INTEGER}", path
            )
        return value

    def number(self, value: float, path: KeyPath) -> float:
        if not math.isfinite(value):
            raise self.error(f"{value} is not a finite number", path)
        return value


def read_mapping(given: Mapping[str, Any]) -> Document:
    """A copy of `given` as plain data.

    Raises:
        SpaceError: a value that YAML could not have said, with its key.
    """
    document = Document()
    document.data = _from_object(given, (), document)
    return document


def read_yaml(source: str | os.PathLike[str]) -> Document:
    """Read a YAML file.

    Raises:
        SpaceError: no such file, not UTF-8, not one YAML 1.2 mapping, or beyond the limits.
    """
    path = Path(source)
    document = Document(file=str(path), directory=path.absolute().parent)
    text = _text(path, document)
    try:
        _guard(text, document)
        node = YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        raise _syntax_error(error, document) from None
    except YAMLError as error:
        line = text.count("\n", 0, getattr(error, "position", 0)) + 1
        raise document.error(f"not YAML: {str(error).splitlines()[0]}", line=line) from None
    if node is None or (isinstance(node, ScalarNode) and node.tag == _CORE + "null"):
        raise document.error("the file is empty; it needs at least name, dimensions, objectives and search")
    if not isinstance(node, MappingNode):
        raise document.error("the top of a space file is a mapping (`name: ...`)", line=_line(node))
    document.data = _from_node(node, (), document, frozenset())
    return document


def _text(path: Path, document: Document) -> str:
    try:
        if path.is_dir():
            raise document.error("this is a directory; give the space file (.yaml) itself")
        if not path.is_file():
            siblings = [file.name for file in path.parent.glob("*.y*ml")]
            nearest = difflib.get_close_matches(path.name, siblings, 1)
            hint = f"; did you mean {str(path.with_name(nearest[0]))!r}?" if nearest else ""
            raise document.error("not a plain file" if path.exists() else f"there is no such file{hint}")
        with path.open("rb") as stream:
            raw = stream.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        raise document.error(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(raw) > MOST_BYTES:
        raise document.error(f"larger than {MOST_BYTES} bytes, the most a space file may have")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise document.error(f"not UTF-8 text (byte 0x{raw[error.start]:02x})", line=line) from None


def _guard(text: str, document: Document) -> None:
    """Refuse, before the recursive composer sees it, what is too deep, too much or more than one document."""
    depth = values = documents = 0
    for event in YAML(typ="safe", pure=True).parse(text):
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        values += isinstance(event, NodeEvent)
        line = event.start_mark.line + 1
        if depth > MOST_DEPTH:
            raise document.error(f"nested more than {MOST_DEPTH} deep", line=line)
        if values > 2 * MOST_VALUES:  # a key and its value are two nodes
            raise document.error(f"more than {MOST_VALUES} values", line=line)
        if isinstance(event, DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise document.error("a second document (`---`) starts here; a space file is one", line=line)
            if event.version not in (None, (1, 2)):
                raise document.error("a space file is YAML 1.2; remove the %YAML line", line=line)


def _syntax_error(error: MarkedYAMLError, document: Document) -> SpaceError:
    mark = error.problem_mark or error.context_mark
    problem = str(error.problem or error.context)
    if "'\\t'" in problem:
        problem = "a tab; YAML is indented with spaces"
    elif error.context and error.context_mark:
        problem = f"{problem} {error.context} that starts in line {error.context_mark.line + 1}"
    return document.error(f"not YAML: {problem}", line=mark.line + 1 if mark else None)


def _line(node: Node) -> int:
    return int(node.start_mark.line) + 1


def _from_node(node: Node, path: KeyPath, document: Document, above: frozenset[int]) -> Any:
    """`above`: the ids of the nodes that hold this one, to find an alias that holds itself."""
    document.enter(path, document.lines.get(path, _line(node)))
    if id(node) in above:
        raise document.error("an alias that contains itself", path)
    above |= {id(node)}
    if isinstance(node, ScalarNode):
        return _from_scalar(node, path, document)
    if isinstance(node, SequenceNode) and node.tag == _CORE + "seq":
        return [_from_node(item, (*path, index), document, above) for index, item in enumerate(node.value)]
    if not isinstance(node, MappingNode) or node.tag != _CORE + "map":
        raise _bad_tag(node, path, document)
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = _key(key_node, path, document)
        if key in result:
            first = document.lines[*path, key]
            raise document.error(f"written twice (first in line {first})", (*path, key), _line(key_node))
        document.lines[*path, key] = _line(key_node)
        result[key] = _from_node(value_node, (*path, key), document, above)
    return result


def _key(node: Node, path: KeyPath, document: Document) -> str:
    if not isinstance(node, ScalarNode):
        raise document.error("a key is one word, not a list or a mapping", path, _line(node))
    if node.tag == _CORE + "merge":
        raise document.error("`<<` is not part of YAML 1.2; write the keys out", path, _line(node))
    if node.tag not in _TEXT_TAGS:
        raise document.error(f"the key {node.value} is not text; put it in quotes", path, _line(node))
    return document.key(node.value, path, _line(node))


def _from_scalar(node: ScalarNode, path: KeyPath, document: Document) -> Any:
    text, kind = str(node.value), str(node.tag).removeprefix(_CORE)
    try:
        if node.tag in _TEXT_TAGS:
            return document.text(text, path)
        if kind == "null":
            return None
        if kind == "bool":
            return {"true": True, "false": False}[text.lower()]
        if kind == "int":
            base = {"0x": 16, "0o": 8, "0b": 2}.get(text.lstrip("+-")[:2].lower(), 10)
            return document.integer(int(text, base), path)
        if kind == "float":
            return document.number(float(text.lower().replace(".inf", "inf").replace(".nan", "nan")), path)
    except (ValueError, KeyError):
        raise document.error(f"{text[:40]!r} cannot be read as !!{kind}", path) from None
    raise _bad_tag(node, path, document)


def _bad_tag(node: Node, path: KeyPath, document: Document) -> SpaceError:
    tag = str(node.tag).replace(_CORE, "!!")
    return document.error(f"the tag {tag} is refused: a space file is plain data and runs no code", path)


def _from_object(given: object, path: KeyPath, document: Document) -> Any:
    document.enter(path, None)
    if given is None or isinstance(given, bool):
        return given
    if isinstance(given, str):
        return document.text(str(given), path)
    if isinstance(given, int):
        return document.integer(int(given), path)
    if isinstance(given, float):
        return document.number(float(given), path)
    if isinstance(given, list | tuple):
        return [_from_object(item, (*path, index), document) for index, item in enumerate(given)]
    if isinstance(given, os.PathLike):
        return document.text(str(Path(given)), path)
    if not isinstance(given, Mapping):
        kind = type(given).__name__
        raise document.error(f"a value of type {kind} cannot be written in YAML; use plain Python", path)
    for key in given:
        if not isinstance(key, str):
            raise document.error(f"the key {key!r} is not text", path)
        document.key(key, path)
    return {str(key): _from_object(item, (*path, key), document) for key, item in given.items()}
