"""Tracking where MLflow is not as it should be: locked, in use, out of reach, a server that dies and comes back."""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from search.record import State, front_of
from search.run import run
from search.study import studies
from search.tracking.mlflow import MlflowTracker
from spaces import InputError
from tests.search.plain import REFERENCE, Table, plain_space
from tests.search.told import OBJECTIVES, WORST, client, open_tracker, record, search, start, trials, write_some_model

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
    assert tracker.log(record(0)) is not None
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


class Server:
    """A real `mlflow server` on a port of its own."""

    def __init__(self, folder: Path):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri, self.folder = f"http://127.0.0.1:{self.port}", folder

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        store = ["--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db", "--workers", "1"]
        store += ["--artifacts-destination", str(self.folder / "artifacts")]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, *store], stdout=log, stderr=log, start_new_session=True, env=environment
            )
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=5).close()
                return
            except OSError:
                time.sleep(0.25)
        pytest.fail(f"mlflow server did not come up:\n{(self.folder / 'log').read_text()[-3000:]}")

    def stop(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


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
    known = tracker.log(record(0, State.RUNNING, 3))
    server.stop()
    began = time.monotonic()
    ids = [tracker.log(entry) for entry in records]
    tracker.front(records, front_of(records, OBJECTIVES, WORST))
    tracker.log_model(records[5], model)
    assert time.monotonic() - began < 3
    assert ids == [known] + [None] * 5
    assert [entry.levelname for entry in caplog.records if entry.name == "search.tracking.outbox"] == ["WARNING"]
    server.start()
    tracker.finish("FINISHED")
    store = MlflowClient(tracking_uri=server.uri)
    assert [run.data.tags["trial_key"] for run in trials(store)] == [f"digits-2/{number}" for number in range(6)]
    assert {run.data.tags["on_front"] for run in trials(store)} == {"true"}
    assert all(len(store.get_metric_history(run.info.run_id, "lr")) == 9 for run in trials(store))
    assert sorted(file.path for file in store.list_artifacts(parent)) == ["front.png", "space.yaml"]
    assert len(store.get_run(tracker.log(records[5])).outputs.model_outputs) == 1
    assert store.get_run(parent).info.status == "FINISHED"
    assert capfd.readouterr().out == ""


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
