"""Gates that die in a real training: the evaluator removes their branches, and the search goes on with what is left."""

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient

from search import results
from search.cli import main
from search.data import Dataset, load_data
from search.evaluator import Measurement
from search.model import read_model
from search.record import State
from search.training import Trainer
from search.trial import TimmEvaluator
from spaces import Architecture, SpaceFile, build, load
from spaces.schema import Train
from spaces.techniques.scaling.scales import Gate, Learned, scales_of
from tests.search.command import archsearch, space_file
from tests.search.pictures import data_of

pytestmark = pytest.mark.usefixtures("one_thread")

DEEP: dict[str, Any] = {"layers": [2, 2, 2, 2], "channels": [16, 32, 48, 64]}
BACKBONE = {"name": "resnet18", "kwargs": {name: [value] for name, value in DEEP.items()}}
SPARSE = Architecture(backbone="resnet18", kwargs=DEEP, choices={"scaling": {"kind": "adaptive", "penalty": 0.3}})
DATA: dict[str, Any] = {"source": "digits", "image_size": 16}
BEFORE = {"accuracy_before_removal", "latency_ms_before_removal", "macs_before_removal", "params_before_removal"}
AFTER = {"latency_ms_after_removal", "branches_removed"}


def space() -> SpaceFile:
    return load(
        {
            "name": "gates",
            "data": DATA,
            "backbones": [BACKBONE],
            "dimensions": {"scaling": ["adaptive"]},
            "objectives": {"accuracy": "maximize", "macs": "minimize"},
            "search": {"trials": 1, "fidelity": {"rungs": [1, 6]}},
            "train": {"lr": 2e-3},
        }
    )


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_data(data_of(**DATA))


@pytest.fixture(scope="module")
def evaluator(digits: Dataset) -> TimmEvaluator:
    return TimmEvaluator(space(), digits)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoint")


@pytest.fixture(scope="module")
def last(evaluator: TimmEvaluator, checkpoint: Path) -> Measurement:
    return list(evaluator.evaluate(SPARSE, 6, 0, checkpoint))[-1]


def test_the_last_measurement_has_the_smaller_network_and_both_accuracies(
    evaluator: TimmEvaluator, last: Measurement
) -> None:
    assert last.network is not None
    assert last.metrics.keys() >= BEFORE | AFTER
    whole = evaluator.costs(SPARSE)
    assert {name: last.metrics[f"{name}_before_removal"] for name in whole} == whole
    assert {name: last.values[name] for name in whole} == evaluator.costs(last.network)
    assert last.values["params"] < whole["params"]
    assert last.values["macs"] < whole["macs"]
    assert 0 < last.metrics["branches_removed"] <= 8
    assert last.values["accuracy"] == last.metrics["val_accuracy"] > 0.5
    assert last.values["accuracy"] == pytest.approx(last.metrics["accuracy_before_removal"], abs=0.02)


def test_asked_again_it_says_the_same(evaluator: TimmEvaluator, last: Measurement, checkpoint: Path) -> None:
    (again,) = pickle.loads(pickle.dumps(evaluator)).evaluate(SPARSE, 6, 0, checkpoint)
    assert (again.network, again.values, again.fidelity) == (last.network, last.values, 6)
    measured = {name for name in again.metrics if name.startswith("latency")}
    assert {name: again.metrics[name] for name in BEFORE | AFTER if name not in measured} == {
        name: last.metrics[name] for name in BEFORE | AFTER if name not in measured
    }


def test_what_is_left_is_tested(evaluator: TimmEvaluator, digits: Dataset, last: Measurement, checkpoint: Path) -> None:
    assert last.network is not None
    logits = evaluator.predict_logits(last.network, checkpoint, digits.val)
    labels = torch.from_numpy(digits.labels[digits.val])
    assert (logits.argmax(dim=1) == labels).float().mean().item() == pytest.approx(last.values["accuracy"])
    assert evaluator.test(last.network, checkpoint) == pytest.approx(last.values["accuracy"], abs=0.1)


def test_what_is_left_of_a_training_goes_with_it(
    evaluator: TimmEvaluator, digits: Dataset, last: Measurement, checkpoint: Path, tmp_path: Path
) -> None:
    shutil.copytree(checkpoint, tmp_path / "trial")
    list(evaluator.evaluate(SPARSE, 1, 0, tmp_path / "trial"))  # starts anew, as the weights there are of epoch 6
    assert evaluator.predict_logits(SPARSE, tmp_path / "trial", digits.val[:8]).shape == (8, 10)


def test_below_full_fidelity_all_stays(evaluator: TimmEvaluator, tmp_path: Path) -> None:
    (first,) = evaluator.evaluate(SPARSE, 1, 0, tmp_path)
    assert first.network is None
    assert set(first.values) == {"accuracy"}


@pytest.mark.parametrize("conditioned", [False, True])
def test_gates_close_in_a_short_training_and_by_their_penalty(digits: Dataset, conditioned: bool) -> None:
    """With the learning rate of the weights they could not: 6 epochs of 17 steps of 1e-3 on average are 0.1."""
    found = {}
    for penalty in (0.0001, 0.3):
        choice = {"kind": "adaptive", "penalty": penalty, "conditioned": conditioned}
        torch.manual_seed(0)
        model = build(Architecture(backbone="resnet18", kwargs=DEEP, choices={"scaling": choice}), 10, 1)
        trainer = Trainer(model, digits, Train(lr=2e-3), horizon=6, seed=0)
        while trainer.epoch < 6:
            trainer.train_epoch()
        gates = [scale for scale in scales_of(model).values() if isinstance(scale, Learned | Gate)]
        found[penalty] = [float((gate.gamma if isinstance(gate, Learned) else gate.bias).detach()) for gate in gates]
    assert min(map(abs, found[0.0001])) > 0.1
    assert sum(gate < 0.01 for gate in found[0.3]) >= 3


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a search has run whose only architecture loses branches."""
    folder = tmp_path_factory.mktemp("searched")
    space_file(
        folder,
        backbones=[BACKBONE],
        dimensions={"scaling": {"kind": ["adaptive"], "penalty": [0.3]}},
        search={"trials": 1, "fidelity": {"rungs": [1, 6]}},
    )
    result = archsearch(folder, "run", "tiny.yaml")
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


def command(folder: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sys.argv", ["archsearch", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code


def test_the_front_shows_what_is_left_and_the_study_remembers_it(
    searched: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command(searched, monkeypatch, "front", "tiny", "--json")
    (point,) = json.loads(capsys.readouterr().out)["points"]
    (record,) = results.opened(searched / "runs", "tiny").records()
    assert record.state is State.COMPLETE
    assert record.network != record.architecture
    assert point["architecture"] == record.network.to_dict()
    assert point["id"] == record.network.id
    assert point["values"]["macs"] == record.costs["macs"] == record.values["macs"]
    assert record.costs["macs"] < record.history[-1].metrics["macs_before_removal"]


def test_the_picked_model_has_the_accuracy_of_the_search(searched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command(searched, monkeypatch, "pick", "tiny", "--output", "picked")
    (record,) = results.opened(searched / "runs", "tiny").records()
    model, dataset = read_model(searched / "picked"), load_data(data_of(**DATA))
    assert model.architecture == record.network
    with torch.inference_mode():
        images = torch.cat([model.preprocessing(dataset.images[index]) for index in dataset.test])
        hits = model.module(images).argmax(dim=1).numpy() == dataset.labels[dataset.test]
    assert hits.mean() == pytest.approx(record.test_accuracy)
    assert sum(parameter.numel() for parameter in model.module.parameters()) == record.costs["params"]


def test_mlflow_has_the_network_and_how_strongly_its_layers_count(searched: Path) -> None:
    (record,) = results.opened(searched / "runs", "tiny").records()
    client = MlflowClient(f"sqlite:///{searched / 'runs' / 'mlflow.db'}")
    assert record.mlflow_run_id is not None
    run = client.get_run(record.mlflow_run_id)
    assert Architecture.from_json(run.data.tags["network"]) == record.network
    assert {"strengths.json", "strengths.png"} <= {item.path for item in client.list_artifacts(run.info.run_id)}
    content = json.loads(Path(client.download_artifacts(run.info.run_id, "strengths.json")).read_text())
    assert len(content) == 8, "of the whole network, as trained"
    assert sum(values[0] <= 0.01 for values in content.values()) == run.data.metrics["branches_removed"]
    picture = Path(client.download_artifacts(run.info.run_id, "strengths.png")).read_bytes()
    assert picture.startswith(b"\x89PNG")
