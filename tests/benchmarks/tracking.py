"""What MLflow costs: a real server, trials written by our tracker, and by one call a value as most loggers do it.

    python -m tests.benchmarks.tracking [--trials 500] [--metrics 20] [--rungs 1] [--seed 0] [--json OUT]

`mlflow server` with SQLite and local artifacts on a free port of this machine, which the writer shares with it. Both
write the same trials, in turns of 50, into experiments of their own: every trial is told at its start, at each rung and
at its end, as the driver of a search tells it; a metric is a curve of a value a rung. After that every value of every
metric is read back and compared.

    ours     search.tracking.mlflow.MlflowTracker: a thread sends, one call for all that a trial has new
    per call MlflowClient.create_run, log_param, set_tag, log_metric, set_terminated

Seconds to the last value being there; and of ours what the caller waits, in milliseconds a trial, and the worst call.
"""

import argparse
import dataclasses
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from mlflow import MlflowClient

from search.evaluator import Measurement
from search.pareto import Objectives
from search.record import State, TrialRecord, front_of
from search.report.labels import params_of
from search.report.story import Story
from search.tracking.mlflow import MlflowTracker
from search.tracking.tracker import tags_of
from spaces import Architecture
from tests.benchmarks.machine import circumstances
from tests.search.server import Server

OBJECTIVES = Objectives(directions={"accuracy": "maximize", "macs": "minimize"})
REFERENCE = {"accuracy": 0.0, "macs": 1e9}
TURN = 50  # trials of one, then of the other: what else the machine does meets both


def moments(number: int, given: argparse.Namespace) -> Iterator[TrialRecord]:
    """A trial as the driver tells it: begun, after each rung, ended."""
    draw = np.random.default_rng((given.seed, number))
    choices = {f"x{place:02}": int(draw.integers(4)) for place in range(12)}
    record = TrialRecord(
        number=number,
        architecture=Architecture(choices=choices),
        state=State.RUNNING,
        seed=number,
        costs={"macs": 1e6 + number},
        started=time.time(),
    )
    yield record
    for rung in range(1, given.rungs + 1):
        metrics = {f"m{place:02}": float(draw.random()) for place in range(given.metrics - 1)}
        values = {"accuracy": float(draw.random())}
        measured = Measurement(fidelity=rung, values=values, metrics=metrics, time=time.time())
        record = dataclasses.replace(record, history=(*record.history, measured))
        yield record
    final = {**record.history[-1].values, **record.costs}
    yield dataclasses.replace(record, state=State.COMPLETE, values=final, ended=time.time())


class Ours:
    def __init__(self, uri: str):
        self.tracker, self.waits, self.records = MlflowTracker(uri), list[float](), list[TrialRecord]()
        self.tracker.start(space="ours", search="ours", key="ours", text="", params={})

    def write(self, trials: list[list[TrialRecord]]) -> None:
        for told in trials:
            for record in told:
                self._timed(self.tracker.log, record)
            self.records.append(told[-1])
            front = front_of(self.records, OBJECTIVES, REFERENCE)
            self._timed(self.tracker.front, Story(name="ours", records=tuple(self.records), front=front))
        assert self.tracker.settle()

    def _timed(self, call: Any, given: Any) -> None:
        began = time.perf_counter()
        call(given)
        self.waits.append(time.perf_counter() - began)


class PerCall:
    def __init__(self, client: MlflowClient):
        self.client, self.experiment = client, client.create_experiment("per call")

    def write(self, trials: list[list[TrialRecord]]) -> None:
        for told in trials:
            run = self.client.create_run(self.experiment, run_name=f"trial {told[0].number}").info.run_id
            for name, value in params_of(told[0].architecture).items():
                self.client.log_param(run, name, value)
            for name, value in tags_of(told[-1]).items():
                self.client.set_tag(run, name, value)
            for name, value in told[-1].costs.items():
                self.client.log_metric(run, name, value, step=0)
            for measured in told[-1].history:
                for name, value in {**measured.metrics, **measured.values}.items():
                    self.client.log_metric(run, name, value, step=measured.fidelity)
            self.client.set_terminated(run)


def lost(client: MlflowClient, experiment: str, trials: list[list[TrialRecord]], role: str = "") -> int:
    """How many values are not there as they were given."""
    runs, token = [], None
    while True:
        page = client.search_runs([client.get_experiment_by_name(experiment).experiment_id], role, page_token=token)
        runs += page
        if not (token := page.token):
            break
    by_macs = {run.data.metrics["macs"]: run.info.run_id for run in runs if "macs" in run.data.metrics}
    missing = 0
    for last in (told[-1] for told in trials):
        run = by_macs.get(last.costs["macs"])
        curves: dict[str, dict[int, float]] = {}
        for measured in last.history:
            for name, value in {**measured.metrics, **measured.values}.items():
                curves.setdefault(name, {})[measured.fidelity] = value
        for name, curve in curves.items():
            held = {} if run is None else {m.step: m.value for m in client.get_metric_history(run, name)}
            missing += sum(held.get(step) != value for step, value in curve.items())
    return missing


def compared(given: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder))
        server.start()
        try:
            return _compared(given, server.uri)
        finally:
            server.stop()


def _compared(given: argparse.Namespace, uri: str) -> dict[str, Any]:
    ours = Ours(uri)
    client = MlflowClient(tracking_uri=uri)
    per_call = PerCall(client)
    trials = [list(moments(number, given)) for number in range(given.trials)]
    seconds = {"ours": 0.0, "per call": 0.0}
    for begin in range(0, given.trials, TURN):
        for name, writer in (("ours", ours), ("per call", per_call)):
            began = time.perf_counter()
            writer.write(trials[begin : begin + TURN])
            seconds[name] += time.perf_counter() - began
        print(f"{min(begin + TURN, given.trials)} trials: " + ", ".join(f"{n} {s:.1f} s" for n, s in seconds.items()))
    role = "tags.`archsearch.role` = 'trial'"
    found = {
        "seconds": seconds,
        "ratio": seconds["per call"] / seconds["ours"],
        "caller_ms_a_trial": 1000 * sum(ours.waits) / given.trials,
        "caller_ms_median_call": 1000 * statistics.median(ours.waits),
        "caller_ms_worst_call": 1000 * max(ours.waits),
        "values": given.trials * given.metrics * given.rungs,
        "lost": {"ours": lost(client, "ours", trials, role), "per call": lost(client, "per call", trials)},
    }
    print(json.dumps(found, indent=2))
    return {"n": 1, **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--metrics", type=int, default=20)
    parser.add_argument("--rungs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found = {
        **circumstances(),
        **{name: value for name, value in vars(given).items() if name != "json"},
        **compared(given),
    }
    print(found["versions"], found["cpu"])
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
