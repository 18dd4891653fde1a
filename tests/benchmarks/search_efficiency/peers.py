"""Other systems on the same table: Syne Tune and NePS, each in a process of its own and in an environment that has it.

They need other versions of numpy and pandas than we do, and are no dependency of the project.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.benchmarks.replay import RUNGS, Replay, coded, dimensions
from tests.benchmarks.search_efficiency.peer_process import PACKAGES
from tests.benchmarks.simulation import Work

PROGRAM = Path(__file__).with_name("peer_process.py")
MODULES = {"syne-tune": "syne_tune", "neps": "neps"}  # what to import, by the beginning of the methods' names
PEERS = ("syne-tune-moasha", "syne-tune-moasha-ranked", "neps-moasha", "neps-mohyperband", "neps-primo")


def family(method: str) -> str:
    return next(family for family in MODULES if method.startswith(family))


def interpreters(methods: Sequence[str], candidates: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """The first interpreter that has what each family needs; and why a family cannot run, where none has."""
    found, lacking = {}, {}
    for name in dict.fromkeys(map(family, methods)):
        able = [python for python in (sys.executable, *candidates) if _imports(python, MODULES[name])]
        if able:
            found[name] = able[0]
        else:
            lacking[name] = (
                f"needs an environment with `pip install {PACKAGES[name]}`; name its interpreter with --python"
            )
    return found, lacking


def _imports(python: str, module: str) -> bool:
    script = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    return subprocess.run([python, "-c", script], capture_output=True, check=False).returncode == 0


class PeerError(Exception):
    """Another system has ended; the message is the last that it said."""


class Elsewhere:
    """A search by another system. Use as a context; its process ends with it."""

    def __init__(self, method: str, seed: int, replay: Replay, *, python: str):
        self._replay = replay
        given = {"method": method, "seed": seed, "choices": dimensions(replay.cells), "rungs": RUNGS}
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed at the end of the context
        self._process = subprocess.Popen(
            [python, str(PROGRAM), json.dumps(given)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
        )
        self.version = self._line()["version"]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()
        self._said.close()

    def next(self) -> Work | None:
        work = self._say({"ask": True})
        return Work(number=work["number"], code=coded(work["chosen"]), fidelity=work["fidelity"])

    def report(self, work: Work, hours: float) -> Work | None:
        error = 100 - self._replay.seen(work.code, work.fidelity)
        cost = self._replay.cells[work.code][self._replay.cost]
        told = {"number": work.number, "fidelity": work.fidelity, "error": error, "cost": cost}
        if self._say(told)["goes_on"]:
            return Work(number=work.number, code=work.code, fidelity=RUNGS[-1])
        return None

    def _say(self, told: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # then it has no answer either
            self._process.stdin.write(json.dumps(told) + "\n")
            self._process.stdin.flush()
        return self._line()

    def _line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            self._said.seek(0)
            raise PeerError(f"ended with exit code {code}: {''.join(self._said.readlines()[-1:]).strip()}")
        answer: dict[str, Any] = json.loads(line)
        return answer
