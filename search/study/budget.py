"""Budget: what a search may spend of time, and what it has spent. Knows a clock, nothing of trials."""

import math
import time
from collections.abc import Callable, Mapping
from typing import final

from spaces.schema import BUDGETS, Search

NOTE_EVERY_S = 10.0  # after a kill -9 so much is forgotten at most


@final
class Clock:
    """Hours on the clock that drivers have spent on a search, all of them together.

    Args:
        before: what earlier drivers have noted, in hours.
        note: keeps a sum for the drivers to come.
    """

    def __init__(self, before: float | None, note: Callable[[float], None]):
        self._before, self._note = before or 0.0, note
        self._began = self._noted = time.monotonic()

    @property
    def hours(self) -> float:
        return self._before + (time.monotonic() - self._began) / 3600

    def tick(self) -> None:
        """To be called now and then."""
        if time.monotonic() - self._noted >= NOTE_EVERY_S:
            self.close()

    def close(self) -> None:
        self._note(self.hours)
        self._noted = time.monotonic()


def shares(search: Search, **spent: float) -> dict[str, float]:
    """What share of each limit is spent: by the names of the limits that there are.

    Args:
        spent: trials, hours and device_hours.
    """
    limits = {name: getattr(search, name) for name in BUDGETS}
    return {name: spent[name] / limit for name, limit in limits.items() if limit is not None}


def left_s(search: Search, *, hours: float, device_hours: float, running: int, devices: float) -> float:
    """Device seconds that one more training has until time is up; infinite without a limit of time.

    Args:
        hours, device_hours: spent.
        running: trainings that share what is left of the device hours with it.
        devices: that it has, as for `Measurement.device_s`.
    """
    by_clock = math.inf if search.hours is None else devices * (search.hours - hours)
    shared = math.inf if search.device_hours is None else (search.device_hours - device_hours) / (running + 1)
    return 3600 * max(0.0, min(by_clock, shared))


def overspent(search: Search, spent: Mapping[str, float]) -> str:
    """Which limit of time is reached, in words; empty while none is.

    Args:
        spent: of `shares`.
    """
    for name in ("hours", "device_hours"):
        if spent.get(name, 0.0) >= 1.0:
            return f"the budget of {getattr(search, name):g} {name.replace('_', ' ')} is spent"
    return ""
