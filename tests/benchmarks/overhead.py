"""What a trial costs beside its training: ours against stock Tune with OptunaSearch, side by side; and a quick start.

    python -m tests.benchmarks.overhead [--trials 40] [--repetitions 5] [--cpus 2] [--json OUT]
    python -m tests.benchmarks.overhead --quickstart [--trials 30] [--json OUT]

Trials that do nothing but report one measurement, a core each, on one Ray cluster that is started before all. Every
row is run once a repetition, in turn; medians and the range of the repetitions. The sampler is TPE on 12 plain choices,
two objectives, no early stopping. Two figures a row, both in seconds a trial:

    whole      from the call that starts the search to its return: starting the first workers is in it
    at work    from the first report of a worker to the last, by the workers' clocks: without that

    ours                 search.workers.executor.execute, journal on disk; its worker always imports torch
    ours with MLflow     the same with MLflow's records on SQLite as in search.run (the store is made before)
    function             stock: tune.Tuner of a function, a process a trial
    reused class         stock: tune.Tuner of a Trainable with reuse_actors=True
    ... torch            the same where the worker imports torch

Stock rows keep Optuna's study in memory and have Tune's own logs, as Tune does it, but no checkpoints; ours store every
trial.

`--quickstart` runs spaces/catalog/quickstart.yaml as it is and says which share of the worker's time, between the first
start and the last end of a training, trainings were in progress: the sum of their seconds / (workers * span).
"""

import argparse
import importlib
import json
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune import CheckpointConfig, RunConfig, Trainable, TuneConfig, Tuner
from ray.tune.search.optuna import OptunaSearch

import spaces
from search.run import run
from search.study import studies
from search.tracking.keeper import Keeper
from search.tracking.mlflow import MlflowTracker
from search.workers.cluster import environment, silence
from search.workers.executor import execute
from search.workers.pools import Resources
from tests.benchmarks.instant import CHOICES, NAMES, REFERENCE, Instant, space_of
from tests.benchmarks.machine import circumstances

QUICKSTART = Path(spaces.__file__).parent / "catalog/quickstart.yaml"

Times = tuple[float, list[float]]  # seconds of the whole, and when a worker reported, in seconds since 1970


def ours(folder: Path, trials: int, seed: int, *, mlflow: bool) -> Times:
    file, evaluator = space_of(trials=trials, seed=seed, sampler="tpe", scheduler="none"), Instant()
    study = studies.begin(folder / "s", file, evaluator, reference_point=REFERENCE)
    if mlflow:
        tracker = MlflowTracker.of(folder)
        tracker.start(space=file.name, search="s", key=study.key, text="", params={"trials": trials})
        study.observers.append(Keeper(study, tracker))
    began = time.perf_counter()
    execute(study, evaluator, resources=Resources(cpus=1))
    whole = time.perf_counter() - began
    study.close()
    return whole, [measurement.time for record in study.records() for measurement in record.history]


def answer(config: Mapping[str, Any]) -> dict[str, Any]:
    if config["torch"]:
        importlib.import_module("torch")
    size = sum(config[name] for name in NAMES) / (len(NAMES) * CHOICES[-1])
    return {"accuracy": config["x00"] / CHOICES[-1], "macs": size, "at": time.time(), "done": True}


def function(config: dict[str, Any]) -> None:
    tune.report({name: value for name, value in answer(config).items() if name != "done"})


class ReusedClass(Trainable):  # type: ignore[misc]  # ray is not typed
    def setup(self, config: dict[str, Any]) -> None:
        self._config = config

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._config = new_config
        return True

    def step(self) -> dict[str, Any]:
        return answer(self._config)


def stock(folder: Path, trials: int, seed: int, *, trainable: Any, torch: bool, reuse: bool) -> Times:
    space = {name: tune.choice(list(CHOICES)) for name in NAMES}
    search = OptunaSearch(metric=["accuracy", "macs"], mode=["max", "min"], seed=seed)
    tuner = Tuner(
        tune.with_resources(trainable, {"cpu": 1}),
        param_space={**space, "torch": torch},
        tune_config=TuneConfig(search_alg=search, num_samples=trials, reuse_actors=reuse),
        run_config=RunConfig(
            name="stock",
            storage_path=str(folder),
            verbose=0,
            checkpoint_config=CheckpointConfig(checkpoint_at_end=False) if reuse else None,
        ),
    )
    began = time.perf_counter()
    results = tuner.fit()
    whole = time.perf_counter() - began
    assert results.num_errors == 0
    return whole, [result.metrics["at"] for result in results]


ROWS: Mapping[str, Callable[[Path, int, int], Times]] = {
    "ours": partial(ours, mlflow=False),
    "ours with MLflow": partial(ours, mlflow=True),
    "reused class": partial(stock, trainable=ReusedClass, torch=False, reuse=True),
    "reused class, torch": partial(stock, trainable=ReusedClass, torch=True, reuse=True),
    "function": partial(stock, trainable=function, torch=False, reuse=False),
    "function, torch": partial(stock, trainable=function, torch=True, reuse=False),
}


def side_by_side(given: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in given.rows}
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.CRITICAL}
    ray.init(address="local", num_cpus=given.cpus, **quiet)
    for repetition in range(given.repetitions):
        for name in given.rows:
            with tempfile.TemporaryDirectory() as folder, silence(), environment({"RAY_AIR_NEW_OUTPUT": "0"}):
                whole, at = ROWS[name](Path(folder), given.trials, repetition)
            assert len(at) == given.trials
            each = whole / given.trials, (max(at) - min(at)) / (given.trials - 1)
            found[name].append(each)
            print(f"{repetition} {name:20} whole {each[0]:.3f} s, at work {each[1]:.3f} s", flush=True)
    ray.shutdown()
    print(f"\nseconds a trial, medians (range) of {given.repetitions}")
    rows = []
    for name, pairs in found.items():
        whole, work = ([pair[place] for pair in pairs] for place in (0, 1))
        rows.append({"row": name, "whole_s": whole, "at_work_s": work})
        spread = [f"{statistics.median(each):.3f} ({min(each):.3f}-{max(each):.3f})" for each in (whole, work)]
        print(f"{name:20} whole {spread[0]}   at work {spread[1]}")
    return {"n": given.repetitions, "rows": rows}


def quickstart(given: argparse.Namespace) -> dict[str, Any]:
    """Real trainings; a core each."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        result = run(QUICKSTART, runs=folder, trials=given.trials)
        whole = time.perf_counter() - began
        records = studies.read(result.directory).records()
    trained = [record for record in records if record.history]
    starts = [record.history[0].time - record.history[0].device_s for record in trained]
    ends = [record.history[-1].time for record in trained]
    busy, span = sum(record.device_s for record in trained), max(ends) - min(starts)
    workers = os.cpu_count() or 1
    found = {
        "busy_share": busy / (workers * span),
        "busy_s": busy,
        "span_s": span,
        "workers": workers,
        "whole_s": whole,
        "counts": {state.value: count for state, count in result.counts.items() if count},
    }
    print(
        f"busy {found['busy_share']:.1%} of {workers} workers in {span:.0f} s; whole {whole:.0f} s; {found['counts']}"
    )
    return {"n": 1, **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quickstart", action="store_true")
    parser.add_argument("--trials", type=int, default=None, help="of a search; 40, or those of the quick start")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--cpus", type=int, default=2, help="workers of the rows")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if not given.quickstart and given.trials is None:
        given.trials = 40
    found = quickstart(given) if given.quickstart else side_by_side(given)
    if given.json:
        options = {name: value for name, value in vars(given).items() if name != "json"}
        seeds = list(range(given.repetitions))
        given.json.write_text(json.dumps({**circumstances(), **options, "seeds": seeds, **found}, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
