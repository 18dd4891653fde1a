"""The loop: it learns, it can be paused anywhere, it depends on its seed alone, it fails loudly."""

import math
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from search.data import Dataset, load_data
from search.training import Trainer, TrainingDiverged, learning_rate, load_weights, saved_epoch, seeded
from search.training.evaluation import has_batch_norm
from spaces.schema import Train
from tests.search.pictures import data_of

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_data(data_of("digits", transform="crop_flip"))


@pytest.fixture(scope="module")
def few(digits: Dataset) -> Dataset:
    """Enough to run, and a last batch of its own size."""
    return replace(digits, train=digits.train[:150], val=digits.val[:100])


def small_resnet(**kwargs: Any) -> nn.Module:
    with seeded(0, CPU):
        return timm.create_model(
            "resnet10t", num_classes=10, in_chans=1, stem_width=8, channels=(16, 16, 32, 32), drop_rate=0.1, **kwargs
        )


def small_convnext() -> nn.Module:
    with seeded(0, CPU):
        return timm.create_model(
            "convnext_atto", num_classes=10, in_chans=1, depths=(1, 1, 1, 1), dims=(16, 32, 64, 64), patch_size=2
        )


def trained(model: nn.Module, dataset: Dataset, epochs: int, **keys: Any) -> Trainer:
    trainer = Trainer(model, dataset, Train(**keys), horizon=max(epochs, 3), seed=0, device="cpu")
    for _ in range(epochs):
        trainer.train_epoch()
    return trainer


def same(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(*pair) for pair in pairs)


class TestSchedule:
    def test_rises_linearly_and_falls_by_a_cosine(self) -> None:
        rates = [learning_rate(step, highest=0.8, warmup_steps=4, total_steps=12) for step in range(12)]
        assert rates[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
        assert rates[4] == 0.8
        assert rates[8] == pytest.approx(0.4)
        assert rates[11] == pytest.approx(0.4 * (1 + math.cos(math.pi * 7 / 8)))
        assert rates[4:] == sorted(rates[4:], reverse=True)

    def test_may_start_at_the_top_and_may_be_all_warm_up(self) -> None:
        assert learning_rate(0, highest=0.8, warmup_steps=0, total_steps=12) == 0.8
        assert learning_rate(11, highest=0.8, warmup_steps=12, total_steps=12) == pytest.approx(0.8)


class TestLearning:
    def test_digits(self) -> None:
        dataset = load_data(data_of("digits"))
        trainer = Trainer(small_convnext(), dataset, Train(lr=4e-3), horizon=8, seed=0, device="cpu")
        history = [trainer.train_epoch() for _ in range(8)]
        assert trainer.validate()["val_accuracy"] > 0.9
        assert history[-1]["train_loss"] < history[0]["train_loss"] / 2
        assert history[-1]["train_accuracy"] > 0.9
        assert history[-1]["lr"] < 1e-4
        assert history[-1]["images_per_s"] == pytest.approx(1079 / history[-1]["seconds"])

    def test_every_parameter_moves(self, few: Dataset) -> None:
        model = small_resnet()
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        trained(model, few, 1)
        still = [name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])]
        assert still == []

    def test_weight_decay_spares_biases_and_norms(self, few: Dataset) -> None:
        decays, by_lr = {}, {}
        for decay in (0.0, 5.0):
            by_lr[decay] = dict(trained(small_convnext(), few, 1, weight_decay=decay, lr=1e-2).model.named_parameters())
        for name, parameter in by_lr[5.0].items():
            decays[name] = (parameter.norm() / by_lr[0.0][name].norm()).item()
        assert decays["stages.1.blocks.0.mlp.fc1.weight"] < 0.95
        assert decays["stages.1.blocks.0.norm.weight"] > 0.97

    def test_gradients_are_clipped(self, few: Dataset) -> None:
        recipe = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "lr": 0.1, "warmup_epochs": 0}
        model, start = small_convnext(), small_convnext()
        trained(model, replace(few, train=few.train[:64]), 1, **recipe, clip_grad=0.01)  # one step
        moved = [a - b for a, b in zip(model.parameters(), start.parameters(), strict=True)]
        assert torch.cat([m.flatten() for m in moved]).norm().item() == pytest.approx(0.1 * 0.01, rel=1e-3)

    def test_tied_weights_stay_tied(self, few: Dataset, tmp_path: Path) -> None:
        def tied() -> nn.Module:
            model = small_resnet(layers=(2, 1, 1, 1))
            model.layer1[1].conv2.weight = model.layer1[1].conv1.weight
            return model

        trainer = trained(tied(), few, 3)
        trainer.save(tmp_path)
        again = tied()
        load_weights(again, tmp_path)
        assert again.layer1[1].conv2.weight is again.layer1[1].conv1.weight
        assert same(again, trainer.model)

    def test_ends_at_the_horizon(self, few: Dataset) -> None:
        trainer = trained(small_convnext(), replace(few, train=few.train[:10]), 3)
        with pytest.raises(ValueError, match=r"^epoch 4 is past the horizon of 3 epochs$"):
            trainer.train_epoch()


class TestBatchNorm:
    def test_recalibration_saves_a_resnet_after_its_first_epoch(self, digits: Dataset) -> None:
        dataset = replace(digits, transform="none")
        with seeded(0, CPU):
            model = timm.create_model("resnet10t", num_classes=10, in_chans=1)
        trainer = trained(model, dataset, 1)
        before = trainer.score(dataset.val).accuracy
        after = trainer.validate()["val_accuracy"]
        assert before < 0.3
        assert after > 0.7

    def test_leaves_the_training_as_it_was(self, few: Dataset) -> None:
        with_pause, without = trained(small_resnet(), few, 1), trained(small_resnet(), few, 1)
        with_pause.validate()
        for trainer in (with_pause, without):
            trainer.train_epoch()
            trainer.validate()
        assert same(with_pause.model, without.model)

    def test_is_skipped_where_there_is_none(self, few: Dataset) -> None:
        trainer = trained(small_convnext(), few, 1)
        score = trainer.score(few.val)
        assert not has_batch_norm(trainer.model)
        assert trainer.validate() == {f"val_{name}": value for name, value in asdict(score).items()}


class TestResume:
    SCRIPT = """
import sys
import torch
from dataclasses import asdict, replace
from pathlib import Path
from tests.search.test_training import Train, Trainer, data_of, load_data, small_resnet
torch.set_num_threads(1)
dataset = load_data(data_of("digits", transform="crop_flip"))
dataset = replace(dataset, train=dataset.train[:150], val=dataset.val[:100])
trainer = Trainer(small_resnet(), dataset, Train(), horizon=9, seed=0, device="cpu")
trainer.resume(Path(sys.argv[1]))
assert trainer.epoch == 3
while trainer.epoch < 9:
    trainer.train_epoch()
trainer.validate()
trainer.save(Path(sys.argv[1]))
"""

    def test_in_a_new_process_equals_a_straight_run(self, few: Dataset, tmp_path: Path) -> None:
        paused = Trainer(small_resnet(), few, Train(), horizon=9, seed=0, device="cpu")
        for _ in range(3):
            paused.train_epoch()
        paused.validate()
        paused.save(tmp_path)
        subprocess.run([sys.executable, "-c", self.SCRIPT, str(tmp_path)], cwd=ROOT, check=True)

        torch.manual_seed(99)  # what ran before in the process does not matter
        straight = trained(small_resnet(), few, 9)
        metrics = straight.validate()
        resumed = Trainer(small_resnet(), few, Train(), horizon=9, seed=0, device="cpu")
        resumed.resume(tmp_path)
        assert resumed.epoch == 9
        assert same(straight.model, resumed.model)
        assert resumed.validate() == metrics

    def test_the_seed_decides(self, few: Dataset) -> None:
        first = trained(small_resnet(), few, 1).model
        other = Trainer(small_resnet(), few, Train(), horizon=3, seed=1, device="cpu")
        other.train_epoch()
        assert same(first, trained(small_resnet(), few, 1).model)
        assert not same(first, other.model)

    def test_leaves_the_global_generator_alone(self, few: Dataset) -> None:
        state = torch.get_rng_state()
        trained(small_resnet(), few, 1).validate()
        assert torch.equal(torch.get_rng_state(), state)

    def test_from_nothing_is_a_start(self, few: Dataset, tmp_path: Path) -> None:
        trainer = trained(small_resnet(), few, 0)
        trainer.resume(tmp_path)
        assert (trainer.epoch, saved_epoch(tmp_path)) == (0, 0)


class TestCheckpoint:
    def test_a_finished_training_keeps_its_weights_only(self, few: Dataset, tmp_path: Path) -> None:
        trainer = trained(small_resnet(), few, 2)
        trainer.save(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == {"model.safetensors", "training.pt"}
        trainer.train_epoch()
        trainer.save(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == {"model.safetensors"}
        assert saved_epoch(tmp_path) == 3

    def test_a_failed_write_leaves_the_old_file(
        self, few: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        trainer = trained(small_resnet(), few, 1)
        trainer.save(tmp_path)
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        trainer.train_epoch()
        monkeypatch.setattr(trainer._optimizer, "state_dict", lambda: {"state": (yield)})  # cannot be pickled
        with pytest.raises(TypeError, match="cannot pickle 'generator'"):
            trainer.save(tmp_path)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before

    def test_a_state_that_would_run_code_is_refused(self, few: Dataset, tmp_path: Path) -> None:
        class Evil:
            def __reduce__(self) -> tuple[Any, ...]:
                return Path.touch, (tmp_path / "ran",)

        torch.save({"epoch": Evil()}, tmp_path / "training.pt")
        with pytest.raises(Exception, match="Weights only load failed"):
            trained(small_resnet(), few, 0).resume(tmp_path)
        assert not (tmp_path / "ran").exists()


def test_a_diverged_training_says_where(few: Dataset) -> None:
    with pytest.raises(TrainingDiverged, match=r"^loss (nan|inf) in epoch 1, step [23]$"):
        trained(small_convnext(), few, 1, optimizer="sgd", lr=1e30, warmup_epochs=0)


def test_a_network_that_breaks_in_its_last_step_is_not_validated(few: Dataset) -> None:
    one_step = replace(few, train=few.train[:64])
    trainer = trained(small_convnext(), one_step, 1, optimizer="sgd", lr=1e30, warmup_epochs=0)
    with pytest.raises(TrainingDiverged, match=r"^validation loss nan after epoch 1$"):
        trainer.validate()
