"""The registry of a real local MLflow: versions, aliases, and models that come back from every kind of reference."""

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from search.confirmation.record import Confirmation, Contender, Interval, Retraining
from search.model import WEIGHTS, read_model
from search.record import TrialRecord, front_of
from search.tracking.mlflow import MlflowTracker
from search.tracking.registry import aliased, fetched
from search.tracking.tracker import store_of
from spaces import InputError
from tests.search.told import OBJECTIVES, WORST, architecture, client, open_tracker, record, start, story, trials
from tests.search.told import write_some_model as write_model_of

ROOT = Path(__file__).resolve().parents[2]
RECORDS = [record(number) for number in range(3)]  # accuracy 0.51 to 0.53, macs 1e6 to 3e6: all on the front


def kept(runs: Path, records: list[TrialRecord] = RECORDS, confirmation: Confirmation | None = None) -> MlflowTracker:
    """A search that has ended with these trials and the models of its front."""
    told = story(records, confirmation)
    folders = [model_folder(runs, member, confirmation) for member in told.front.members]
    tracker = open_tracker(runs)
    tracker.reconcile(records)
    tracker.front(told)
    if confirmation is not None:
        tracker.confirmed(confirmation)
    for member, folder in zip(told.front.members, folders, strict=True):
        tracker.log_model(member, folder)
    tracker.finish("FINISHED")
    return tracker


def model_folder(runs: Path, member: TrialRecord, confirmation: Confirmation | None = None) -> Path:
    """The same weights each time; others once they are confirmed."""
    folder = runs / "models" / str(member.number)
    seed = member.number + (100 if confirmation and confirmation.of(member.number) else 0)
    return write_model_of(folder, member.network, seed=seed)


def aliases(runs: Path, name: str = "digits-2") -> dict[str, str]:
    """By alias, the trial that it names."""
    store = client(runs)
    found = store.get_registered_model(name).aliases
    return {alias: store.get_model_version(name, version).tags["trial"] for alias, version in found.items()}


def versions(runs: Path, name: str = "digits-2") -> list[Mapping[str, str]]:
    found = client(runs).search_model_versions(f"name = '{name}'")
    return [version.tags for version in sorted(found, key=lambda version: int(version.version))]


def confirmation_of(*numbers: int) -> Confirmation:
    def contender(number: int, trial: int | None) -> Contender:
        shape = architecture(number)
        seeds = [
            Retraining(seed=seed, number=seed, network=shape, values={"test_accuracy": 0.8 + seed / 100})
            for seed in range(3)
        ]
        summary = {"test_accuracy": Interval(mean=0.81, low=0.78, high=0.84)}
        costs, verdict = {"latency_ms": 1.25}, "no other is better"
        return Contender(
            architecture=shape, trial=trial, costs=costs, retrainings=tuple(seeds), summary=summary, verdict=verdict
        )

    members = [contender(number, number) for number in numbers]
    return Confirmation(
        trained_on="train", seeds=(0, 1, 2), images=100, margin=0.01, contenders=(*members, contender(8, None))
    )


def test_the_aliases_name_the_best_the_cheapest_and_the_knee() -> None:
    values = [(0.90, 9e6), (0.89, 3e6), (0.80, 2e6), (0.60, 1e6)]
    records = [
        dataclasses.replace(record(number), values={"accuracy": accuracy, "macs": macs})
        for number, (accuracy, macs) in enumerate(values)
    ]
    front = front_of(records, OBJECTIVES, WORST)
    assert aliased(front) == {"most-accurate": 0, "cheapest": 3, "knee": 1}
    assert aliased(front_of([], OBJECTIVES, WORST)) == {}


def test_each_member_has_one_version_and_three_have_aliases(tmp_path: Path) -> None:
    kept(tmp_path)
    before = versions(tmp_path)
    kept(tmp_path)  # resumed, nothing new
    assert versions(tmp_path) == before
    assert [tags["trial"] for tags in before] == ["2", "1", "0"]
    assert before[0]["macs"] == "3000000"
    assert before[0]["arch_id"] == architecture(2).id
    assert before[0]["on_front"] == "true"
    assert aliases(tmp_path) == {"most-accurate": "2", "cheapest": "0", "knee": "2"}
    version = client(tmp_path).get_model_version_by_alias("digits-2", "cheapest")
    assert "| macs | 1.00 M |" in version.description
    assert version.run_id == trials(client(tmp_path))[0].info.run_id


def test_who_leaves_the_front_loses_the_aliases_and_the_users_own_stay(tmp_path: Path) -> None:
    kept(tmp_path)
    client(tmp_path).set_registered_model_alias("digits-2", "champion", "1")
    better = dataclasses.replace(record(3), values={"accuracy": 0.99, "macs": 10.0})
    kept(tmp_path, [*RECORDS, better])
    assert aliases(tmp_path) == {"most-accurate": "3", "cheapest": "3", "knee": "3", "champion": "2"}
    assert [(tags["trial"], tags["on_front"]) for tags in versions(tmp_path)] == [
        ("2", "false"), ("1", "false"), ("0", "false"), ("3", "true"),
    ]  # fmt: skip


def test_a_model_of_the_same_name_that_is_not_ours_is_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept(tmp_path)
    other = MlflowTracker.of(tmp_path)
    start(other, key="another-folder")
    other.front(story(RECORDS[:1]))
    other.log_model(RECORDS[0], model_folder(tmp_path, RECORDS[0]))
    other.finish("FINISHED")
    assert [tags["trial"] for tags in versions(tmp_path, "digits-2-2")] == ["0"]
    assert len(versions(tmp_path)) == 3
    said = [entry.getMessage() for entry in caplog.records if entry.levelno == logging.WARNING]
    assert said == ["MLflow has a model digits-2 that is not of this search; this one's is digits-2-2"]


def test_a_confirmation_is_told_and_its_models_take_the_aliases(tmp_path: Path) -> None:
    kept(tmp_path)
    for _ in range(2):
        kept(tmp_path, confirmation=confirmation_of(0, 2))
    store = client(tmp_path)
    assert [(tags["trial"], tags.get("confirmed")) for tags in versions(tmp_path)] == [
        ("2", None), ("1", None), ("0", None), ("2", "true"), ("0", "true"),
    ]  # fmt: skip
    cheapest = store.get_model_version_by_alias("digits-2", "cheapest")
    assert (cheapest.version, cheapest.tags["test_accuracy"], cheapest.tags["latency_ms"]) == (5, "0.81", "1.25")
    assert "| test_accuracy | 0.81 (0.78 to 0.84) |" in cheapest.description
    members = trials(store)
    assert [run.data.tags.get("confirmed") for run in members] == ["true", None, "true"]
    assert {name: members[0].data.metrics[f"test_accuracy{name}"] for name in ("", "_low", "_high")} == {
        "": 0.81, "_low": 0.78, "_high": 0.84,
    }  # fmt: skip
    experiment = store.get_experiment_by_name("digits").experiment_id
    baselines = store.search_runs([experiment], "tags.`archsearch.role` = 'baseline'")
    assert [(run.info.run_name, run.info.status) for run in baselines] == [
        (f"{architecture(8).label} unmodified", "FINISHED")
    ]
    assert baselines[0].data.metrics["confirmed_latency_ms"] == 1.25
    assert baselines[0].data.tags["mlflow.parentRunId"] == members[0].data.tags["mlflow.parentRunId"]


def test_a_second_confirmation_by_the_same_weights_is_told_too(tmp_path: Path) -> None:
    kept(tmp_path, RECORDS[:1], confirmation_of(0))
    first = confirmation_of(0)
    better = dataclasses.replace(first.contenders[0], verdict="it is dominated")
    kept(tmp_path, RECORDS[:1], dataclasses.replace(first, contenders=(better,)))
    assert [tags["verdict"] for tags in versions(tmp_path)] == ["it is dominated"]
    assert trials(client(tmp_path))[0].data.tags["verdict"] == "it is dominated"
    version = client(tmp_path).get_model_version_by_alias("digits-2", "knee")
    assert "Confirmed with 3 seeds: it is dominated" in version.description


def test_a_search_that_goes_on_keeps_the_mean_of_the_confirmation(tmp_path: Path) -> None:
    kept(tmp_path, confirmation=confirmation_of(0))
    tested = dataclasses.replace(RECORDS[0], test_accuracy=0.7)
    kept(tmp_path, [tested, *RECORDS[1:]], confirmation_of(0))
    assert trials(client(tmp_path))[0].data.metrics["test_accuracy"] == 0.81


def test_the_mean_takes_the_place_of_the_test_that_the_search_made(tmp_path: Path) -> None:
    tested = [dataclasses.replace(RECORDS[0], test_accuracy=0.9), *RECORDS[1:]]
    kept(tmp_path, tested)
    assert trials(client(tmp_path))[0].data.metrics["test_accuracy"] == 0.9
    kept(tmp_path, tested, confirmation_of(0))
    assert trials(client(tmp_path))[0].data.metrics["test_accuracy"] == 0.81


def test_weights_that_come_back_take_the_aliases_back(tmp_path: Path) -> None:
    kept(tmp_path)
    kept(tmp_path, confirmation=confirmation_of(0))
    assert client(tmp_path).get_model_version_by_alias("digits-2", "cheapest").version == 4
    assert [tags["on_front"] for tags in versions(tmp_path)] == ["true", "true", "false", "true"]
    kept(tmp_path)
    assert client(tmp_path).get_model_version_by_alias("digits-2", "cheapest").version == 3
    assert [tags["on_front"] for tags in versions(tmp_path)] == ["true", "true", "true", "false"]


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()


def test_every_reference_brings_the_model_folder_back(tmp_path: Path) -> None:
    kept(tmp_path)
    store = client(tmp_path)
    version = store.get_model_version_by_alias("digits-2", "cheapest")
    expected = digest(model_folder(tmp_path, RECORDS[0]))
    logged = store.get_run(version.run_id).outputs.model_outputs[0].model_id
    names = [f"digits-2/{version.version}", "digits-2@cheapest", logged]
    for reference in (version.run_id, *(f"models:/{name}" for name in names)):
        for tracking in (None, store_of(tmp_path)):
            with fetched(reference, tracking, tmp_path) as folder:
                assert digest(folder) == expected
                assert read_model(folder).architecture == RECORDS[0].network
        assert not folder.exists()


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("models:/digits@knee", r"unknown registered model in MLflow 'digits'; did you mean 'digits-2'\?"),
        ("models:/digits-2@kne", r"unknown alias of digits-2 'kne'; did you mean 'knee'\?"),
        ("models:/digits-2/9", r"digits-2 has no version 9; it has 1, 2, 3"),
        ("models:/m-" + "0" * 32, r"MLflow has no model models:/m-0+; allowed are RUN_ID, models:/NAME@ALIAS"),
        ("0" * 32, r"MLflow has no run 0+; allowed are RUN_ID"),
        ("runs:/x/y", r"'runs:/x/y' names no model; allowed are RUN_ID"),
        ("models:/sums/1", r"models:/sums/1 is no model of archsearch: 0 files model\.safetensors in it"),
    ],
)
def test_a_reference_to_nothing_says_what_there_is(store: Path, reference: str, message: str) -> None:
    with pytest.raises(InputError, match=message), fetched(reference, None, store):
        pass


def test_a_run_without_a_model_says_whose_have_one(store: Path) -> None:
    parent = client(store).search_runs(["1"], "tags.`archsearch.role` = 'search'")[0].info.run_id
    with pytest.raises(InputError, match=rf"the run {parent} \(digits-2\) has no model; members of the front"):
        fetched(parent, None, store).__enter__()
    with pytest.raises(InputError, match=r"has no MLflow store; give the --runs or the --tracking of the search"):
        fetched(parent, None, store / "elsewhere").__enter__()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search, and a model of someone else beside it."""
    runs = tmp_path_factory.mktemp("runs")
    kept(runs)
    (runs / "other").mkdir()
    (runs / "other" / "MLmodel").write_text("flavors: {}\n")
    MlflowClient(store_of(runs)).create_registered_model("sums")
    client(runs).create_model_version("sums", (runs / "other").as_uri())
    return runs


def test_the_registered_model_is_served(store: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/digits-2@knee"]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # MLflow calls uvicorn by its name
    environment = {**os.environ, "PATH": path, "MLFLOW_TRACKING_URI": store_of(store), "PYTHONPATH": str(ROOT)}
    with (store / "serve.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=store, start_new_session=True)
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5).close()
                break
            except OSError:
                assert server.poll() is None, (store / "serve.log").read_text()[-3000:]
                time.sleep(0.25)
        images = np.random.default_rng(0).integers(0, 256, (2, 40, 30, 3), dtype=np.uint8)
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations",
            data=json.dumps({"inputs": images.tolist()}).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            given = json.load(answer)["predictions"]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    with fetched("models:/digits-2@knee", None, store) as folder:
        expected = read_model(folder).predict(images).numpy()
    np.testing.assert_allclose(np.array(given), expected, atol=1e-5)
