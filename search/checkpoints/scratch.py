"""Scratch: a directory on this machine that goes with its process, and even if that is killed does not stay for good.

Knows files and locks only.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def scratch() -> Iterator[Path]:
    """An empty directory for as long as the context lasts; those that killed processes left behind are removed."""
    base = Path(tempfile.gettempdir()) / f"archsearch-{os.getuid()}"
    base.mkdir(mode=0o700, exist_ok=True)
    with FileLock(base / "lock"):
        for left in base.glob("*.held"):
            _remove(left)
        directory = Path(tempfile.mkdtemp(dir=base))
        lock = FileLock(directory.with_suffix(".held"), thread_local=False)
        lock.acquire()
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        lock.release()
        directory.with_suffix(".held").unlink(missing_ok=True)


def _remove(held: Path) -> None:
    """Removes the directory of a process that is gone: the system has released its lock."""
    try:
        with FileLock(held, timeout=0):
            shutil.rmtree(held.with_suffix(""), ignore_errors=True)
            held.unlink(missing_ok=True)
    except Timeout:
        pass  # it lives
