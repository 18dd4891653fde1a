"""The timm evaluator on real spaces and real images: costs, rungs, memory, tests, and what is refused."""

import gc
import pickle
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from search import evaluator as ports
from search.data import Dataset, Preprocessing, load_data
from search.data.folder import open_folder
from search.evaluator import Measurement
from search.training import load_weights
from search.trial import TimmEvaluator
from spaces import Architecture, InputError, SpaceError, SpaceFile, build, load
from tests.search.pictures import data_of, needs

RESNET = Architecture(backbone="resnet10t", choices={"scaling": "rezero", "width": 0.25})
CONVNEXT = Architecture(backbone="convnext_atto", choices={"width": 0.25})


def space_of(data: dict[str, Any], rungs: tuple[int, ...] = (1, 3), **train: Any) -> SpaceFile:
    return load(
        {
            "name": "trial",
            "data": data,
            "backbones": ["resnet10t", "convnext_atto", "vit_tiny_patch16_224"],
            "dimensions": {"scaling": ["none", "rezero"], "width": {"choices": [0.25, 1.0], "per": "network"}},
            "objectives": {"accuracy": "maximize", "macs": "minimize"},
            "search": {"trials": 2, "fidelity": {"rungs": list(rungs)}},
            "train": train,
        }
    )


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_data(data_of("digits"))


@pytest.fixture
def evaluator(digits: Dataset) -> TimmEvaluator:
    return TimmEvaluator(space_of({"source": "digits"}), digits)


def without_clock(measurement: Measurement) -> tuple[Any, ...]:
    metrics = {name: value for name, value in measurement.metrics.items() if name not in ("seconds", "images_per_s")}
    return measurement.fidelity, dict(measurement.values), metrics


class TestCosts:
    def test_are_those_of_the_network_that_is_built(self, evaluator: TimmEvaluator) -> None:
        costs = evaluator.costs(RESNET)
        model = build(RESNET, 10, 1)
        assert costs["params"] == sum(parameter.numel() for parameter in model.parameters())
        assert costs["macs"] == 1_445_120
        assert set(costs) == {"params", "macs"}

    def test_a_network_for_other_images_is_refused(self, evaluator: TimmEvaluator) -> None:
        with pytest.raises(SpaceError) as caught:
            evaluator.costs(Architecture(backbone="vit_tiny_patch16_224"))
        assert str(caught.value).startswith("vit_tiny_patch16_224 cannot take 32x32 images: Input height (32)")


class TestRungs:
    def test_an_epoch_is_a_measurement_and_a_rung_has_a_value(self, evaluator: TimmEvaluator, tmp_path: Path) -> None:
        first = list(evaluator.evaluate(RESNET, 1, 0, tmp_path / "trial"))
        second = list(evaluator.evaluate(RESNET, 3, 0, tmp_path / "trial"))
        assert [(m.fidelity, set(m.values)) for m in first + second] == [
            (1, {"accuracy"}),
            (2, set()),
            (3, {"accuracy"}),
        ]
        epoch = {"train_loss", "train_accuracy", "lr", "seconds", "images_per_s"}
        assert set(second[0].metrics) == epoch
        assert set(second[1].metrics) == epoch | {"val_accuracy", "val_loss", "val_calibration_error"}
        assert second[1].values["accuracy"] == second[1].metrics["val_accuracy"] > 0.8
        assert {path.name for path in (tmp_path / "trial").iterdir()} == {"model.safetensors", "strengths.json"}

    def test_in_memory_from_disk_and_straight_are_the_same(self, evaluator: TimmEvaluator, tmp_path: Path) -> None:
        in_memory = [m for rung in (1, 3) for m in evaluator.evaluate(RESNET, rung, 0, tmp_path / "a")]
        straight = list(evaluator.evaluate(RESNET, 3, 0, tmp_path / "b"))
        list(evaluator.evaluate(RESNET, 1, 0, tmp_path / "c"))
        other = pickle.loads(pickle.dumps(evaluator))
        from_disk = list(other.evaluate(RESNET, 3, 0, tmp_path / "c"))
        assert [without_clock(m) for m in straight[1:]] == [without_clock(m) for m in in_memory[1:]]
        assert [without_clock(m) for m in from_disk] == [without_clock(m) for m in in_memory[1:]]
        weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in "abc"]
        assert weights[0] == weights[1] == weights[2]

    def test_a_finished_rung_is_only_validated_again(self, evaluator: TimmEvaluator, tmp_path: Path) -> None:
        last = list(evaluator.evaluate(RESNET, 3, 0, tmp_path))[-1]
        (again,) = pickle.loads(pickle.dumps(evaluator)).evaluate(RESNET, 3, 0, tmp_path)
        assert (again.fidelity, again.values) == (3, last.values)
        assert set(again.metrics) == {"val_accuracy", "val_loss", "val_calibration_error"}

    def test_a_checkpoint_that_is_ahead_is_not_mistaken_for_the_rung(
        self, evaluator: TimmEvaluator, tmp_path: Path
    ) -> None:
        first = list(evaluator.evaluate(RESNET, 1, 0, tmp_path))
        list(evaluator.evaluate(RESNET, 3, 0, tmp_path))
        assert [without_clock(m) for m in evaluator.evaluate(RESNET, 1, 0, tmp_path)] == list(map(without_clock, first))

    def test_the_seed_is_the_trial_s(self, evaluator: TimmEvaluator, tmp_path: Path) -> None:
        (zero,) = evaluator.evaluate(RESNET, 1, 0, tmp_path / "0")
        (one,) = evaluator.evaluate(RESNET, 1, 1, tmp_path / "1")
        assert zero.metrics["train_loss"] != one.metrics["train_loss"]


class TestMemory:
    def test_one_network_is_kept_until_the_next_trial(self, evaluator: TimmEvaluator, tmp_path: Path) -> None:
        list(evaluator.evaluate(RESNET, 1, 0, tmp_path / "a"))
        kept = evaluator._live
        assert kept is not None
        first = weakref.ref(kept[1].model)
        del kept
        list(evaluator.evaluate(RESNET, 3, 0, tmp_path / "a"))
        gc.collect()
        assert first() is not None, "the second rung goes on with the same network"
        list(evaluator.evaluate(CONVNEXT, 1, 0, tmp_path / "b"))
        gc.collect()
        assert first() is None

    def test_a_pickle_has_no_network(self, evaluator: TimmEvaluator, tmp_path: Path) -> None:
        buffers: list[pickle.PickleBuffer] = []
        list(evaluator.evaluate(RESNET, 1, 0, tmp_path))
        assert len(pickle.dumps(evaluator, protocol=5, buffer_callback=buffers.append)) < 20_000


class TestTest:
    def test_protocols(self, evaluator: TimmEvaluator) -> None:
        port: ports.Evaluator = evaluator
        assert isinstance(port, ports.Tester)

    def test_is_on_the_held_out_split(self, evaluator: TimmEvaluator, digits: Dataset, tmp_path: Path) -> None:
        list(evaluator.evaluate(RESNET, 3, 0, tmp_path))
        logits = evaluator.predict_logits(RESNET, tmp_path, digits.test)
        labels = torch.from_numpy(digits.labels[digits.test])
        assert evaluator.test(RESNET, tmp_path) == (logits.argmax(dim=1) == labels).float().mean().item() > 0.8

    def test_needs_a_test_split(self, tmp_path: Path) -> None:
        space = space_of({"source": "digits", "test_fraction": 0.0})
        assert space.data is not None
        evaluator = TimmEvaluator(space, load_data(space.data))
        with pytest.raises(InputError, match=r"the data have no test split: data\.test_fraction is 0"):
            evaluator.test(RESNET, tmp_path)


def test_pretrained_weights_that_are_not_there_are_refused_before_any_trial(digits: Dataset) -> None:
    with pytest.raises(InputError, match="not in the local cache"):
        TimmEvaluator(space_of({"source": "digits"}, pretrained=True), digits)


def test_a_picked_model_answers_on_pictures_as_in_the_search(tmp_path: Path) -> None:
    data = {"source": "folder", "path": str(needs("flowers12")), "image_size": 64}
    space = space_of(data, (1, 2), batch_size=32)
    assert space.data is not None
    dataset, pictures = load_data(space.data), open_folder(space.data)
    evaluator = TimmEvaluator(space, dataset)
    *_, last = evaluator.evaluate(RESNET, 2, 0, tmp_path)
    assert last.values["accuracy"] > 0.2, "chance is 0.08"

    preprocessing = Preprocessing.from_dict(dataset.preprocessing.to_dict())
    model = build(RESNET, dataset.num_classes, dataset.in_chans)
    load_weights(model, tmp_path)
    chosen = dataset.val[:40]
    with torch.inference_mode():
        logits = torch.cat([model.eval()(preprocessing(pictures.read(int(index)))) for index in chosen])
    assert isinstance(pictures.read(0), Image.Image)
    assert (logits - evaluator.predict_logits(RESNET, tmp_path, chosen)).abs().max() < 1e-5


def test_cifar_from_an_npz_file(tmp_path: Path) -> None:
    space = space_of({"source": "npz", "path": str(needs("cifar10_20k.npz")), "image_size": 32}, (1, 2))
    assert space.data is not None
    dataset = load_data(space.data)
    evaluator = TimmEvaluator(space, dataset)
    (first,) = evaluator.evaluate(RESNET, 1, 0, tmp_path)
    assert first.values["accuracy"] > 0.25, "chance is 0.1"
    assert evaluator.test(RESNET, tmp_path) == pytest.approx(first.values["accuracy"], abs=0.05)
