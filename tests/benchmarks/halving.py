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
import json
import math
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import spaces
from search.study import studies
from spaces import SpaceFile
from tests.benchmarks.machine import circumstances
from tests.benchmarks.replay import ACCURACY, RUNGS, TABLE, Cells, Replay, dimensions, read
from tests.benchmarks.simulation import MEMORY, Curve, End, Engine, Limits, Simulation, quartiles

DEVICES = ("1080ti_1", "fpga", "pixel2", "raspi4")
CHANCE = 10.0  # % of ten classes
SHARES = (0.95, 0.975, 0.99)  # of the best hypervolume
POINTS = 10  # in time, evenly spaced, at which the hypervolumes are compared
METHODS = ("random/none", "random/asha", "random/pareto", "nsga2/none", "nsga2/pareto", "tpe/none", "tpe/pareto")


@dataclass(frozen=True, kw_only=True)
class Method:
    sampler: str
    scheduler: str
    reduction: int

    def __str__(self) -> str:
        return f"{self.sampler}/{self.scheduler}" + ("" if self.scheduler == "none" else f"/{self.reduction}")


def replay_of(cells: Cells, latency: str, run: int) -> Replay:
    worst = max(cell[latency] for cell in cells.values())
    return Replay(cells=cells, prefix="c10", cost=latency, run=run, reference=(CHANCE, worst))


def space_of(method: Method, seed: int, replay: Replay) -> SpaceFile:
    full_only = method.scheduler == "none"
    return spaces.load(
        {
            "name": "nasbench201",
            "dimensions": dimensions(replay.cells),
            "objectives": {ACCURACY: "maximize", replay.cost: "minimize"},
            "search": {
                "trials": len(replay.cells),
                "sampler": method.sampler,
                "seed": seed,
                "scheduler": method.scheduler,
                "fidelity": {"rungs": list(RUNGS[1:] if full_only else RUNGS), "reduction": method.reduction},
                "reference_point": replay.reference_point,
            },
        }
    )


def share_at(curve: Curve, hours: float, known: float) -> float:
    """NaN beyond where it is known."""
    return curve.share_at(hours) if hours <= known else math.nan


def simulated(method: Method, seed: int, replay: Replay, given: argparse.Namespace) -> dict[str, Any]:
    file, began = space_of(method, seed, replay), time.perf_counter()
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        study = studies.begin(Path(folder) / "s", file, replay, reference_point=replay.reference_point)
        simulation = Simulation(Engine(study, replay), replay, workers=given.workers)
        end = simulation.run(Limits(hours=given.hours, share=SHARES[-1], seconds=given.limit_s))
        study.close()
        known = simulation.hours if end is End.CUT else given.hours
        return {
            "method": str(method),
            "seed": seed,
            "hours": known,
            "hours_to": {f"{share:g}": simulation.curve.hours_to(share) for share in SHARES},
            "share_at": [share_at(simulation.curve, given.hours * (n + 1) / POINTS, known) for n in range(POINTS)],
            "counts": {state.value: count for state, count in study.counts().items()},
            "seconds": time.perf_counter() - began,
        }


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
    latency, rows = f"lat_{given.device}", list[dict[str, Any]]()
    cells = read(TABLE, prefix="c10", costs=[latency])
    replays = [replay_of(cells, latency, run) for run in (0, 1)]
    for method in methods(given.methods, given.reductions):
        for seed in range(given.seeds):
            rows.append(simulated(method, seed, replays[seed % 2], given))
        lines = summary(rows)
        show(lines[-1], given.hours)
        if given.json:
            options = {name: value for name, value in vars(given).items() if name not in ("json", "methods")}
            fixed = {"rungs": RUNGS, "best": replays[0].best, "bound": replays[0].reference, **options}
            content = {**circumstances(), **fixed, "methods": lines, "simulations": rows}
            given.json.write_text(re.sub(r"\b(Infinity|NaN)\b", "null", json.dumps(content, indent=2)) + "\n")


if __name__ == "__main__":
    main()
