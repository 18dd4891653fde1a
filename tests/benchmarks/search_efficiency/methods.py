"""One search of one method in simulated time: by name, what searches, up to where, and what is kept of it."""

import math
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

import spaces
from search.record import State
from search.study import studies
from search.study.warm_start import WarmStart, warm_start
from spaces import SearchSpace, SpaceFile
from spaces.schema import Search
from tests.benchmarks.replay import ACCURACY, COUNTED, OPERATIONS, RUNGS, Cells, Replay, coded, dimensions, read
from tests.benchmarks.search_efficiency.peers import PEERS, Elsewhere, PeerError, family
from tests.benchmarks.search_efficiency.stock import OPTUNA, Optuna, Oracle
from tests.benchmarks.simulation import MEMORY, Curve, End, Engine, Limits, Searcher, Simulation, Work, paid

SHARES = (0.90, 0.95, 0.98, 0.99)  # of the reachable hypervolume
ERROR = 30.0  # %: reference point of the hypervolume
COST = 99  # its percentile over all cells
FREE = " (repeats free)"
PATIENCE = 3  # times as many trainings as the budget has that a stock sampler may ask for, repeats too


@dataclass(frozen=True, kw_only=True)
class Ours:
    """A way to run our engine, with halving by the whole front."""

    sampler: str
    reduction: int


OURS, PRESENT = "ours", "tpe-halving"
SAMPLER = "ehvi"  # of `OURS`
HALVING = {f"halving-random-{reduction}": Ours(sampler="random", reduction=reduction) for reduction in (3, 8)}
ENGINES: Mapping[str, Ours] = {
    **HALVING,
    PRESENT: Ours(sampler="tpe", reduction=3),
    OURS: Ours(sampler=SAMPLER, reduction=3),
}
ORACLE = "oracle"
METHODS = (*OPTUNA, *ENGINES, ORACLE, *PEERS)
EARLIER = "earlier_accuracy"
_NAMES = {column: name for name, column in COUNTED.items()}


WAYS = ("first", "feature")


@dataclass(frozen=True)
class Earlier:
    """A search on another data set of the same table, all trained to the end, whose hours are not counted.

    Attributes:
        prefix: of the columns of its data set.
        way: of `WAYS`. `first`: as `search.start_from` does, the best quarter is proposed first; `feature`: what a
            Gaussian process makes of its accuracies is told of every cell, as a cost would be.
        trainings: full ones.
    """

    prefix: str
    way: str
    trainings: int


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is the same in all searches of a benchmark.

    Attributes:
        trainings: the budget, in mean full trainings.
        hours: the budget in simulated hours instead, if given.
        until: a search that has found this share of the hypervolume ends.
        limit_s: real seconds of one search.
        gp: trainings that GP may ask for.
        pythons: the interpreter of each family of peers.
        features: columns that ours is told of beside the cost; None for parameters and MACs, where they are.
        earlier: the search on another data set that ours begins from, if any.
    """

    table: Path
    prefix: str
    costs: tuple[str, ...]
    rungs: tuple[int, ...]
    trainings: int
    hours: float | None
    until: float
    limit_s: float
    gp: int
    pythons: Mapping[str, str]
    features: tuple[str, ...] | None = None
    earlier: Earlier | None = None

    @property
    def shares(self) -> list[float]:
        """Those that a search looks for."""
        return [share for share in SHARES if share <= self.until]

    def budget(self, replay: Replay, workers: int) -> float:
        """In simulated hours of each of the workers."""
        return self.hours or self.trainings * replay.mean_hours / workers

    def replay(self, cost: str, seed: int) -> Replay:
        cells = _read(self.table, self.prefix, self.costs, self.rungs, self.features or ())
        percentile = float(np.percentile([cell[cost] for cell in cells.values()], COST))
        reference = 100 - ERROR, percentile
        features = (
            COUNTED if self.features is None else {_NAMES.get(column, column): column for column in self.features}
        )
        run, prefix = seed % 2, self.prefix
        return Replay(cells=cells, prefix=prefix, cost=cost, run=run, reference=reference, features=features)


@cache
def _read(table: Path, prefix: str, costs: tuple[str, ...], rungs: tuple[int, ...], features: tuple[str, ...]) -> Cells:
    return read(table, prefix=prefix, costs=costs, rungs=rungs, features=features)


@dataclass(frozen=True, kw_only=True)
class Task:
    """One search."""

    cost: str
    workers: int
    method: str
    seed: int


def lacking(method: str, rungs: Sequence[int]) -> str:
    """Why a method cannot run, but for what is not installed; empty where it can."""
    if len(rungs) == 1 and method in (*PEERS, *HALVING):
        return f"needs rungs {RUNGS}"
    known = get_args(Search.model_fields["sampler"].annotation)
    if method in ENGINES and ENGINES[method].sampler not in known:
        return f"the schema knows no sampler {ENGINES[method].sampler}; it knows {', '.join(known)}"
    return ""


def seeds_of(method: str, seeds: int) -> range:
    """The oracle sees no noise and draws nothing."""
    return range(1 if method == ORACLE else seeds)


def simulate(task: Task, setting: Setting) -> list[dict[str, Any]]:
    """What is kept of a search, a row for each clock under which it is seen; nothing where a peer breaks down."""
    replay = setting.replay(task.cost, task.seed)
    if task.method not in OPTUNA:
        try:
            return [_one(task, setting, replay)]
        except PeerError as error:
            print(f"{task.method}, seed {task.seed}, {error}", flush=True)
            return []
    free = _one(task, setting, replay, repeats_free=True)
    if task.workers > 1:
        return [_one(task, setting, replay), free]
    return [_paid(free, setting, replay), free]


def _one(task: Task, setting: Setting, replay: Replay, *, repeats_free: bool = False) -> dict[str, Any]:
    began, stock = time.perf_counter(), task.method in OPTUNA
    hours, gp = setting.budget(replay, task.workers), task.method == "optuna-gp"
    trainings = setting.gp if gp else PATIENCE * setting.trainings if stock else float("inf")
    limits = Limits(hours=hours, share=setting.until, seconds=setting.limit_s, trainings=trainings)
    with _searcher(task, setting, replay) as searcher:
        simulation = Simulation(searcher, replay, workers=task.workers, repeats_free=repeats_free)
        end = simulation.run(limits)
    known = simulation.hours if end is End.CUT else hours
    row = _row(task.method + FREE * repeats_free, task, _found(simulation.curve, end, known, setting))
    row |= _counted(simulation.done) | {"seconds": round(time.perf_counter() - began, 2)}
    return {**row, "done": simulation.done} if task.workers == 1 and repeats_free else row


def _paid(free: dict[str, Any], setting: Setting, replay: Replay) -> dict[str, Any]:
    """The same search of one worker where repeats take their time; takes what was done out of the other row."""
    done, hours = free.pop("done"), setting.budget(replay, 1)
    curve, within, spent = paid(done, replay, hours=hours)
    end = End.SHARE if curve.share >= setting.until else End.BUDGET if spent > hours else End(free["end"])
    row = {**free, "method": free["method"].removesuffix(FREE), **_counted(done[:within])}
    return {**row, **_found(curve, end, spent if end is End.CUT else hours, setting)}


def _counted(done: Sequence[Work]) -> dict[str, Any]:
    repeats = len(done) - len({(work.code, work.fidelity) for work in done})
    return {"trainings": {str(rung): sum(work.fidelity == rung for work in done) for rung in RUNGS}, "repeats": repeats}


def _row(method: str, task: Task, found: Mapping[str, Any]) -> dict[str, Any]:
    named = {"method": method, "cost": task.cost, "workers": task.workers, "seed": task.seed}
    return {**named, **found}


def _found(curve: Curve, end: End, known: float, setting: Setting) -> dict[str, Any]:
    return {
        "end": end.value,
        "hours": round(known, 4),
        "hours_to": {f"{share:g}": curve.hours_to(share) for share in setting.shares},
        "final_hypervolume": curve.share,
        "gains": [[round(hours, 4), round(share, 5)] for hours, share in curve.gains],
    }


@contextmanager
def _searcher(task: Task, setting: Setting, replay: Replay) -> Iterator[Searcher]:
    if task.method in OPTUNA:
        yield Optuna(task.method, task.seed, replay)
    elif task.method == ORACLE:
        yield Oracle(replay)
    elif task.method in PEERS:
        python = setting.pythons[family(task.method)]
        with Elsewhere(task.method, task.seed, replay, python=python) as elsewhere:
            yield elsewhere
    else:
        file = space_of(ENGINES[task.method], task.seed, replay, setting.rungs)
        with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
            start = None
            if setting.earlier:
                replay, start = _begun(Path(folder) / "earlier", file, task, setting, setting.earlier, replay)
            point = replay.reference_point
            study = studies.begin(Path(folder) / "s", file, replay, reference_point=point, start=start)
            yield Engine(study, replay)
            study.close()


def _begun(
    folder: Path, file: SpaceFile, task: Task, setting: Setting, given: Earlier, now: Replay
) -> tuple[Replay, WarmStart | None]:
    """What ours sees, and what it begins from, after an earlier search by the same sampler."""
    before = replace(setting, prefix=given.prefix, rungs=RUNGS[-1:]).replay(task.cost, task.seed)
    searched = space_of(ENGINES[task.method], task.seed, before, RUNGS[-1:])
    study = studies.begin(
        folder, searched, before, reference_point=before.reference_point, data={"cells": given.prefix}
    )
    Simulation(Engine(study, before), before, workers=1).run(Limits(hours=math.inf, trainings=given.trainings))
    try:
        if given.way == "first":
            start = warm_start(study, SearchSpace(file), {"cells": setting.prefix})
            return now, replace(start, first=start.first[: given.trainings // 4])
        records = [record for record in study.records() if record.state is State.COMPLETE]
        told = _predicted(now.cells, {coded(r.architecture.choices): r.history[-1].values[ACCURACY] for r in records})
        cells = {code: {**cell, EARLIER: told[code]} for code, cell in now.cells.items()}
        return replace(now, cells=cells, features={**now.features, EARLIER: EARLIER}), None
    finally:
        study.close()


def _predicted(codes: Iterable[str], accuracies: Mapping[str, float]) -> dict[str, float]:
    """What a Gaussian process believes of all cells, from the accuracies of some, in %."""
    rows = {code: np.array([digit == str(kind) for digit in code for kind in range(len(OPERATIONS))]) for code in codes}
    kernel = ConstantKernel() * Matern(3.0, (1.0, 30.0), nu=2.5) + WhiteKernel(0.1)
    process = GaussianProcessRegressor(kernel, normalize_y=True)
    process.fit(np.array([rows[code] for code in accuracies], float), np.array([*accuracies.values()]))
    values = process.predict(np.array([*rows.values()], float))
    return dict(zip(rows, map(float, values), strict=True))


def space_of(ours: Ours, seed: int, replay: Replay, rungs: Sequence[int]) -> SpaceFile:
    return spaces.load(
        {
            "name": "search-efficiency",
            "dimensions": dimensions(replay.cells),
            "objectives": {ACCURACY: "maximize", replay.cost: "minimize"},
            "search": {
                "trials": len(replay.cells),
                "sampler": ours.sampler,
                "seed": seed,
                "scheduler": "auto" if len(rungs) > 1 else "none",
                "fidelity": {"rungs": list(rungs), "reduction": ours.reduction},
                "reference_point": replay.reference_point,
            },
        }
    )
