"""Readings: what was ever measured, kept in one file for all searches of a folder.

    {"architecture": "3f2a...", "setting": "...", "machine": "...", "value": 3.1, "spread": 0.02, "steady": true}

A line a reading, only ever added; several searches may do so at once. A line that is no such object, cut off or
damaged, is passed over. Knows nothing of how anything is measured.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeGuard, final

from search.evaluator import Meter, Reading
from spaces import Architecture

FILE = "readings.jsonl"
LEAST, MOST = 1e-9, 1e15  # of a reading, in milliseconds, seconds or images a second
TRIES = 2  # of what is not steady: in the search that found it so, and in one later

Key = tuple[str, str, str]
"""Architecture id, setting, machine."""
_KEYS = ("architecture", "setting", "machine")


@final
class Readings:
    """A `Meter` that asks another one only for what is not known.

    Args:
        meter: measures all settings of an architecture at once.
        file: may not exist yet.
        settings: all that a reading depends on beside architecture and machine, in words, by the cost's name; costs
            of the same setting have the same readings.
        machine: tells, in words, on what `meter` measures now.
        say: is told, in a sentence, when readings cannot be kept.
    """

    def __init__(
        self,
        meter: Meter,
        file: Path,
        *,
        settings: Mapping[str, str],
        machine: Callable[[], str],
        say: Callable[[str], None] = lambda note: None,
    ):
        self._meter, self._file, self._settings, self._machine, self._say = meter, file, settings, machine, say
        self._known: dict[Key, tuple[Reading, int]] = {}  # and how often it was measured
        self._mine: set[Key] = set()
        self._read, self._keeps = 0, True

    def measure(self, architecture: Architecture) -> Mapping[str, Reading]:
        """By name, as of the meter; what is not steady is measured once more by a later search."""
        self._catch_up()
        keys = {name: (architecture.id, setting, self._machine()) for name, setting in self._settings.items()}
        if not all(map(self._settled, keys.values())):
            found = self._meter.measure(architecture)
            machine = self._machine()  # which has changed where the meter had to
            keys = {name: (id_, setting, machine) for name, (id_, setting, _) in keys.items()}
            for name, key in keys.items():
                if not self._settled(key):
                    self._mine.add(key)
                    self._keep(key, found[name])
        return {name: self._known[key][0] for name, key in keys.items()}

    def _settled(self, key: Key) -> bool:
        """Whether it is not to be measured."""
        if key not in self._known:
            return False
        reading, times = self._known[key]
        return reading.steady or times >= TRIES or key in self._mine

    def _add(self, key: Key, reading: Reading) -> None:
        """The first steady one counts, else the last of those with the smallest spread."""
        before, times = self._known.get(key, (reading, 0))
        better = not before.steady and (reading.steady or reading.spread <= before.spread)
        self._known[key] = (reading if better else before), times + 1

    def _keep(self, key: Key, reading: Reading) -> None:
        written: dict[str, object] = dict(zip(_KEYS, key, strict=True))
        written |= {"value": reading.value, "spread": reading.spread, "steady": reading.steady}
        with self._reported():
            _append(self._file, f"{json.dumps(written)}\n".encode())
        self._catch_up()
        if key not in self._known:  # the file did not take it
            self._add(key, reading)

    def _catch_up(self) -> None:
        """Takes in what was added to the file since the last time, here or elsewhere."""
        added = b""
        with self._reported(), suppress(FileNotFoundError), self._file.open("rb") as file:
            file.seek(self._read)
            added = file.read()
        whole = added[: added.rfind(b"\n") + 1]  # of the rest somebody is in the middle
        self._read += len(whole)
        for line in whole.split(b"\n"):
            if (entry := _entry(line)) is not None:
                self._add(*entry)

    @contextmanager
    def _reported(self) -> Iterator[None]:
        """A file that cannot be used ends no search."""
        try:
            yield
        except OSError as error:
            if self._keeps:
                self._say(f"measured costs are not kept for later searches: {self._file}: {error.strerror}")
            self._keeps = False


def _entry(line: bytes) -> tuple[Key, Reading] | None:
    """What a line says; None where it says nothing that can be."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, dict):
        return None
    architecture, setting, machine = (entry.get(name) for name in _KEYS)
    if not (isinstance(architecture, str) and isinstance(setting, str) and isinstance(machine, str)):
        return None
    value, spread, steady = entry.get("value"), entry.get("spread"), entry.get("steady")
    if not (_is_amount(value) and LEAST <= value <= MOST and _is_amount(spread) and isinstance(steady, bool)):
        return None
    return (architecture, setting, machine), Reading(value=float(value), spread=float(spread), steady=steady)


def _is_amount(given: object) -> TypeGuard[float]:
    if isinstance(given, bool) or not isinstance(given, int | float):
        return False
    return 0 <= given <= sys.float_info.max  # not nan


def _append(file: Path, line: bytes) -> None:
    """In one piece; on a line of its own, also where somebody was cut off before the end of his."""
    with file.open("a+b", buffering=0) as appended:
        end = appended.seek(0, os.SEEK_END)
        appended.seek(max(0, end - 1))
        torn = end > 0 and appended.read(1) != b"\n"
        appended.write(b"\n" * torn + line)
