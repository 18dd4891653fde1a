"""How a driver bears 10,000 trials: memory, storage, time a suggestion, and what of the time is our own.

    python -m tests.benchmarks.scale [--stages random nsga2 tpe gp tune] [--trials 10000] [--at 1000 5000 10000]
                                     [--concurrent 32] [--limit-s 1800] [--profile 3000] [--json OUT]

A stage runs in a process of its own, with the journal on disk. Those named after a sampler drive the Study in that
process: `--concurrent` assignments in flight, each brought to its next rung in turn, by trainings that take no time.
`tune` does the same (random sampler) through Ray Tune, with so small a part of a core a trial that as many run at once.

16.8 million architectures of plain choices, two objectives, a constraint that one in 13 violates, two rungs, one in
three promoted. The driver's time is split by who spends it: `sampler` (Optuna's, and all that it asks of the storage),
`storage` (Optuna's journal), `optuna` (the rest of it) and `own` (ours). An exponent is that of the growth of the time
spent in all up to n trials, between the first n and the last; n log n is printed beside it. `--profile N` adds the
functions that took most of the time of N trials (random sampler), by cProfile.
"""

import argparse
import cProfile
import functools
import json
import math
import multiprocessing
import os
import pstats
import resource
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage

from search.evaluator import Measurement
from search.samplers.seeded import Seeded
from search.study import studies
from search.study.study import Study
from search.study.work import Assignment
from search.workers.executor import execute
from search.workers.pools import Resources
from spaces import SpaceFile
from tests.benchmarks.instant import REFERENCE, Instant, space_of
from tests.benchmarks.machine import circumstances

SAMPLERS = ("random", "nsga2", "tpe", "gp")
TUNE = "tune"
RUNGS, REDUCTION = (1, 3), 3
HEAVIEST = 23 / 36  # of all choices at their largest; the sum of 12 even choices of 4 is above it in one of thirteen
LAST = 200  # suggestions of which the median is reported
HOTTEST = 25  # functions of the profile
PARTS = ("sampler", "storage", "optuna", "own")


class Stopwatch:
    """Where the time of one thread goes: a moment counts for the innermost of what is watched, or for the sampler."""

    def __init__(self) -> None:
        self.seconds = Counter[str]()
        self._inside: list[str] = []
        self._since, self._thread = 0.0, threading.get_ident()

    def watch(self, owner: type, names: tuple[str, ...], part: str) -> None:
        """Replaces methods of a class, for good."""
        for name in names:
            setattr(owner, name, self._watched(getattr(owner, name), part))

    def _watched(self, method: Callable[..., Any], part: str) -> Callable[..., Any]:
        @functools.wraps(method)
        def watched(*args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() != self._thread:
                return method(*args, **kwargs)
            self._switch()
            self._inside.append("sampler" if self._inside[-1:] == ["sampler"] else part)
            try:
                return method(*args, **kwargs)
            finally:
                self._switch()
                self._inside.pop()

        return watched

    def _switch(self) -> None:
        now = time.perf_counter()
        if self._inside:
            self.seconds[self._inside[-1]] += now - self._since
        self._since = now


class Marks:
    """What is known whenever so many trials have been proposed."""

    def __init__(self, at: list[int]):
        self.ahead, self.watch = deque(sorted(at)), Stopwatch()
        self._suggestions: deque[float] = deque(maxlen=LAST)
        self.found: list[dict[str, Any]] = []
        samplers = ("infer_relative_search_space", "sample_relative", "sample_independent", "before_trial")
        self.watch.watch(Seeded, (*samplers, "after_trial"), "sampler")
        public = tuple(name for name, method in vars(JournalStorage).items() if name[0] != "_" and callable(method))
        self.watch.watch(JournalStorage, public, "storage")
        self.watch.watch(optuna.Study, ("ask", "tell", "get_trials", "enqueue_trial"), "optuna")
        self.watch.watch(optuna.Trial, ("suggest_categorical", "set_user_attr", "set_constraint"), "optuna")
        self.watch.watch(Study, ("next", "report", "give_back", "fail"), "own")
        Study.next = self._timed(Study.next)  # type: ignore[method-assign]

    def _timed(self, following: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(following)
        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            work = following(*args, **kwargs)
            if isinstance(work, Assignment):
                self._suggestions.append(time.perf_counter() - began)
                while self.ahead and work.number + 1 >= self.ahead[0]:
                    self.mark(self.ahead.popleft())
            return work

        return timed

    def mark(self, trials: int) -> None:
        self.found.append(
            {
                "trials": trials,
                "suggestion_ms": 1e3 * statistics.median(self._suggestions or [math.nan]),
                "seconds": {part: self.watch.seconds[part] for part in PARTS},
                "rss_mib": rss_mib(),
            }
        )


def rss_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _space(sampler: str, trials: int) -> SpaceFile:
    fidelity = {"rungs": list(RUNGS), "reduction": REDUCTION}
    return space_of(constraints={"macs": {"max": HEAVIEST}}, trials=trials, sampler=sampler, fidelity=fidelity)


def drive(study: Study, evaluator: Instant, *, concurrent: int, deadline: float) -> None:
    """So many in flight; the one that has waited longest is the next to reach a rung."""
    flight: deque[tuple[Assignment, int]] = deque()
    while time.monotonic() < deadline:
        while len(flight) < concurrent and isinstance(work := study.next(), Assignment):
            flight.append((work, 0))
        if not flight:
            return
        work, reached = flight.popleft()
        rung = work.rungs[reached]
        values = {"accuracy": evaluator.accuracy(work.architecture, rung)}
        if study.report(work.number, Measurement(fidelity=rung, values=values)):
            flight.append((work, reached + 1))


def stage(name: str, trials: int, at: list[int], concurrent: int, limit_s: float) -> dict[str, Any]:
    """In a process of its own: nothing of it is undone."""
    marks, evaluator = Marks(at), Instant()
    file = _space("random" if name == TUNE else name, trials)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "s"
        study = studies.begin(place, file, evaluator, reference_point=REFERENCE)
        before, began = rss_mib(), time.monotonic()
        if name == TUNE:
            timer = threading.Timer(limit_s, os.kill, (os.getpid(), signal.SIGINT))
            timer.start()
            execute(study, evaluator, resources=Resources(cpus=(os.cpu_count() or 1) / concurrent))
            timer.cancel()
        else:
            drive(study, evaluator, concurrent=concurrent, deadline=began + limit_s)
        seconds = time.monotonic() - began
        if marks.ahead:  # time was up
            marks.mark(len(study.records()))
        study.close()
        size = (place / studies.JOURNAL).stat().st_size
        reloading = time.monotonic()
        again = studies.resume(place, file, evaluator)
        again.close()
        return {
            "stage": name,
            "seconds": seconds,
            "rss_before_mib": before,
            "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "journal_mib": size / 2**20,
            "reload_s": time.monotonic() - reloading,
            "counts": {state.value: count for state, count in again.counts().items()},
            "marks": marks.found,
            "growth": growth(marks.found),
        }


def growth(marks: list[dict[str, Any]]) -> dict[str, float]:
    """Exponents between the first mark and the last, of all but the sampler's time and of our own."""
    first, last = marks[0], marks[-1]
    if first["trials"] == last["trials"]:
        return {}
    ratio = math.log(last["trials"] / first["trials"])
    found = {"n log n": 1 + math.log(math.log(last["trials"]) / math.log(first["trials"])) / ratio}
    for label, parts in (("all but the sampler", PARTS[1:]), ("own", PARTS[-1:])):
        spent = [sum(mark["seconds"][part] for part in parts) for mark in (first, last)]
        found[label] = math.log(spent[1] / spent[0]) / ratio
    return found


def profile(trials: int, concurrent: int) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        study = studies.begin(Path(folder) / "s", _space("random", trials), Instant(), reference_point=REFERENCE)
        profiler = cProfile.Profile()
        profiler.runcall(drive, study, Instant(), concurrent=concurrent, deadline=math.inf)
        study.close()
    statistic = pstats.Stats(profiler).stats  # type: ignore[attr-defined]  # not in the type stubs
    rows = [
        {"function": f"{file}:{line} {name}", "calls": calls, "own_s": own, "with_callees_s": whole}
        for (file, line, name), (_, calls, own, whole, _) in statistic.items()
    ]
    own = sorted(rows, key=lambda row: -row["own_s"])[:HOTTEST]
    ours = [row for row in rows if "/search/" in row["function"] or "/spaces/" in row["function"]]
    return own + sorted(ours, key=lambda row: -row["with_callees_s"])[:HOTTEST]


def show(found: Mapping[str, Any]) -> None:
    counts = ", ".join(f"{count} {state}" for state, count in found["counts"].items() if count)
    print(
        f"{found['stage']}: {found['seconds']:.0f} s, memory {found['rss_before_mib']:.0f} to "
        f"{found['peak_rss_mib']:.0f} MiB, journal {found['journal_mib']:.1f} MiB, reload {found['reload_s']:.1f} s; "
        f"{counts}"
    )
    for mark in found["marks"]:
        spent = "  ".join(f"{part} {mark['seconds'][part]:8.2f} s" for part in PARTS)
        row = f"{mark['trials']:6} trials  {mark['suggestion_ms']:8.2f} ms each  {mark['rss_mib']:6.0f} MiB"
        print(f"  {row}  {spent}")
    print(
        "  growth: " + ", ".join(f"{label} {exponent:.2f}" for label, exponent in found["growth"].items()), flush=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", nargs="+", choices=[*SAMPLERS, TUNE], default=[*SAMPLERS, TUNE])
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--at", nargs="+", type=int, default=[1_000, 5_000, 10_000])
    parser.add_argument("--concurrent", type=int, default=32)
    parser.add_argument("--limit-s", type=float, default=1800.0, help="real seconds of a stage")
    parser.add_argument("--profile", type=int, default=0, metavar="TRIALS")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    options = {name: value for name, value in vars(given).items() if name != "json"}
    content: dict[str, Any] = {**circumstances(), **options, "seed": 0, "n": 1, "stages": []}
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        for name in given.stages:
            task = pool.submit(stage, name, given.trials, given.at, given.concurrent, given.limit_s)
            content["stages"].append(task.result())
            show(task.result())
        if given.profile:
            content["profile"] = pool.submit(profile, given.profile, given.concurrent).result()
            for row in content["profile"]:
                print(f"{row['own_s']:8.2f} s {row['with_callees_s']:8.2f} s {row['calls']:9}  {row['function']}")
    if given.json:
        given.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
