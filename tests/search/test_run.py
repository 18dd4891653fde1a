"""The main job end to end: real data, a real Ray Tune search, a real study on disk, a real MLflow store."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient

from search import results
from search.cli import main
from search.data import load_data
from search.tracking.tracker import store_of
from search.trial import TimmEvaluator
from spaces import load
from tests.search.command import archsearch, space_file
from tests.search.plain import checkpoint
from tests.search.sums import check_that_everything_adds_up, front_json

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
        (["run", "tiny.yaml", "--runs", "tiny.yaml"], {}, "--runs tiny.yaml is a file; searches are in a folder"),
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
