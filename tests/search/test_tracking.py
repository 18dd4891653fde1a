"""Tracking on real local MLflow stores: what is in them, after whatever crash."""

import dataclasses
import os
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from search.evaluator import Measurement
from search.model import read_model
from search.record import State, front_of
from search.tracking.mlflow import MlflowTracker
from search.tracking.tracker import SENT
from spaces import Architecture
from tests.search.told import (
    BEGIN,
    OBJECTIVES,
    WORST,
    architecture,
    client,
    content,
    logged,
    open_tracker,
    reconciled,
    record,
    rows,
    search,
    start,
    story,
    trials,
    write_some_model,
)

ROOT = Path(__file__).resolve().parents[2]


def test_a_search_is_a_parent_run_with_one_nested_run_a_trial(tmp_path: Path) -> None:
    states = [*(state for state in State if state is not State.PAUSED), State.COMPLETE, State.PAUSED]
    tracker = MlflowTracker.of(tmp_path)
    parent = start(tracker)
    ids = logged(tracker, *(record(number, state, epochs=4) for number, state in enumerate(states)))
    store = client(tmp_path)
    run = store.get_run(parent)
    assert run.info.run_name == "digits-2"
    assert run.data.params == {"seed": "0", "trials": "16", "train.lr": "0.001"}
    assert run.data.tags["archsearch.role"] == "search"
    assert run.data.tags["version.timm"].startswith("1.")
    assert [file.path for file in store.list_artifacts(parent)] == ["space.yaml"]
    children = trials(store)
    assert [child.info.run_id for child in children] == ids
    assert {child.data.tags["mlflow.parentRunId"] for child in children} == {parent}
    assert Counter(child.data.tags["status"] for child in children) == Counter(map(str, states))
    assert [child.info.status for child in children] == [
        "RUNNING", "FINISHED", "FINISHED", "FAILED", "KILLED", "KILLED", "FINISHED", "SCHEDULED",
    ]  # fmt: skip
    assert children[1].info.run_name == architecture(1).label
    assert children[1].info.start_time == 1_700_000_100_000
    assert children[1].info.end_time == 1_700_000_150_000
    assert children[1].data.params == {"backbone": "resnet10t", "width": "0.5", "scaling": "none"}
    assert children[1].data.tags["arch_id"] == architecture(1).id
    assert children[3].data.tags["reason"] == "out of memory"
    assert children[5].data.tags["duplicate_of"] == "0"
    curve = store.get_metric_history(ids[1], "train_loss")
    assert [(point.step, point.timestamp) for point in curve] == [
        (n, 1_700_000_100_000 + 1000 * n) for n in (1, 2, 3, 4)
    ]
    assert [point.step for point in store.get_metric_history(ids[1], "accuracy")] == [3, 4]
    assert store.get_metric_history(ids[4], "macs")[0].value == 5e6


def test_a_person_can_filter_trials(tmp_path: Path) -> None:
    tracker = open_tracker(tmp_path)
    vit = Architecture(backbone="vit_tiny_patch16_224", kwargs={"img_size": 32, "patch_size": 8, "depth": 2})
    ids = logged(tracker, *map(record, range(3)), dataclasses.replace(record(3), architecture=vit))
    for query, expected in {
        "tags.on_front = 'true'": [],
        "tags.backbone = 'vit_tiny_patch16_224'": [3],
        "params.width = '0.5'": [1],
        "params.kwargs.depth = '2'": [3],
        "metrics.macs < 2.5e6 and tags.status = 'complete'": [0, 1],
    }.items():
        assert [run.info.run_id for run in search(client(tmp_path), query)] == [ids[n] for n in expected], query


def test_logging_again_adds_no_row(tmp_path: Path) -> None:
    tracker = open_tracker(tmp_path)
    steps = [record(0, State.RUNNING, epochs) for epochs in (0, 1, 3, 5)] + [record(0), record(1, State.STOPPED, 3)]
    logged(tracker, *steps)
    once, seen = rows(tmp_path), content(client(tmp_path))
    logged(tracker, *steps)
    reconciled(tmp_path, [record(0), record(1, State.STOPPED, 3)])
    assert rows(tmp_path) == once
    with sqlite3.connect(tmp_path / "mlflow.db") as database:  # killed between the metrics and the tags
        database.execute("delete from tags where key = ?", (SENT,))
    reconciled(tmp_path, [record(0), record(1, State.STOPPED, 3)])
    assert rows(tmp_path) == once
    assert content(client(tmp_path)) == seen


def test_a_resume_repairs_whatever_a_crash_has_left(tmp_path: Path) -> None:
    whole = [record(number) for number in range(5)] + [record(5, State.INFEASIBLE), record(6, State.RUNNING, 4)]
    reconciled(tmp_path / "right", whole)
    tracker = open_tracker(tmp_path / "crashed")
    lost = dataclasses.replace(record(2, State.RUNNING, 3), architecture=architecture(8))  # and asked anew
    unheard_of = record(9)
    running = [record(1, State.RUNNING, 5), record(3, State.RUNNING, 0)]
    logged(tracker, record(0), *running, lost, unheard_of)
    store = client(tmp_path / "crashed")
    empty = store.create_run(
        store.get_experiment_by_name("digits").experiment_id,  # killed right after a run was made
        int(1000 * whole[4].started),
        {**trials(client(tmp_path / "right"))[4].data.tags, "mlflow.parentRunId": start(tracker), SENT: "-1@0"},
    )
    tracker = reconciled(tmp_path / "crashed", whole)
    assert logged(tracker, whole[4]) == [empty.info.run_id]
    assert content(store) == content(client(tmp_path / "right"))


def test_a_resume_finds_its_own_run_and_no_other(tmp_path: Path) -> None:
    tracker = MlflowTracker.of(tmp_path)
    parent = start(tracker)
    tracker.log(record(0))
    tracker.finish("KILLED")
    assert client(tmp_path).get_run(parent).info.status == "KILLED"
    other = MlflowTracker.of(tmp_path)
    assert start(other, key="k2") != parent
    assert logged(other, record(0)) != logged(tracker, record(0))
    again = MlflowTracker.of(tmp_path)
    assert start(again, trials=32) == parent
    run = client(tmp_path).get_run(parent)
    assert run.info.status == "RUNNING"
    assert (run.data.params["trials"], run.data.tags["resumed.trials"]) == ("16", "32")


def test_what_still_runs_is_closed_and_opened_again(tmp_path: Path) -> None:
    tracker = open_tracker(tmp_path)
    tracker.log(record(0, State.RUNNING, 4))
    tracker.finish("KILLED")
    assert [(run.info.status, run.data.tags["status"]) for run in trials(client(tmp_path))] == [("KILLED", "running")]
    tracker = open_tracker(tmp_path)
    logged(tracker, record(0, State.RUNNING, 5))
    assert [run.info.status for run in trials(client(tmp_path))] == ["RUNNING"]
    logged(tracker, record(0))
    assert [run.info.status for run in trials(client(tmp_path))] == ["FINISHED"]


def test_the_front_is_tagged_drawn_and_told(tmp_path: Path) -> None:
    tracker = MlflowTracker.of(tmp_path)
    parent = start(tracker)
    records = [record(number) for number in range(3)]
    logged(tracker, *records)
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("create table touched (run text)")
        for event in ("insert", "update"):
            database.execute(
                f"create trigger on_{event} after {event} on tags when new.key = 'on_front'"
                " begin insert into touched values (new.run_uuid); end"
            )
    front = front_of(records, OBJECTIVES, WORST)
    tracker.front(story(records))
    tracker.settle()
    worse = dataclasses.replace(records[0], values={"accuracy": 0.99, "macs": 1.0})  # dominates all others
    changed = [worse, *records[1:]]
    for _ in range(2):
        tracker.front(story(changed))
        tracker.settle()
    tracker.finish("FINISHED")
    store = client(tmp_path)
    assert [run.data.tags["on_front"] for run in trials(store)] == ["true", "false", "false"]
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        touched = Counter(run for (run,) in database.execute("select run from touched"))
    assert [touched[run.info.run_id] for run in trials(store)] == [1, 2, 2]
    run = store.get_run(parent)
    assert run.info.status == "FINISHED"
    assert {name: run.data.metrics[name] for name in ("trials_complete", "trials_failed", "front_size")} == {
        "trials_complete": 3, "trials_failed": 0, "front_size": 1,
    }  # fmt: skip
    volumes = store.get_metric_history(parent, "hypervolume")
    assert [(point.step, point.value) for point in volumes] == [
        (3, pytest.approx(front.hypervolume)),
        (3, pytest.approx(0.89 * (1e9 - 1))),
    ]
    note, experiment = run.data.tags["mlflow.note.content"], run.info.experiment_id
    address = f"#/experiments/{experiment}/runs/{trials(store)[0].info.run_id}"
    assert f"| 1 | [resnet10t w=0.25]({address}) | 0.99 | 1 |" in note
    assert f"(#/experiments/{experiment}/runs?compareRunsMode=CHART&viewStateShareKey=archsearch-front)" in note
    page = Path(store.download_artifacts(parent, "front.html", str(tmp_path))).read_text()
    assert address in page
    picture = store.download_artifacts(parent, "front.png", str(tmp_path))
    assert Image.open(picture).format == "PNG"


def test_a_logged_model_comes_back_in_a_new_process_without_a_pickle(tmp_path: Path) -> None:
    tracker, model_folder = open_tracker(tmp_path), write_some_model(tmp_path / "picked")
    tracker.log(record(0))
    tracker.log_model(record(0), model_folder)
    tracker.log_model(record(0), model_folder)
    tracker.finish("FINISHED")
    assert rows(tmp_path)["logged_models"] == 1
    store = client(tmp_path)
    outputs = store.get_run(tracker.run_of(0)).outputs.model_outputs
    files = [path for path in (tmp_path / "mlartifacts").rglob("*") if path.is_file()]
    assert not [path.name for path in files if path.suffix in (".pkl", ".pickle", ".pt", ".pth", ".bin")]
    images = np.random.default_rng(0).integers(0, 256, (5, 40, 30, 3), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    program = (
        "import mlflow, numpy, sys\n"
        "mlflow.set_tracking_uri(sys.argv[1])\n"
        "model = mlflow.pyfunc.load_model(sys.argv[2])\n"
        "numpy.save('found.npy', model.predict(numpy.load('images.npy')))\n"
        "print(model.metadata.flavors['python_function']['loader_module'], model.metadata.signature.inputs)\n"
    )
    uri = f"models:/{outputs[0].model_id}"
    done = subprocess.run(
        [sys.executable, "-c", program, f"sqlite:///{tmp_path}/mlflow.db", uri],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout == "search.model [Tensor('uint8', (-1, -1, -1, 3))]\n", done.stderr
    expected = read_model(model_folder).predict(images).numpy()
    np.testing.assert_allclose(np.load(tmp_path / "found.npy"), expected, atol=1e-6)
    assert store.get_logged_model(outputs[0].model_id).tags["macs"] == "1000000"


def test_odd_names_values_and_architectures_are_logged(tmp_path: Path) -> None:
    tracker = open_tracker(tmp_path)
    odd = Measurement(fidelity=1, metrics={"top@1,µ": 0.5, "loss": float("nan"), "gap": float("inf")}, time=BEGIN)
    impossible = Architecture(backbone="resnet10t", kwargs={"nonsense": "x" * 9000}, choices={"width": 0.5})
    for _ in range(2):
        ids = logged(
            tracker,
            dataclasses.replace(record(0, State.FAILED), history=(odd,), reason="r" * 9000),
            dataclasses.replace(record(1, State.INFEASIBLE), architecture=impossible, costs={}),
        )
    runs = [client(tmp_path).get_run(run_id) for run_id in ids]
    assert runs[0].data.metrics.keys() == {"top_1_µ", "loss", "gap", "macs", "params"}
    assert len(runs[0].data.tags["reason"]) == 8000
    assert len(runs[1].data.params["kwargs.nonsense"]) == 6000
    assert len(trials(client(tmp_path))) == 2


def test_a_long_training_is_logged_whole(tmp_path: Path) -> None:
    tracker = open_tracker(tmp_path)
    (run_id,) = logged(tracker, record(0, epochs=700))
    store = client(tmp_path)
    assert [point.step for point in store.get_metric_history(run_id, "train_loss")] == list(range(1, 701))
    assert store.get_run(run_id).data.tags[SENT] == f"700@{int(1000 * (BEGIN + 700))}"
