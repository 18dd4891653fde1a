"""Lease: one driver writes a search at a time; a second is refused. The lock dies with its process, kill -9 too.

Knows a directory, nothing of what lies in it.
"""

import json
import os
import socket
import time
from contextlib import ExitStack
from pathlib import Path

from filelock import FileLock, Timeout

from spaces import InputError


class Lease:
    """Holds a directory from its making to `release`.

    Attributes:
        also: what else is to be let go with it, first.

    Raises:
        InputError: another process holds it; says which, and on which host.
    """

    def __init__(self, directory: Path):
        self._lock = FileLock(directory / "driver.lock")
        self._holder = directory / "driver.json"
        self.also = ExitStack()
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise InputError(f"{directory} is being written by another run ({self._who()}); wait, or end it") from None
        self._holder.write_text(
            json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": int(time.time())})
        )

    def _who(self) -> str:
        try:
            holder = json.loads(self._holder.read_text())
            since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder["since"]))
            return f"process {holder['pid']} on {holder['host']}, since {since}"
        except (OSError, ValueError, KeyError):
            return "process unknown"

    def release(self) -> None:
        self.also.close()
        self._holder.unlink(missing_ok=True)
        self._lock.release()
