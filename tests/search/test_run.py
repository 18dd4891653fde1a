"""The main job end to end: real data, a real Ray Tune search, a real study on disk, a real MLflow store."""

import json
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient

from search import results
from search.cli import main
from search.data import load_data
from search.record import State
from search.tracking.tracker import store_of
from search.trial import TimmEvaluator
from spaces import load
from tests.search.command import SHARED, archsearch, kill, space_file, start, trained, wait_for
from tests.search.plain import checkpoint

KEYS = {"id", "architecture", "values", "costs", "test_accuracy", "mlflow_run_id"}


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `archsearch run tiny.yaml` has run to its end."""
    folder = tmp_path_factory.mktemp("searched")
    space_file(folder)
    result = archsearch(folder, "run", "tiny.yaml")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "archsearch ui" in result.stdout
    assert "Traceback" not in result.stdout + result.stderr
    return folder


def front_json(folder: Path, name: str) -> dict[str, Any]:
    result = archsearch(folder, "front", name, "--json")
    assert result.returncode == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def runs_in_mlflow(folder: Path, name: str) -> list[Any]:
    client = MlflowClient(store_of(folder / "runs"))
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    parent = client.search_runs(experiments, f"tags.`archsearch.search` = '{name}'")
    assert len(parent) == 1
    return list(client.search_runs(experiments, f"tags.`mlflow.parentRunId` = '{parent[0].info.run_id}'"))


def check_that_everything_adds_up(folder: Path, name: str, trials: int) -> None:
    """The study, MLflow and `front --json` tell the same; the front is of full fidelity."""
    study = results.opened(folder / "runs", name)
    said, children = front_json(folder, name), runs_in_mlflow(folder, name)
    records = study.records()
    counts = Counter(str(record.state) for record in records)
    assert {state: n for state, n in said["trials"].items() if n} == dict(counts)
    assert Counter(run.data.tags["status"] for run in children) == counts
    assert counts["complete"] + counts["stopped"] + counts["failed"] == trials
    assert counts["running"] == 0
    started = [record.architecture.id for record in records if record.state.counts]
    assert len(started) == len(set(started)), "an architecture was trained twice"
    assert [point["id"] for point in said["points"]] == [record.architecture.id for record in study.front.members]
    for record in study.front.members:
        assert record.state is State.COMPLETE
        assert record.fidelity == study.file.search.fidelity.max
    on_front = {run.info.run_id for run in children if run.data.tags["on_front"] == "true"}
    assert on_front == {point["mlflow_run_id"] for point in said["points"]}
    kept = {int(path.parent.name) for path in study.directory.glob("trials/*/model.safetensors")}
    assert kept == {record.number for record in study.front.members}


def test_the_states_add_up_and_the_front_is_of_full_fidelity(searched: Path) -> None:
    check_that_everything_adds_up(searched, "tiny", 6)
    said = front_json(searched, "tiny")
    assert set(said) == {"objectives", "reference_point", "hypervolume", "trials", "points"}
    assert all(set(point) == KEYS for point in said["points"])
    assert set(said["reference_point"]) == set(said["points"][0]["values"]) == {"accuracy", "macs"}
    assert said["hypervolume"] > 0
    assert all(0 <= point["test_accuracy"] <= 1 for point in said["points"])


def test_a_complete_trial_has_its_curve_in_mlflow(searched: Path) -> None:
    point = front_json(searched, "tiny")["points"][0]
    client = MlflowClient(store_of(searched / "runs"))
    losses = client.get_metric_history(point["mlflow_run_id"], "train_loss")
    assert [metric.step for metric in losses] == [1, 2, 3]
    run = client.get_run(point["mlflow_run_id"])
    assert run.data.metrics["accuracy"] == pytest.approx(point["values"]["accuracy"])
    assert run.data.params["width"] == str(point["architecture"]["choices"]["width"])


PICKED = """
import json, sys
import numpy as np, torch
from search.data import load_data
from search.model import read_model
from spaces import load
model, data = read_model(sys.argv[1]), load_data(load(sys.argv[2]).data)
with torch.inference_mode():
    logits = model.module(torch.cat([model.preprocessing(data.images[i]) for i in data.test]))
accuracy = (logits.argmax(1).numpy() == data.labels[data.test]).mean()
np.save(sys.argv[3], logits.numpy())
print(accuracy)
"""


def test_a_picked_model_in_a_new_process_gives_the_logits_and_the_test_accuracy_of_the_search(searched: Path) -> None:
    result = archsearch(searched, "pick", "tiny", "--output", "picked")
    assert result.returncode == 0, result.stderr
    assert "spaces" in result.stdout
    fresh = subprocess.run(
        [sys.executable, "-c", PICKED, "picked", "tiny.yaml", "logits.npy"],
        cwd=searched,
        capture_output=True,
        text=True,
        check=True,
    )
    study = results.opened(searched / "runs", "tiny")
    record = results.choose(study.front)
    file = load(searched / "tiny.yaml")
    assert file.data is not None
    dataset = load_data(file.data)
    logits = TimmEvaluator(file, dataset).predict_logits(
        record.architecture, checkpoint(study, record.number), dataset.test
    )
    assert np.abs(np.load(searched / "logits.npy") - logits.numpy()).max() <= 1e-5
    assert float(fresh.stdout) == pytest.approx(record.test_accuracy)


def test_a_model_of_the_front_loads_back_from_mlflow_without_a_pickle(searched: Path) -> None:
    client = MlflowClient(store_of(searched / "runs"))
    models = client.search_logged_models([client.search_experiments()[0].experiment_id])
    models = [model for model in models if model.status == "READY"]
    assert len(models) == len(front_json(searched, "tiny")["points"])
    folder = Path(models[0].artifact_location.removeprefix("file://"))
    assert not [path for path in folder.rglob("*") if path.suffix in {".pkl", ".pt", ".pth", ".bin"}]
    mlflow.set_tracking_uri(store_of(searched / "runs"))
    loaded = mlflow.pyfunc.load_model(str(folder))
    probabilities = loaded.predict(np.zeros((2, 8, 8, 1), np.uint8))
    assert probabilities.shape == (2, 10)
    assert probabilities.sum(axis=1) == pytest.approx(1)


def test_kill_9_and_resume_lose_repeat_and_double_nothing(tmp_path: Path) -> None:
    space_file(tmp_path, search__trials=8)
    process = start(tmp_path, "run", "tiny.yaml")
    wait_for(lambda: trained(tmp_path, "tiny") >= 3, process)
    kill(process)
    before = {r.number: r for r in results.opened(tmp_path / "runs", "tiny").records() if r.state is not State.RUNNING}
    result = archsearch(tmp_path, "run", "tiny.yaml", "--resume")
    assert result.returncode == 0, result.stdout + result.stderr
    after = {record.number: record for record in results.opened(tmp_path / "runs", "tiny").records()}
    for number, record in before.items():
        assert after[number].state is record.state or record.state is State.PAUSED
        if record.state is State.PAUSED:
            assert after[number].state in (State.COMPLETE, State.STOPPED)
        seen = [(m.fidelity, m.time) for m in record.history]
        assert [(m.fidelity, m.time) for m in after[number].history][: len(seen)] == seen
    check_that_everything_adds_up(tmp_path, "tiny", 8)


def test_ctrl_c_ends_cleanly_says_how_to_resume_and_resuming_works(tmp_path: Path) -> None:
    space_file(tmp_path)
    process = start(tmp_path, "run", "tiny.yaml")
    wait_for(lambda: trained(tmp_path, "tiny") >= 2, process)
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 130, output
    assert "archsearch run tiny.yaml --name tiny --resume" in output
    assert "Traceback" not in output
    result = archsearch(tmp_path, "run", "tiny.yaml", "--name", "tiny", "--resume")
    assert result.returncode == 0, result.stdout + result.stderr
    check_that_everything_adds_up(tmp_path, "tiny", 6)


def test_resume_refuses_a_changed_space_and_a_taken_name_gets_a_number(searched: Path) -> None:
    changed = space_file(searched, dimensions={"width": [0.125, 0.25], "scaling": ["none", "rezero"]})
    result = archsearch(searched, "run", changed, "--resume")
    assert result.returncode == 2
    assert "dimensions.width" in result.stderr
    space_file(searched, search__trials=1)
    result = archsearch(searched, "run", "tiny.yaml")
    assert result.returncode == 0
    assert (searched / "runs" / "tiny-2" / "study.journal").exists()
    space_file(searched)


def test_a_space_that_is_exhausted_ends_with_code_0(tmp_path: Path) -> None:
    small = {"width": [0.125, 0.25]}
    space_file(tmp_path, backbones=["resnet10t"], dimensions=small, search__fidelity={"max": 1})
    result = archsearch(tmp_path, "run", "tiny.yaml")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "space exhausted" in result.stdout
    check_that_everything_adds_up(tmp_path, "tiny", 2)


def test_no_trial_that_ends_well_is_code_1(tmp_path: Path) -> None:
    space_file(tmp_path, backbones=["resnet10t"], search={"trials": 1, "fidelity": {"max": 1}}, train__lr=1.0e30)
    result = archsearch(tmp_path, "run", "tiny.yaml")
    assert result.returncode == 1, result.stdout + result.stderr
    assert "No feasible trial" in result.stdout


@pytest.mark.parametrize(
    ("words", "changes", "message"),
    [
        (["run", "nothing.yaml"], {}, "nothing.yaml"),
        (["run", "tiny.yaml", "--trials", "0"], {}, "--trials 0"),
        (["run", "tiny.yaml"], {"dimensions": {"scaling": ["rezro"]}}, "tiny.yaml:"),
        (["run", "tiny.yaml"], {"objectives": {"accuracy": "maximize", "mac": "minimize"}}, "did you mean 'macs'?"),
        (["run", "tiny.yaml"], {"constraints": {"param": {"max": 5}}}, "did you mean 'params'?"),
        (["run", "tiny.yaml"], {"backbones": ["vit_tiny_patch16_224"]}, "16x16"),
        (["run", "tiny.yaml", "--resume"], {}, "no search"),
        (["run", "tiny.yaml", "--gpus-per-trial", "1"], {}, "GPUs"),
        (["run", "tiny.yaml", "--gpus-per-trial", "nan"], {}, "--gpus-per-trial nan is not a number from 0"),
        (["run", "tiny.yaml", "--cpus-per-trial", "0"], {}, "--cpus-per-trial"),
        (["run", "tiny.yaml", "--name", "../x"], {}, "--name"),
        (["run", "tiny.yaml", "--name", "mlflow.db"], {}, "is kept for all searches"),
        (["run", "tiny.yaml", "--runs", "tiny.yaml"], {}, "--runs tiny.yaml cannot be written"),
        (["run", "tiny.yaml", "--runs", "50%20x"], {}, "cannot be part of a database's address"),
        (["front", "none"], {}, "no searches"),
        (["pick", "none"], {}, "no searches"),
        (["ui"], {}, "no MLflow store"),
        (["run"], {}, "SPACE"),
    ],
)
def test_bad_input_is_one_message_and_code_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    changes: dict[str, Any],
    message: str,
) -> None:
    space_file(tmp_path, **changes)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["archsearch", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert message in capsys.readouterr().err.replace("\n", " ")
    assert not list(tmp_path.glob("runs/*/study.journal"))


def test_a_search_is_resumed_on_the_same_data_only(tmp_path: Path) -> None:
    images, labels = np.random.default_rng(0).integers(0, 256, (60, 16, 16, 3), dtype=np.uint8), np.arange(60) % 3
    np.savez(tmp_path / "mine.npz", images=images, labels=labels)
    data = {"source": "npz", "path": "mine.npz", "image_size": 16}
    space_file(tmp_path, data=data, backbones=["resnet10t"], search__trials=1, search__fidelity={"max": 1})
    assert archsearch(tmp_path, "run", "tiny.yaml").returncode == 0
    before = (tmp_path / "runs/tiny/data.json").read_text()
    np.savez(tmp_path / "mine.npz", images=images, labels=(labels + 1) % 3)
    result = archsearch(tmp_path, "run", "tiny.yaml", "--resume", "--trials", 2)
    assert result.returncode == 2
    assert "was begun on other data: hash of the labels was" in result.stderr
    assert (tmp_path / "runs/tiny/data.json").read_text() == before


def test_a_store_that_cannot_be_used_leaves_no_search_behind(tmp_path: Path) -> None:
    space_file(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/mlflow.db").write_bytes(b"garbage" * 1000)
    result = archsearch(tmp_path, "run", "tiny.yaml")
    assert result.returncode == 2
    assert "MLflow at" in result.stderr
    assert not (tmp_path / "runs/tiny").exists()


def test_a_damaged_study_says_so_and_does_not_hide_its_neighbours(searched: Path, tmp_path: Path) -> None:
    shutil.copytree(searched / "runs/tiny", tmp_path / "runs/whole")
    shutil.copytree(searched / "runs/tiny", tmp_path / "runs/broken")
    (tmp_path / "runs/broken/study.journal").write_bytes(b"\x00garbage\n{}\n")
    result = archsearch(tmp_path, "front", "broken")
    assert result.returncode == 2
    assert "study.journal is damaged" in result.stderr
    assert archsearch(tmp_path, "front", "none").returncode == 2


@pytest.mark.parametrize(
    "data",
    [
        {"source": "folder", "path": str(SHARED / "data/flowers12"), "image_size": 32},
        {"source": "npz", "path": str(SHARED / "data/cifar10_20k.npz"), "image_size": 32, "val_fraction": 0.1},
    ],
    ids=["folder", "npz"],
)
def test_the_same_search_on_data_of_the_user(tmp_path: Path, data: dict[str, Any]) -> None:
    if not Path(data["path"]).exists():
        pytest.skip(
            f"{data['path']} is not there: the shared data sets lie beside the checkout only where it was given"
        )
    kwargs = {"img_size": 32, "patch_size": 8, "depth": 1}
    backbones = ["resnet10t", {"name": "vit_tiny_patch16_224", "kwargs": kwargs}]
    fidelity = {"min": 1, "max": 2, "reduction": 2}
    space_file(tmp_path, data=data, backbones=backbones, search__trials=3, search__fidelity=fidelity)
    result = archsearch(tmp_path, "run", "tiny.yaml")
    assert result.returncode == 0, result.stdout + result.stderr
    check_that_everything_adds_up(tmp_path, "tiny", 3)
    result = archsearch(tmp_path, "pick", "tiny", "--prefer", "accuracy", "--output", "picked")
    assert result.returncode == 0, result.stderr
    classes = json.loads((tmp_path / "picked/classes.json").read_text())
    assert len(classes) == (12 if data["source"] == "folder" else 10)


def test_the_quick_start_finds_a_front_of_three_and_97_percent(tmp_path: Path) -> None:
    space = Path(__file__).resolve().parents[2] / "spaces/catalog/quickstart.yaml"
    result = archsearch(tmp_path, "run", space)
    assert result.returncode == 0, result.stdout + result.stderr
    said = front_json(tmp_path, "digits-quickstart")
    points = [point["values"] for point in said["points"]]
    assert len({tuple(sorted(point.items())) for point in points}) >= 3
    assert max(point["accuracy"] for point in points) > 0.97
    for one in points:
        for two in points:
            better = one["accuracy"] >= two["accuracy"] and one["macs"] <= two["macs"]
            assert not better or one == two
    check_that_everything_adds_up(tmp_path, "digits-quickstart", 30)
