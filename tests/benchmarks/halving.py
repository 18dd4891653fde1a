"""Replay of NAS-Bench-201: simulated hours until a front is nearly as good as the best there is, by method.

    python -m tests.benchmarks.halving [--methods random/none random/pareto ...] [--reductions 3 ...] [--seeds 10]
                                       [--workers 8] [--hours 40] [--device 1080ti_1] [--json OUT]

A method is a sampler and a scheduler; those that stop early run once a reduction. The product is the Study; the
driver is a simulation that hands its work to `--workers` and reports in the order in which trainings would end. GP is
slow and left out unless asked for: `--methods random/none gp/none gp/pareto --seeds 3 --hours 8`.

Objectives: validation accuracy in % (up) against the measured latency of a device (down). Rungs are 12 and 200
epochs. At 12 a trial sees the accuracy of a separate training of 12 epochs, for 12/200 of the time of a full one; at
200 that of one run of 200 (`c10_val_seed0` or `1`, in turn by seed; seed 2 has gaps), for the time of a full one,
also where it was promoted. What is measured here, not by the search, is the hypervolume of the true accuracies
(`c10_val_200ep`, means of the runs) of the complete trials, up to 10 % and the largest latency, as a share of that
of all 15,625 cells. A search that has not reached a share within `--hours` counts as infinitely late (null in JSON);
one that has reached the last share ends there.

Seeds are paired: the sampler's seed and the noise are the same in every method; `sooner` counts the seeds in which a
method reached a share before the first method did. Needs the table of ../shared.
"""

import argparse
import csv
import gzip
import heapq
import json
import math
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import spaces
from search.evaluator import Measurement
from search.pareto import hypervolume
from search.study import studies
from search.study.study import Study
from search.study.work import Assignment, carry_out
from spaces import Architecture, SpaceFile
from tests.benchmarks.machine import SHARED, circumstances
from tests.search.plain import checkpoint

TABLE = SHARED / "bench/nasbench201_cifar10.csv.gz"
DEVICES = ("1080ti_1", "fpga", "pixel2", "raspi4")
CHANCE = 10.0  # % of ten classes
RUNGS = (12, 200)
SHARES = (0.95, 0.975, 0.99)  # of the best hypervolume
POINTS = 10  # in time, evenly spaced, at which the hypervolumes are compared
MEMORY = Path("/dev/shm")  # storage that costs no time; elsewhere it goes to disk
METHODS = ("random/none", "random/asha", "random/pareto", "nsga2/none", "nsga2/pareto", "tpe/none", "tpe/pareto")

Cell = Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Method:
    sampler: str
    scheduler: str
    reduction: int

    def __str__(self) -> str:
        return f"{self.sampler}/{self.scheduler}" + ("" if self.scheduler == "none" else f"/{self.reduction}")


@dataclass(frozen=True, kw_only=True)
class Replay:
    """What the table says of a cell, for one draw of the noise.

    Attributes:
        device: of the latency, in ms.
        run: which of the full trainings is seen.
    """

    cells: Mapping[str, Cell]
    device: str
    run: int

    def cell(self, architecture: Architecture) -> Cell:
        return self.cells["".join(str(choice) for _, choice in sorted(architecture.choices.items()))]

    def costs(self, architecture: Architecture) -> Mapping[str, float]:
        return {"latency": float(self.cell(architecture)[f"lat_{self.device}"])}

    def evaluate(self, architecture: Architecture, fidelity: int, seed: int, checkpoint: Path) -> Iterator[Measurement]:
        cell = self.cell(architecture)
        seen = cell["c10_val_12ep" if fidelity == RUNGS[0] else f"c10_val_seed{self.run}"]
        hours = float(cell["c10_train_time_s"]) / 3600 * fidelity / RUNGS[-1]
        yield Measurement(fidelity=fidelity, values={"accuracy": float(seen)}, metrics={"hours": hours})

    def truth(self, cell: Cell) -> tuple[float, float]:
        """To be minimised."""
        return -float(cell["c10_val_200ep"]), float(cell[f"lat_{self.device}"])

    @cached_property
    def bound(self) -> tuple[float, float]:
        """Of the hypervolume, to be minimised."""
        return -CHANCE, max(latency for _, latency in map(self.truth, self.cells.values()))

    @cached_property
    def best(self) -> float:
        """The hypervolume of all cells."""
        return hypervolume([self.truth(cell) for cell in self.cells.values()], self.bound)


def table() -> dict[str, Cell]:
    with gzip.open(TABLE, "rt", newline="") as file:
        return {row["code"]: row for row in csv.DictReader(file)}


def space_of(method: Method, seed: int, worst: float) -> SpaceFile:
    full_only = method.scheduler == "none"
    return spaces.load(
        {
            "name": "nasbench201",
            "dimensions": {f"edge{place}": list(range(5)) for place in range(6)},
            "objectives": {"accuracy": "maximize", "latency": "minimize"},
            "search": {
                "trials": 5**6,
                "sampler": method.sampler,
                "seed": seed,
                "scheduler": method.scheduler,
                "fidelity": {"rungs": list(RUNGS[1:] if full_only else RUNGS), "reduction": method.reduction},
                "reference_point": {"accuracy": CHANCE, "latency": worst},
            },
        }
    )


@dataclass(frozen=True, kw_only=True, order=True)
class Event:
    """A training reaches a rung."""

    hours: float
    number: int
    architecture: Architecture = field(compare=False)
    training: Iterator[Measurement] = field(compare=False)
    measurement: Measurement = field(compare=False)


class Simulation:
    """One search in simulated time.

    Attributes:
        gains: (hours, share of the best hypervolume) at each complete trial that added to it, in order.
        hours: up to when its share can be told; a simulation that has reached the last share goes no further.
    """

    def __init__(self, study: Study, replay: Replay):
        self._study, self._replay = study, replay
        self._ahead: list[Event] = []
        self._points: list[tuple[float, float]] = []
        self.gains: list[tuple[float, float]] = [(0.0, 0.0)]
        self.hours = 0.0

    def run(self, *, workers: int, hours: float, limit_s: float) -> None:
        """Until so many hours have passed, all shares are reached, or so many real seconds are over."""
        deadline = time.monotonic() + limit_s
        self._begin(workers)
        while self._ahead and self._ahead[0].hours <= hours and self.gains[-1][1] < SHARES[-1]:
            if time.monotonic() > deadline:
                return
            event = heapq.heappop(self._ahead)
            self.hours = event.hours
            if self._study.report(event.number, event.measurement):
                self._step(event.number, event.architecture, event.training)
            elif event.measurement.fidelity == RUNGS[-1]:
                self._complete(event.architecture)
            self._begin(workers)
        self.hours = hours

    def _begin(self, workers: int) -> None:
        """Workers without work ask for it."""
        while len(self._ahead) < workers and isinstance(work := self._study.next(), Assignment):
            training = carry_out(self._replay, work, checkpoint(self._study, work.number))
            self._step(work.number, work.architecture, training)

    def _step(self, number: int, architecture: Architecture, training: Iterator[Measurement]) -> None:
        """Looks up what the training will have reached at the next rung, and when."""
        measurement = next(training)
        at = self.hours + measurement.metrics["hours"]
        event = Event(hours=at, number=number, architecture=architecture, training=training, measurement=measurement)
        heapq.heappush(self._ahead, event)

    def _complete(self, architecture: Architecture) -> None:
        self._points.append(self._replay.truth(self._replay.cell(architecture)))
        found = hypervolume(self._points, self._replay.bound) / self._replay.best
        if found > self.gains[-1][1]:
            self.gains.append((self.hours, found))

    def hours_to(self, share: float) -> float:
        """Infinite where it has not come so far."""
        return next((hours for hours, found in self.gains if found >= share), math.inf)

    def share_at(self, hours: float) -> float:
        """NaN beyond where it came."""
        return max(found for at, found in self.gains if at <= hours) if hours <= self.hours else math.nan


def simulated(method: Method, seed: int, replay: Replay, given: argparse.Namespace) -> dict[str, Any]:
    file, began = space_of(method, seed, replay.bound[1]), time.perf_counter()
    assert file.search.reference_point is not None
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        study = studies.begin(Path(folder) / "s", file, replay, reference_point=file.search.reference_point)
        simulation = Simulation(study, replay)
        simulation.run(workers=given.workers, hours=given.hours, limit_s=given.limit_s)
        study.close()
        return {
            "method": str(method),
            "seed": seed,
            "hours": simulation.hours,
            "hours_to": {f"{share:g}": simulation.hours_to(share) for share in SHARES},
            "share_at": [simulation.share_at(given.hours * (place + 1) / POINTS) for place in range(POINTS)],
            "counts": {state.value: count for state, count in study.counts().items()},
            "seconds": time.perf_counter() - began,
        }


def quartiles(values: Sequence[float]) -> list[float]:
    """25, 50 and 75 %, each one of the values, so that infinity can be among them."""
    ordered = sorted(values)
    return [ordered[min(len(ordered) - 1, int(len(ordered) * part))] for part in (0.25, 0.5, 0.75)]


def methods(names: Sequence[str], reductions: Sequence[int]) -> list[Method]:
    return [
        Method(sampler=sampler, scheduler=scheduler, reduction=reduction)
        for sampler, scheduler in (name.split("/") for name in names)
        for reduction in (reductions[:1] if scheduler == "none" else reductions)
    ]


def summary(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A line a method, in the order of their simulations; the first is what the others are compared with."""
    baseline = {row["seed"]: row["hours_to"] for row in rows if row["method"] == rows[0]["method"]}
    return [
        line([row for row in rows if row["method"] == method], baseline)
        for method in dict.fromkeys(row["method"] for row in rows)
    ]


def line(rows: Sequence[Mapping[str, Any]], baseline: Mapping[int, Mapping[str, float]]) -> dict[str, Any]:
    """The searches of one method together."""
    shares = list(rows[0]["hours_to"])
    return {
        "method": rows[0]["method"],
        "n": len(rows),
        "hours_to": {share: quartiles([row["hours_to"][share] for row in rows]) for share in shares},
        "sooner": {
            share: sum(row["hours_to"][share] < baseline[row["seed"]][share] for row in rows) for share in shares
        },
        "share_at": [quartiles(each) for each in zip(*(row["share_at"] for row in rows), strict=True)],
        "counts": {state: statistics.median(row["counts"][state] for row in rows) for state in rows[0]["counts"]},
        "seconds": statistics.median(row["seconds"] for row in rows),
    }


def show(line: Mapping[str, Any], hours: float) -> None:
    reached = "  ".join(
        f"{float(share):.1%}: {middle:5.1f} h ({low:.1f}-{high:.1f}, sooner in {line['sooner'][share]})"
        for share, (low, middle, high) in line["hours_to"].items()
    )
    middles = [middle for _, middle, _ in line["share_at"]]
    shares = f"at {hours / 2:g} h {middles[POINTS // 2 - 1]:.2%}, at {hours:g} h {middles[-1]:.2%}"
    print(f"{line['method']:16} n={line['n']}  {reached}  {shares}  ({line['seconds']:.0f} s each)", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--reductions", nargs="+", type=int, default=[3])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--hours", type=float, default=40.0)
    parser.add_argument("--device", choices=DEVICES, default="1080ti_1")
    parser.add_argument("--limit-s", type=float, default=math.inf, help="real seconds of one simulation")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if not TABLE.exists():
        sys.exit(f"needs {TABLE}")
    cells, rows = table(), list[dict[str, Any]]()
    replays = [Replay(cells=cells, device=given.device, run=run) for run in (0, 1)]
    for method in methods(given.methods, given.reductions):
        for seed in range(given.seeds):
            rows.append(simulated(method, seed, replays[seed % 2], given))
        lines = summary(rows)
        show(lines[-1], given.hours)
        if given.json:
            options = {name: value for name, value in vars(given).items() if name not in ("json", "methods")}
            fixed = {"rungs": RUNGS, "best": replays[0].best, "bound": replays[0].bound, **options}
            content = {**circumstances(), **fixed, "methods": lines, "simulations": rows}
            given.json.write_text(re.sub(r"\b(Infinity|NaN)\b", "null", json.dumps(content, indent=2)) + "\n")


if __name__ == "__main__":
    main()
