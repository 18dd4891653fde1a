"""Mirror: a directory kept in a store of objects, such as S3, which is there as a whole or not at all.

    ROOT/objects/SHA256   the content of a file, under its hash
    ROOT/manifest.json    name, size and hash of every file; written last, so that half an upload is none

What a manifest says is checked, names and contents, since anyone may have written it. Knows fsspec, nothing of
trials or of what the files are. Empty directories are not kept.
"""

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Container
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import final

from fsspec import AbstractFileSystem

MANIFEST = "manifest.json"

Stamp = tuple[int, int, int]
"""Modification time in ns, size in bytes, inode: a file with the same ones has not changed."""


class Damaged(Exception):
    """What is there is not what its manifest says, or the manifest cannot be meant."""


@dataclass(frozen=True, kw_only=True)
class _Content:
    size: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> "_Content":
        with path.open("rb") as file:
            return cls(sha256=hashlib.file_digest(file, "sha256").hexdigest(), size=file.tell())


@final
class Mirror:
    """One directory's place in a store; for one writer at a time, who fetches before he puts.

    A second one, on a node that was taken for lost, can set it back to what he last knew, but cannot mix the two.

    Args:
        root: path in `store`.
    """

    def __init__(self, store: AbstractFileSystem, root: str):
        self._store, self._root = store, root
        self._contents: dict[str, _Content] = {}  # by name, as the manifest there says
        self._stamps: dict[str, Stamp] = {}  # of the files here with those contents
        self._objects: set[str] = set()  # all hashes that are there, also what an upload left that was cut short

    def fetch(self, directory: Path, only: Container[str] | None = None) -> None:
        """Makes `directory` what was last put, or empty where nothing was.

        Args:
            only: names of files, relative, to be read; None fetches all, to go on from and to put again.

        Raises:
            Damaged: and `directory` is empty.
        """
        self._contents, self._stamps = {}, {}
        _clear(directory)
        self._objects = {found.rpartition("/")[2] for found in self._store.find(f"{self._root}/objects")}
        try:
            contents = read_manifest(self._store.cat_file(f"{self._root}/{MANIFEST}"))
        except FileNotFoundError:
            return
        try:
            for name, content in contents.items():
                if only is None or name in only:
                    self._fetch(directory / name, content)
        except Damaged:
            _clear(directory)
            raise
        self._contents, self._stamps = contents, _stamps(directory)

    def _fetch(self, path: Path, content: _Content) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._store.get_file(self._object(content.sha256), str(path))
        except FileNotFoundError:
            raise Damaged(f"{path.name} is missing") from None
        if _Content.of(path) != content:
            raise Damaged(f"{path.name} is not what it was")

    def put(self, directory: Path) -> None:
        """Makes the store hold what `directory` holds; costs nothing where that has not changed."""
        stamps = _stamps(directory)
        if stamps != self._stamps:
            contents = {
                name: self._contents[name] if self._stamps.get(name) == stamp else _Content.of(directory / name)
                for name, stamp in stamps.items()
            }
            there = {content.sha256 for content in self._contents.values()}
            for name, content in contents.items():
                if content.sha256 not in there:
                    self._objects.add(content.sha256)
                    self._store.put_file(str(directory / name), self._object(content.sha256))
                    there.add(content.sha256)
            self._put_manifest(contents)
            self._contents, self._stamps = contents, stamps
        wanted = {content.sha256 for content in self._contents.values()}
        if self._objects - wanted:
            with suppress(FileNotFoundError):
                self._store.rm([self._object(name) for name in sorted(self._objects - wanted)])
            self._objects = wanted

    def _put_manifest(self, contents: dict[str, _Content]) -> None:
        with tempfile.TemporaryDirectory(prefix="archsearch-") as folder:
            path = Path(folder) / MANIFEST
            path.write_text(json.dumps({"files": {name: asdict(content) for name, content in contents.items()}}))
            self._store.put_file(str(path), f"{self._root}/{MANIFEST}")

    def drop(self) -> None:
        """Leaves nothing in the store."""
        with suppress(FileNotFoundError):
            self._store.rm(self._root, recursive=True)

    def _object(self, sha256: str) -> str:
        return f"{self._root}/objects/{sha256}"


def read_manifest(text: bytes) -> dict[str, _Content]:
    """The contents by name; no name leads out of a directory.

    Raises:
        Damaged: it is no manifest, or cannot be meant.
    """
    try:
        files = json.loads(text)["files"]
        contents = {name: _Content(size=entry["size"], sha256=entry["sha256"]) for name, entry in files.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise Damaged(f"its manifest cannot be read: {error!r}") from None
    for name, content in contents.items():
        path = PurePosixPath(name)
        inside = name == str(path) and path.parts and not path.is_absolute() and ".." not in path.parts
        if not inside or set(name) & set("\\\0") or any(str(parent) in contents for parent in path.parents):
            raise Damaged(f"its manifest names a file {name!r}")
        if not isinstance(content.sha256, str) or not re.fullmatch(r"[0-9a-f]{64}", content.sha256):
            raise Damaged(f"its manifest has no hash for {name!r}")
    return contents


def _stamps(directory: Path) -> dict[str, Stamp]:
    found = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            status = path.stat()
            found[path.relative_to(directory).as_posix()] = (status.st_mtime_ns, status.st_size, status.st_ino)
    return found


def _clear(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for path in directory.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
