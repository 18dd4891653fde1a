"""The one kind of error a user can cause: what was given, where, what is allowed, the nearest name.

Knows nothing else of the project. `InputError` is the root; the command line prints it as one message
and exits with code 2.
"""

import difflib
from collections.abc import Iterable


class InputError(Exception):
    """Bad input of any kind: a file, a flag, a name."""


class SpaceError(InputError):
    """A space file, or an architecture, that cannot be: says where, what was given and what is allowed.

    Attributes:
        reason: the message without its place.
        key: dotted path into the space, as `dimensions.scaling[1]`; None where there is none.
        file, line: where it stands (line from 1); None when the space came from Python.
    """

    def __init__(self, reason: str, *, key: str | None = None, file: str | None = None, line: int | None = None):
        self.reason, self.key, self.file, self.line = reason, key, file, line
        place = ":".join(str(part) for part in (file, line) if part is not None)
        super().__init__(": ".join(part for part in (place, key, reason) if part))

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (self.reason, self.key, self.file, self.line))


def _rebuild(reason: str, key: str | None, file: str | None, line: int | None) -> SpaceError:
    return SpaceError(reason, key=key, file=file, line=line)


def unknown(what: str, given: object, allowed: Iterable[str], *, most: int = 12) -> str:
    """One sentence for a name that does not exist: `unknown key 'trails'; did you mean 'trials'? (allowed: ...)`.

    More than `most` allowed names are counted, and only those near the given one are shown.
    """
    names = sorted(set(map(str, allowed)))
    near = _near(given, names)
    said = f"unknown {what} {shown(given)}" if isinstance(given, str) else f"{shown(given)} is no {what}"
    if len(names) <= most:
        return f"{said}{_hint(near)} (allowed: {', '.join(names)})"
    others = f"; also near: {', '.join(near[1:])}" if near[1:] else ""
    return f"{said}{_hint(near)} ({len(names)} are allowed{others})"


def hint(given: object, allowed: Iterable[str]) -> str:
    """`; did you mean 'trials'?` where a name is near the given one."""
    return _hint(_near(given, allowed))


def _near(given: object, allowed: Iterable[str]) -> list[str]:
    small = {name.lower(): name for name in allowed}
    near = difflib.get_close_matches(given.lower(), small, n=3, cutoff=0.5) if isinstance(given, str) else []
    return [small[name] for name in near]


def _hint(near: list[str]) -> str:
    return f"; did you mean {near[0]!r}?" if near else ""


def shown(given: object) -> str:
    """A value as a message names it; long ones are cut."""
    if isinstance(given, dict):
        return f"a mapping ({', '.join(map(str, given))[:40]})"
    if isinstance(given, list):
        return "a list" if given else "an empty list"
    if given is None:
        return "an empty value (null)"
    if isinstance(given, bool):
        return str(given).lower()
    return repr(given) if len(repr(given)) <= 60 else repr(given)[:57] + "..."
