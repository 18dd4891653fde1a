"""Checkpoints: where the trainings of a search keep what they need to go on, on this machine or in a store.

    NAME/trials/N/   by default, and so under a path on a file system that all nodes share: used where it lies
    URL/NAME/N/      in a store that fsspec knows, such as s3://bucket/prefix: a mirror of the worker's own copy

and those of its confirmation in NAME/confirmed/N/ or URL/NAME/confirmed/N/, those of the backbones that its networks
start from in NAME/parents/N/ or URL/NAME/parents/N/.

Knows directories, measurements and `search.checkpoints.mirror`, nothing of Ray or of what is trained.
"""

import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar, final
from urllib.parse import urlsplit

import fsspec
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from search.checkpoints.mirror import Damaged, Mirror
from search.checkpoints.places import Places
from search.checkpoints.scratch import scratch
from search.evaluator import Measurement
from search.gate import said
from spaces import InputError

TRIALS, CONFIRMED, PARENTS = "trials", "confirmed", "parents"
AWAY_S = 120.0  # for how long a store may be away: longer than a server takes to restart
LONGEST_PAUSE_S = 15.0

T = TypeVar("T")


class OutOfReach(InputError):
    """A store is away, for longer than it was waited for."""


class Checkpoints(Protocol):
    """A directory for each trial, by its number. It pickles."""

    def trained(self, number: int, train: Callable[[Path], Iterator[Measurement]]) -> Iterator[Measurement]:
        """What `train` yields when it is given the trial's directory, as the last worker left it.

        With values, a measurement is only handed on when all that the directory then holds can be found again
        on any node; without, as soon as that was tried.

        Raises:
            OutOfReach: the store is away for longer than AWAY_S. And whatever `train` raises.
        """
        ...

    def fetched(
        self, number: int, *, only: Collection[str] | None = None, patience_s: float = 0.0
    ) -> AbstractContextManager[Path]:
        """The trial's directory, to read while the context lasts; empty or missing where nothing is kept.

        Args:
            only: names of the files that are wanted; there may be others.
            patience_s: how long to wait for a store that is away.

        Raises:
            OutOfReach: the store is away.
            InputError: what it holds is damaged.
        """
        ...

    def place(self, number: int) -> str:
        """Of the trial, in a message."""
        ...

    def held(self) -> set[int]:
        """The trials that may have something kept."""
        ...

    def drop(self, number: int) -> None:
        """Leaves nothing of the trial."""
        ...


@final
@dataclass(frozen=True, kw_only=True)
class Local:
    """On a file system that all nodes see: nothing is copied."""

    directory: Path

    def trained(self, number: int, train: Callable[[Path], Iterator[Measurement]]) -> Iterator[Measurement]:
        return train(self.directory / str(number))

    @contextmanager
    def fetched(self, number: int, *, only: Collection[str] | None = None, patience_s: float = 0.0) -> Iterator[Path]:
        yield self.directory / str(number)

    def place(self, number: int) -> str:
        return str(self.directory / str(number))

    def held(self) -> set[int]:
        return {int(path.name) for path in self.directory.glob("[0-9]*") if path.name.isdecimal()}

    def drop(self, number: int) -> None:
        shutil.rmtree(self.directory / str(number), ignore_errors=True)


@final
@dataclass(frozen=True, kw_only=True)
class Remote:
    """In a store. A worker has a copy of its own, and puts what has changed before a measurement leaves it."""

    url: str

    def trained(self, number: int, train: Callable[[Path], Iterator[Measurement]]) -> Iterator[Measurement]:
        with scratch() as directory:
            mirror, retry_at = self._mirror(number), 0.0
            with suppress(Damaged):  # then the training begins anew, and comes to the same
                self._insist(number, partial(mirror.fetch, directory), AWAY_S)
            for measurement in train(directory):
                if measurement.values:
                    self._insist(number, partial(mirror.put, directory), AWAY_S)
                elif time.monotonic() >= retry_at:
                    try:
                        self._insist(number, partial(mirror.put, directory), 0.0)
                    except OutOfReach:
                        retry_at = time.monotonic() + LONGEST_PAUSE_S  # training goes on meanwhile
                yield measurement

    @contextmanager
    def fetched(self, number: int, *, only: Collection[str] | None = None, patience_s: float = 0.0) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="archsearch-") as folder:
            directory = Path(folder)
            try:
                self._insist(number, partial(self._mirror(number).fetch, directory, only), patience_s)
            except Damaged as error:
                raise InputError(f"the checkpoint in {self.place(number)} is damaged: {error}") from None
            yield directory

    def place(self, number: int) -> str:
        return f"{self.url}/{number}"

    def held(self) -> set[int]:
        store, root = connect(self.url)
        try:
            names = [path.rstrip("/").rpartition("/")[2] for path in store.ls(root, detail=False)]
        except FileNotFoundError:
            return set()
        return {int(name) for name in names if name.isdecimal()}

    def drop(self, number: int) -> None:
        self._mirror(number).drop()

    def _mirror(self, number: int) -> Mirror:
        store, root = connect(self.url)
        return Mirror(store, f"{root}/{number}")

    def _insist(self, number: int, work: Callable[[], T], patience_s: float) -> T:
        """Tries again, with pauses, what a store that is away for a while cannot do."""
        pause_s, end = 1.0, time.monotonic() + patience_s
        while True:
            try:
                return work()
            except Damaged:
                raise
            except Exception as error:  # each kind of store has its own
                if time.monotonic() + pause_s > end:
                    reason = f"the checkpoint in {self.place(number)} is out of reach: {said(error)}"
                    raise OutOfReach(reason) from error
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def checkpoints_of(directory: Path, part: str = TRIALS) -> Checkpoints:
    """Of the search in a directory, wherever it keeps them.

    Args:
        part: TRIALS, CONFIRMED or PARENTS.

    Raises:
        InputError: the store's package is not installed.
    """
    url = Places.read(directory).checkpoints
    if url is None:
        return Local(directory=directory.resolve() / part)
    return _under(url, directory.name if part == TRIALS else f"{directory.name}/{part}")


def _under(url: str, name: str) -> Checkpoints:
    store, root = connect(url)
    if isinstance(store, LocalFileSystem):
        return Local(directory=Path(root) / name)
    return Remote(url=f"{url.rstrip('/')}/{name}")


def settle(directory: Path, given: Places, *, resume: bool) -> Places:
    """The places of a search that is about to start: those given, and on a resume else those that it remembers.

    In the place for its checkpoints something is written, read and deleted, before anything is spent.

    Raises:
        InputError: that cannot be, checkpoints of another search are there, or those of this one are elsewhere.
    """
    before = Places.read(directory) if resume else Places()
    given = replace(given, checkpoints=_absolute(given.checkpoints), artifacts=_uri(given.artifacts))
    places = given.otherwise(before)
    if places.checkpoints != before.checkpoints and (before.checkpoints or (resume and (directory / TRIALS).exists())):
        there = before.checkpoints or directory / TRIALS
        raise InputError(f"--checkpoints {given.checkpoints}: {directory} has its own in {there}; leave the flag out")
    if places.checkpoints is not None:
        _prove(places.checkpoints, directory.name, fresh=before.checkpoints is None)
    return places


def _absolute(url: str | None) -> str | None:
    """A path that means the same from any directory; a URL as it is."""
    if url is None:
        return None
    store, root = connect(url)
    return root if isinstance(store, LocalFileSystem) else url.rstrip("/")


def _uri(place: str | None) -> str | None:
    return place if place is None or "://" in place else Path(place).absolute().as_uri()


def _prove(url: str, name: str, *, fresh: bool) -> None:
    """
    Args:
        fresh: the search is new; nothing may be there.
    """
    store, root = connect(url)
    place = f"{root}/{name}"
    try:
        if isinstance(store, LocalFileSystem):
            store.makedirs(place, exist_ok=True)
        if fresh and store.find(place):
            raise InputError(f"--checkpoints {url}: there are checkpoints in {name}/ already; choose another --name")
        _write_read_delete(store, f"{place}/probe-{uuid.uuid4().hex}")
    except InputError:
        raise
    except Exception as error:  # each kind of store has its own
        raise InputError(f"--checkpoints {url} cannot be used: {said(error)}") from error


def _write_read_delete(store: AbstractFileSystem, path: str) -> None:
    with tempfile.NamedTemporaryFile(prefix="archsearch-") as file:
        file.write(b"archsearch")
        file.flush()
        store.put_file(file.name, path)
    if store.cat_file(path) != b"archsearch":
        raise OSError(f"{path} does not hold what was written to it")
    store.rm_file(path)


def connect(url: str) -> tuple[AbstractFileSystem, str]:
    """A store, and the path in it, of a URL. Nothing is asked of it yet.

    Raises:
        InputError: no such kind of store, its package is not installed, or the URL has a password.
    """
    if urlsplit(url).password is not None:
        raise InputError("--checkpoints must not have a password in it; put it where the store's own tools look for it")
    if "::" in url or url.startswith("memory:") or set(url) & set("*?["):  # patterns to fsspec
        raise InputError(
            f"--checkpoints {url}: allowed is a path, or the URL of a store that every node can reach, without * ? ["
        )
    try:
        found: tuple[AbstractFileSystem, str] = fsspec.url_to_fs(url, **_options(url))
    except ImportError as error:
        extra = ": pip install 'archsearch[s3]'" if url.startswith(("s3:", "s3a:")) else ""
        raise InputError(f"--checkpoints {url} needs a package that is not installed{extra} ({error})") from None
    except Exception as error:  # fsspec's own for an unknown protocol, and each store's for a URL it cannot read
        raise InputError(f"--checkpoints {url}: {said(error)}") from None
    return found[0], found[1].rstrip("/")


def _options(url: str) -> dict[str, Any]:
    return {"use_listings_cache": False} if "://" in url else {}
