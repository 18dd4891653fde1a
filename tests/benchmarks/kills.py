"""Searches whose driver is killed at random moments (kill -9), and started again: nothing lost, nothing twice.

    python -m tests.benchmarks.kills [--kills 50] [--trials 60] [--seed N] [--address HOST:PORT] [--json OUT]

Each round starts `python -m tests.search.plain` on the same search, on two workers, and kills it: one in four rounds
within the time that it takes to get to work, the others some measurements and up to a second later. A search that comes
to its end before all kills are spent is checked, and followed by another; the last is left to come to its end. After
each kill all that has ended is written down; at the end it must be the same to the last epoch, and the search exact:
`assert_exact` of tests/search/drivers.py. With `--address` the drivers share a Ray cluster that outlives them, on this
machine; else each starts its own.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from search.study import studies
from tests.benchmarks.machine import circumstances
from tests.search.drivers import Driver, assert_exact, ended

FRESH_S = 10.0  # about the time from the start of a driver to its first measurement
NEWS = 6  # measurements, at most, that a driver lives to see, and then up to a second


class Search:
    """One search, by as many drivers as it takes."""

    def __init__(self, directory: Path, options: dict[str, Any]):
        self._directory, self._options = directory, options
        self._before: dict[int, Any] = {}
        self.over = False

    def killed_at(self, moments: random.Random) -> dict[str, Any]:
        """A driver lives for a while; says how it ended, and when."""
        driver, began = Driver(self._directory, **self._options), time.monotonic()
        early, news = moments.random() < 0.25, driver.measured + moments.randint(1, NEWS)
        wait = moments.random() * (FRESH_S if early else 1.0)
        while driver.process.poll() is None and (early or driver.measured < news) and time.monotonic() < began + 120:
            if early and time.monotonic() > began + wait:
                break
            time.sleep(0.02)
        time.sleep(0.0 if early else wait)
        if driver.process.poll() is not None:
            self.check(driver)
            return {"killed": False}
        driver.kill()
        return {"killed": True, "after_s": time.monotonic() - began, "early": early, **self._write_down()}

    def _write_down(self) -> dict[str, Any]:
        if not studies.exists(self._directory):
            return {"begun": False}
        self._before |= ended(self._directory)
        counts = {state.value: count for state, count in studies.read(self._directory).counts().items() if count}
        return {"begun": True, "counts": counts}

    def check(self, driver: Driver) -> None:
        """
        Raises:
            AssertionError: the driver, the last, did not end as it should, or the search is not what it has to be.
        """
        output = driver.end()
        assert output == "begun\nbudget\n", output
        assert_exact(studies.read(self._directory), self._options["trials"], gaps=True)
        after = ended(self._directory)
        assert {number: after[number] for number in self._before} == self._before
        self.over = True

    def finish(self) -> None:
        if not self.over:
            self.check(Driver(self._directory, **self._options))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--trials", type=int, default=60, help="of each search")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--sampler", default="tpe")
    parser.add_argument("--address")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    options = {"trials": given.trials, "sampler": given.sampler, "epoch_s": 0.05, "cpus": 1, "address": given.address}
    moments, kills, searches = random.Random(given.seed), list[dict[str, Any]](), 0
    print(f"seed {given.seed}")
    with tempfile.TemporaryDirectory() as folder:
        while len(kills) < given.kills:
            searches += 1
            search = Search(Path(folder) / f"s{searches}", options)
            while not search.over and len(kills) < given.kills:
                kill = search.killed_at(moments)
                if kill.pop("killed"):
                    kills.append({"search": searches, **kill})
                    print(f"{len(kills):3} {json.dumps(kills[-1])}", flush=True)
            search.finish()
    kinds = Counter("early" if kill["early"] else "at work" for kill in kills)
    print(f"{len(kills)} kills ({dict(kinds)}) in {searches} searches of {given.trials} trials: all exact")
    if given.json:
        content = {
            **circumstances(),
            **options,
            "seed": given.seed,
            "searches": searches,
            "exact": True,
            "kills": kills,
        }
        given.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
