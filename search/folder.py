"""A folder that is written at once or not at all, and never in the place of what is not ours.

Knows names of files, nothing of what is in them.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from spaces import InputError


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What a folder of ours holds.

    Attributes:
        name: in messages, as `a model folder`.
        files: all that may be in it.
        needed: those without which it is none.
    """

    name: str
    files: tuple[str, ...]
    needed: tuple[str, ...]


@contextmanager
def fresh(folder: Path, kind: Kind) -> Iterator[Path]:
    """A new folder to fill: at the end it is at `folder`, in the place of an empty or an older one of its kind there.

    Where anything is raised meanwhile, nothing is changed.

    Raises:
        InputError: the folder holds something else than its kind, or cannot be written.
    """
    try:
        place = Path(os.path.realpath(folder))
        _refuse_foreign(place, kind)
        above = [parent for parent in place.parents if not parent.exists()]
        room = place.parent / f".tmp-{os.getpid()}-{uuid4().hex[:8]}"  # beside it: a rename stays in one file system
        try:
            (room / "new").mkdir(parents=True)
            yield room / "new"
            _swap(place, room / "new", room / "old")
        finally:
            shutil.rmtree(room, ignore_errors=True)
            for parent in above:
                with suppress(OSError):  # it is not empty: all went well
                    parent.rmdir()
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror or error}") from None


def _swap(place: Path, new: Path, old: Path) -> None:
    """Move `new` to `place`, and what is there to `old`; all stays where it was where that fails."""
    if place.exists():
        place.rename(old)
    try:
        new.rename(place)
    except OSError:
        if old.exists():
            old.rename(place)
        raise


def _refuse_foreign(folder: Path, kind: Kind) -> None:
    """InputError unless `folder` is missing, empty or a whole folder of the kind and nothing more."""
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise InputError(f"{folder} is not {kind.name} but a file; give another folder")
    if folder == Path.cwd():
        raise InputError(f"{folder} is the current folder, which cannot be replaced; give the name of a new one in it")
    held = {path.name: path for path in sorted(folder.iterdir())}
    plain = {name for name, path in held.items() if path.is_file() and not path.is_symlink()}
    cache = {name for name in held if name == "__pycache__" and held[name].is_dir()}
    if strange := [name for name in held if name not in plain.intersection(kind.files) | cache]:
        raise InputError(f"{folder} is not {kind.name}, it holds {strange[0]!r}; give another folder")
    if held and (missing := [name for name in kind.needed if name not in plain]):
        raise InputError(f"{folder} is neither empty nor {kind.name}: no {missing[0]} in it; give another folder")
