"""Trials to log, and an open look into a local MLflow store: for the tests of tracking."""

import sqlite3
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import torch
from mlflow import MlflowClient
from mlflow.entities import Run
from torch import nn

from search.confirmation.record import Confirmation
from search.data.preprocessing import Preprocessing
from search.evaluator import Measurement
from search.model import Model, write_model
from search.pareto import Objectives
from search.record import State, TrialRecord, front_of
from search.report.story import Story
from search.tracking.mlflow import MlflowTracker
from spaces import Architecture, build

OBJECTIVES = Objectives(directions={"accuracy": "maximize", "macs": "minimize"})
WORST = {"accuracy": 0.1, "macs": 1e9}
BEGIN = 1.7e9  # seconds since 1970


def architecture(number: int) -> Architecture:
    width, scaling = (0.25, 0.5, 1.0)[number % 3], ("none", "rezero", "layerscale")[number // 3 % 3]
    return Architecture(backbone="resnet10t", choices={"width": width, "scaling": scaling})


def record(number: int, state: State = State.COMPLETE, epochs: int = 9) -> TrialRecord:
    """A trial with a curve over `epochs`, rungs at 3 and 9; the higher its number, the better and the dearer."""
    trained = state not in (State.INFEASIBLE, State.DUPLICATE)
    costs = {"macs": 1e6 * (number + 1), "params": 1e5}
    began, rungs = BEGIN + 100 * number, (3, 9, epochs if state is State.COMPLETE else 9)
    history = [
        Measurement(
            fidelity=epoch,
            values={"accuracy": 0.5 + number / 100 + epoch / 1000} if epoch in rungs else {},
            metrics={"train_loss": 1 / epoch, "lr": 0.001},
            time=began + epoch,
        )
        for epoch in range(1, epochs * trained + 1)
    ]
    return TrialRecord(
        number=number,
        architecture=architecture(number),
        state=state,
        reason={State.FAILED: "out of memory", State.INFEASIBLE: "params 4e6 > 3e6"}.get(state, ""),
        seed=number,
        costs=costs,
        history=tuple(history),
        values={"accuracy": history[-1].values["accuracy"], **costs} if state is State.COMPLETE else {},
        duplicate_of=0 if state is State.DUPLICATE else None,
        started=began,
        ended=None if state.open else began + 50,
    )


@cache
def empty_store() -> bytes:
    """A local store with nothing in it; MLflow takes seconds to make one."""
    with tempfile.TemporaryDirectory() as folder:
        MlflowClient(f"sqlite:///{folder}/mlflow.db").search_experiments()
        return (Path(folder) / "mlflow.db").read_bytes()


def start(tracker: MlflowTracker, *, key: str = "k1", trials: int = 16) -> str:
    params = {"seed": 0, "trials": trials, "train": {"lr": 1e-3}}
    return tracker.start(space="digits", search="digits-2", key=key, text="name: digits\n", params=params)


def open_tracker(runs: Path, **more: object) -> MlflowTracker:
    if not (runs / "mlflow.db").exists():
        runs.mkdir(parents=True, exist_ok=True)
        (runs / "mlflow.db").write_bytes(empty_store())
    tracker = MlflowTracker.of(runs)
    start(tracker, **more)
    return tracker


def logged(tracker: MlflowTracker, *records: TrialRecord) -> list[str | None]:
    """Logs trials one after the other, each before the next is given; ids of their runs."""
    for each in records:
        tracker.log(each)
        tracker.settle()
    return [tracker.run_of(each.number) for each in records]


def reconciled(runs: Path, records: list[TrialRecord]) -> MlflowTracker:
    tracker = open_tracker(runs)
    tracker.reconcile(records)
    tracker.settle()
    return tracker


def story(records: list[TrialRecord], confirmation: Confirmation | None = None) -> Story:
    front = front_of(records, OBJECTIVES, WORST)
    return Story(name="digits-2", records=records, front=front, confirmation=confirmation)


def client(runs: Path) -> MlflowClient:
    return MlflowClient(tracking_uri=f"sqlite:///{runs}/mlflow.db")


def search(store: MlflowClient, query: str) -> list[Run]:
    experiment = store.get_experiment_by_name("digits")
    return list(store.search_runs([experiment.experiment_id], query, order_by=["attributes.start_time ASC"]))


def trials(store: MlflowClient) -> list[Run]:
    return search(store, "tags.`archsearch.role` = 'trial'")


def rows(runs: Path) -> dict[str, int]:
    with sqlite3.connect(runs / "mlflow.db") as database:
        tables = ("runs", "metrics", "params", "tags", "logged_models")
        return {table: database.execute(f"select count(*) from {table}").fetchone()[0] for table in tables}


def content(store: MlflowClient) -> dict[str, object]:
    """Everything that a person can see of the trials, without the ids that MLflow draws."""
    seen = {}
    for run in trials(store):
        tags = {name: value for name, value in run.data.tags.items() if name != "mlflow.parentRunId"}
        curves = {
            key: [
                (metric.step, metric.timestamp, metric.value)
                for metric in store.get_metric_history(run.info.run_id, key)
            ]
            for key in run.data.metrics
        }
        seen[tags["trial_key"]] = (run.info.status, run.info.end_time, run.data.params, tags, curves)
    return seen


def write_some_model(folder: Path, network: Architecture | None = None, seed: int = 0) -> Path:
    """The same folder for the same seed; the examples are no pictures, but not black."""
    network = network or architecture(0)
    module = built(network)
    with torch.no_grad():
        module.fc.bias.fill_(float(seed))
    model = Model(
        module=module,
        architecture=network,
        classes=tuple("abcd"),
        preprocessing=Preprocessing(image_size=32, resize_size=32, in_chans=3, mean=(0.5,) * 3, std=(0.25,) * 3),
        examples=np.random.default_rng(seed).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8),
    )
    write_model(folder, model, {"accuracy": 0.9})
    return folder


@cache
def built(network: Architecture) -> nn.Module:
    return build(network, 4, 3)
