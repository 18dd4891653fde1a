"""Pace: how often something may be done that takes its time and is seldom urgent, as drawing a picture."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

SHARE = 0.03  # of the time, at most, goes to what is paced


@final
class Pace:
    """Lets something happen at once, and again after `every_s`, or after more where it took more than SHARE of that."""

    def __init__(self, every_s: float):
        self._every_s, self._from = every_s, 0.0

    @property
    def due(self) -> bool:
        return time.monotonic() >= self._from

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Around what is paced; where that raises, it is due as it was."""
        began = time.monotonic()
        yield
        ended = time.monotonic()
        self._from = ended + max(self._every_s, (ended - began) / SHARE)
