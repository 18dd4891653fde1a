"""Tracking where MLflow is not as it should be: locked, in use, out of reach, a server that dies and comes back."""

import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from search.model import WEIGHTS
from search.record import State
from search.run import run
from search.study import studies
from search.tracking.mlflow import MlflowTracker
from search.tracking.registry import fetched
from spaces import InputError
from tests.search.plain import REFERENCE, Table, plain_space
from tests.search.server import Server
from tests.search.told import (
    client,
    logged,
    open_tracker,
    record,
    search,
    start,
    story,
    trials,
    write_some_model,
)

ROOT = Path(__file__).resolve().parents[2]


def test_a_locked_store_is_waited_for(tmp_path: Path) -> None:
    tracker = open_tracker(tmp_path)
    held = threading.Event()

    def hold() -> None:
        other = sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)
        other.execute("begin exclusive")
        held.set()
        time.sleep(1)
        other.execute("rollback")
        other.close()

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    assert logged(tracker, record(0)) != [None]
    holder.join()
    assert len(trials(client(tmp_path))) == 1


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("ftp://user:secret@nowhere", r"MLflow at ftp://user@nowhere cannot be used: .*ftp"),
        ("postgresql://me:secret@127.0.0.1:9/x", r"MLflow at postgresql://me@127\.0\.0\.1:9/x cannot .*refused"),
        ("http://127.0.0.1:9", r"MLflow at http://127\.0\.0\.1:9 cannot be used: API request .* failed"),
        ("sqlite:////dev/null/x/mlflow.db", r"MLflow at sqlite:////dev/null/x/mlflow\.db cannot be used: .*Not a dir"),
    ],
)
def test_a_store_that_cannot_be_used_is_said_before_anything_is_spent(uri: str, message: str) -> None:
    began = time.monotonic()
    with pytest.raises(InputError, match=message) as refused:
        start(MlflowTracker(uri))
    assert time.monotonic() - began < 10
    assert "secret" not in str(refused.value)


def test_two_searches_may_start_at_once_and_say_nothing(tmp_path: Path) -> None:
    program = (
        "import sys, threading, pathlib\n"
        "from search.tracking.mlflow import MlflowTracker\n"
        "tracker = MlflowTracker.of(pathlib.Path(sys.argv[1]))\n"
        "tracker.start(space='digits', search='s', key=sys.argv[2], text='', params={})\n"
        "tracker.finish('FINISHED')\n"
        "assert threading.enumerate() == [threading.main_thread()], threading.enumerate()\n"
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "cwd": ROOT, "env": clean}
    command = [sys.executable, "-c", program, str(tmp_path)]
    started = [subprocess.Popen([*command, key], **pipes) for key in ("one", "two")]
    assert [process.communicate(timeout=100)[0] for process in started] == ["", ""]
    assert [process.returncode for process in started] == [0, 0]
    assert len(search(client(tmp_path), "tags.`archsearch.role` = 'search'")) == 2


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    server.start()
    yield server
    server.stop()


def test_a_server_that_dies_and_comes_back_has_lost_nothing(
    server: Server, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    tracker, model = MlflowTracker(server.uri), write_some_model(server.folder / "picked")
    parent = start(tracker)
    records = [record(number) for number in range(6)]
    logged(tracker, record(0, State.RUNNING, 3))
    server.stop()
    tracker.reconcile(records)
    tracker.front(story(records))
    tracker.log_model(records[5], model)
    warned(caplog)
    assert [tracker.run_of(number) is None for number in range(6)] == [False] + [True] * 5
    assert [entry.levelname for entry in caplog.records if entry.name == "search.tracking.outbox"] == ["WARNING"]
    server.start()
    tracker.finish("FINISHED")
    store = MlflowClient(tracking_uri=server.uri)
    assert [run.data.tags["trial_key"] for run in trials(store)] == [f"digits-2/{number}" for number in range(6)]
    assert {run.data.tags["on_front"] for run in trials(store)} == {"true"}
    assert all(len(store.get_metric_history(run.info.run_id, "lr")) == 9 for run in trials(store))
    assert sorted(file.path for file in store.list_artifacts(parent)) == ["front.html", "front.png", "space.yaml"]
    assert len(store.get_run(tracker.run_of(5)).outputs.model_outputs) == 1
    with fetched("models:/digits-2/1", server.uri, server.folder) as folder:
        assert (folder / WEIGHTS).read_bytes() == (model / WEIGHTS).read_bytes()
    assert store.get_run(parent).info.status == "FINISHED"
    assert capfd.readouterr().out == ""


def warned(caplog: pytest.LogCaptureFixture) -> None:
    """Waits until the tracker has seen that MLflow is away."""
    deadline = time.monotonic() + 60
    while not any(entry.levelname == "WARNING" for entry in caplog.records):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_server_that_dies_under_load_and_comes_back_has_every_value(server: Server) -> None:
    tracker = MlflowTracker(server.uri)
    start(tracker)
    records = [record(number) for number in range(60)]
    for number, entry in enumerate(records):
        tracker.log(record(number, State.RUNNING, 3))
        if number == 10:
            server.stop()
        tracker.log(entry)
        if number == 40:
            server.start()
        time.sleep(0.02)
    assert tracker.settle()
    store = MlflowClient(tracking_uri=server.uri)
    found = trials(store)
    assert [shown.data.tags["trial_key"] for shown in found] == [f"digits-2/{number}" for number in range(60)]
    for shown, entry in zip(found, records, strict=True):
        assert shown.data.metrics["accuracy"] == entry.values["accuracy"]
        losses = store.get_metric_history(shown.info.run_id, "train_loss")
        known = {measured.fidelity: measured.metrics["train_loss"] for measured in entry.history}
        assert {point.step: point.value for point in losses} == known
        assert len(losses) == 9


def test_a_server_that_is_away_in_mid_search_misses_no_metric(server: Server, tmp_path: Path) -> None:
    space = plain_space(trials=16, sampler="random").to_dict()
    space["search"]["reference_point"] = REFERENCE
    journal = tmp_path / "runs" / "plain" / studies.JOURNAL
    moments = []

    def measured(number: int) -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and (
            not journal.exists() or journal.read_bytes().count(b'"history/') < number
        ):
            time.sleep(0.05)
        moments.append(journal.read_bytes().count(b'"history/'))

    def go_and_come() -> None:
        measured(6)
        server.stop()
        measured(18)
        server.start()

    away = threading.Thread(target=go_and_come)
    away.start()
    result = run(space, evaluator=Table(epoch_s=0.1), runs=tmp_path / "runs", tracking=server.uri)
    away.join()
    study = studies.read(result.directory)
    assert moments[0] < moments[1] < journal.read_bytes().count(b'"history/')  # it went on meanwhile, and after
    client = MlflowClient(server.uri)
    for trial in study.records():
        assert trial.mlflow_run_id is not None
        shown = client.get_run(trial.mlflow_run_id)
        assert shown.data.tags["status"] == trial.state
        for name in ("loss", "accuracy"):
            curve = [(m.fidelity, {**m.metrics, **m.values}) for m in trial.history]
            known = {epoch: values[name] for epoch, values in curve if name in values}
            history = client.get_metric_history(trial.mlflow_run_id, name)
            assert {metric.step: metric.value for metric in history} == known
    runs = client.search_runs([client.get_experiment_by_name("plain").experiment_id], "tags.on_front = 'true'")
    assert {found.info.run_id for found in runs} == {member.mlflow_run_id for member in study.front.members}
