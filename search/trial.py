"""The timm evaluator: an architecture is built, costed, trained, validated, and once in the end tested.

Knows nothing of Ray, Optuna or MLflow, and does not decide what to evaluate.
"""

import gc
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from search import skipping
from search.costing import Costing
from search.costs import latency_ms
from search.data import Batches, Dataset, load_data
from search.data.batches import Batch
from search.data.corruptions import corrupted
from search.data.seeds import seed_of
from search.evaluator import Measurement, Reading
from search.training import (
    REDUCED,
    Trainer,
    corruption_accuracy,
    finished,
    inherited,
    load_weights,
    optimizer_of,
    predict,
    save_strengths,
    save_weights,
    saved_epoch,
    score,
    seeded,
)
from spaces import Architecture, InputError, SpaceError, Start, build
from spaces.backbone import create
from spaces.removal import Removal, remove_dead
from spaces.schema import PRETRAINED, SpaceFile
from spaces.techniques.scaling.scales import strengths
from spaces.weights import normalisation, weights_of

_SAVE_EVERY_S = 60  # between validations; an epoch of a big data set is not lost with a killed process


TrialKey = tuple[str, int, Path]
"""Architecture id, seed, checkpoint directory."""


def dataset_of(space: SpaceFile) -> Dataset:
    """The images of a space of backbones, normalised as `data` says.

    Where it says nothing, by the training split's own mean and deviation; with `inherit: pretrained` by those that the
    weights were trained with, if the images are RGB and all backbones agree.

    Raises:
        InputError: as `search.data.load_data`.
    """
    assert space.data is not None, "a space with backbones has data"
    dataset = load_data(space.data)
    expected = {normalisation(entry.name) for entry in space.backbones}
    if space.data.mean or space.train.inherit != PRETRAINED or len(expected) > 1:
        return dataset
    mean, std = expected.pop()
    if len(mean) != dataset.in_chans:
        return dataset
    return replace(dataset, preprocessing=replace(dataset.preprocessing, mean=mean, std=std))


def _starts(space: SpaceFile, num_classes: int, in_chans: int) -> dict[str, Path]:
    """The weights of every unmodified backbone, by its id; each file is tried on the network that starts from it."""
    starts: dict[str, Path] = {}
    for index, entry in enumerate(space.backbones):
        try:
            weights = weights_of(entry.name, entry.weights)
            for kwargs in entry.combinations():
                create(entry.name, kwargs, num_classes=num_classes, in_chans=in_chans, weights=weights)
                plain = Architecture(backbone=entry.name, kwargs=kwargs)
                if starts.setdefault(plain.id, weights) != weights:
                    raise SpaceError(f"the same network starts from {starts[plain.id]} already; leave one out")
        except SpaceError as error:
            raise SpaceError(error.reason, key=f"backbones[{index}].weights") from None
    return starts


@final
class TimmEvaluator:
    """Trains the networks of a space on one data set; an `Evaluator`, a `Meter` and a `Tester`.

    Between the rungs of one trial its network stays in memory; a pickle has none, and costs no more than the
    data set does.

    Raises:
        SpaceError: the space asks for pretrained weights that are not there, not readable, or of another network; for
            a cost that there is none of; or one of its backbones cannot take the images.
    """

    def __init__(self, space: SpaceFile, dataset: Dataset):
        self._weights: dict[str, Path] = {}
        if space.train.inherit == PRETRAINED:
            self._weights = _starts(space, dataset.num_classes, dataset.in_chans)
        self._recipe, self._horizon, self._dataset = space.train, space.search.fidelity.max, dataset
        self.costing = Costing(
            space,
            num_classes=dataset.num_classes,
            input_size=dataset.input_size,
            images=len(dataset.train),
            optimizer=partial(optimizer_of, space.train),
        )
        self._views = {
            name: corrupted(dataset, entry.kinds, entry.severities)
            for name, entry in self.costing.judged.items()
            if entry.cost == "corruption_accuracy"
        }
        self._costs: dict[str, dict[str, float]] = {}
        self._live: tuple[TrialKey, Trainer] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_live": None}

    def costs(self, architecture: Architecture) -> Mapping[str, float]:
        """Every counted cost of the space, by name, from a network without weights.

        Raises:
            SpaceError: the network cannot be built, or not for images of this data set's size.
        """
        if architecture.id not in self._costs:
            self._costs[architecture.id] = self.costing.count(architecture)
        return self._costs[architecture.id]

    def measure(self, architecture: Architecture) -> Mapping[str, Reading]:
        """Every timed cost of the space, by name, in this process.

        Raises:
            SpaceError: the network cannot be built or run so.
        """
        return self.costing.measure(architecture)

    def evaluate(self, architecture: Architecture, fidelity: int, seed: int, checkpoint: Path) -> Iterator[Measurement]:
        """Epochs up to `fidelity`, one measurement each; the last also has values, of validation data: `accuracy`,
        and what else the space asks for that is known only now.

        Leaves `model.safetensors` in `checkpoint`, and `strengths.json` where the network has scales. At full
        fidelity residual branches whose adaptive gate has died are removed: the last measurement then has the
        smaller network with its accuracy and costs, and in its metrics those from before. Deterministic in
        (architecture, seed, inherited weights): where `checkpoint` is ahead of `fidelity` the training is done again
        from the start.

        Raises:
            TrainingDiverged: nan or inf.
        """
        key = (architecture.id, seed, checkpoint)
        trainer = self._take(key, fidelity) or self._resume(architecture, fidelity, seed, checkpoint)
        metrics: dict[str, float] = {}
        saved = time.monotonic()
        while trainer.epoch < fidelity:
            metrics = trainer.train_epoch()
            if trainer.epoch < fidelity:
                metrics |= skipping.metrics_of(trainer.model)
                if time.monotonic() - saved > _SAVE_EVERY_S:
                    trainer.save_state(checkpoint)
                    saved = time.monotonic()
                yield Measurement(fidelity=trainer.epoch, metrics=metrics, time=time.time())
        metrics |= skipping.metrics_of(trainer.model)
        values = self._judge(trainer, metrics)
        trainer.save(checkpoint)
        images, _ = self._sample(trainer.device)
        save_strengths(strengths(trainer.model, images), checkpoint)
        removal = None
        if fidelity == self._horizon:
            removal = remove_dead(trainer.model, architecture, [images])
        if removal is not None and removal.removed:
            yield self._reduced(architecture, trainer, removal, metrics, checkpoint)
            return
        self._live = key, trainer
        yield Measurement(fidelity=fidelity, values=values, metrics=metrics, time=time.time())

    def _judge(self, trainer: Trainer, metrics: dict[str, float]) -> dict[str, float]:
        """Every objective that is known after training only; what else is found out goes into `metrics`."""
        metrics |= trainer.validate()
        values = {"accuracy": metrics["val_accuracy"]}
        for name in self.costing.judged:
            if name in self._views:
                found = corruption_accuracy(trainer.model, self._views[name], self._recipe.batch_size, trainer.device)
                values[name] = found.pop("corruption_accuracy")
                metrics |= {f"val_{kind}": accuracy for kind, accuracy in found.items()}
            else:
                values[name] = metrics["val_calibration_error"]
        return values

    def _reduced(
        self,
        architecture: Architecture,
        trainer: Trainer,
        removal: Removal,
        metrics: dict[str, float],
        checkpoint: Path,
    ) -> Measurement:
        """What is left without the dead branches, validated and kept beside the whole network."""
        size = self._dataset.input_size
        metrics["accuracy_before_removal"] = metrics["val_accuracy"]
        metrics["latency_ms_before_removal"] = latency_ms(trainer.model, size)
        before = self.costing.count(architecture, own=False)
        metrics |= {f"{name}_before_removal": cost for name, cost in before.items()}
        trainer.model = removal.model
        values = self._judge(trainer, metrics)
        metrics["latency_ms_after_removal"] = latency_ms(removal.model, size)
        metrics["branches_removed"] = len(removal.removed)
        save_weights(removal.model, checkpoint / REDUCED, trainer.epoch)
        values |= self.costing.count(removal.architecture, own=False)
        network = removal.architecture
        return Measurement(fidelity=trainer.epoch, values=values, metrics=metrics, time=time.time(), network=network)

    def _sample(self, device: torch.device) -> Batch:
        """A batch of training images of any class, always the same, prepared as for inference."""
        chosen = np.random.default_rng(0).permutation(self._dataset.train)[: self._recipe.batch_size]
        return next(iter(Batches(self._dataset, chosen, self._recipe.batch_size, device)))

    def test(self, architecture: Architecture, checkpoint: Path) -> float:
        """Accuracy in [0, 1] on the held-out test split, with the weights that the training left in `checkpoint`.

        Raises:
            InputError: the data have no test split.
        """
        if not len(self._dataset.test):
            raise InputError("the data have no test split: data.test_fraction is 0")
        return score(*self._predict(architecture, checkpoint, self._dataset.test)).accuracy

    def judge(self, architecture: Architecture, checkpoint: Path, views: Mapping[str, Dataset]) -> dict[str, float]:
        """As `test`, and how far off its confidence is, and its accuracy on corrupted test images.

        Args:
            views: of `search.data.corruptions.corrupted`, of the test split.

        Returns:
            test_accuracy, test_calibration_error and test_corruption_accuracy, the last with its parts.
        """
        model, device = self._trained(architecture, checkpoint)
        batches = Batches(self._dataset, self._dataset.test, self._recipe.batch_size, device)
        clean = score(*predict(model, batches))
        found = {"accuracy": clean.accuracy, "calibration_error": clean.calibration_error}
        found |= corruption_accuracy(model, views, self._recipe.batch_size, device)
        return {f"test_{name}": value for name, value in found.items()}

    def predict_logits(self, architecture: Architecture, checkpoint: Path, indices: np.ndarray) -> Tensor:
        """float32 `[len(indices), num_classes]` on the CPU, for these images of the data set."""
        return self._predict(architecture, checkpoint, indices)[0].cpu()

    def _predict(self, architecture: Architecture, checkpoint: Path, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        model, device = self._trained(architecture, checkpoint)
        return predict(model, Batches(self._dataset, indices, self._recipe.batch_size, device))

    def _trained(self, architecture: Architecture, checkpoint: Path) -> tuple[nn.Module, torch.device]:
        """With the weights that its training left."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model = self._build(architecture)
        load_weights(model, finished(checkpoint))
        return model.to(device), device

    def _take(self, key: TrialKey, fidelity: int) -> Trainer | None:
        """The trainer in memory, where it is this trial's and not behind its checkpoint; any other is let go."""
        live, self._live = self._live, None
        if live is not None and live[0] == key and saved_epoch(key[2]) <= live[1].epoch <= fidelity:
            return live[1]
        del live
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # for other trials on the same GPU
        return None

    def _resume(self, architecture: Architecture, fidelity: int, seed: int, checkpoint: Path) -> Trainer:
        """A trainer that goes on from `checkpoint`; from the start where that is past `fidelity`."""
        trainer = self._start(architecture, seed, checkpoint)
        trainer.resume(checkpoint)
        return trainer if trainer.epoch <= fidelity else self._start(architecture, seed, checkpoint)

    def _start(self, architecture: Architecture, seed: int, checkpoint: Path) -> Trainer:
        with seeded(seed_of("weights", seed), torch.device("cpu")):
            model = self._build(architecture, self._begin(architecture, checkpoint))
        return Trainer(model, self._dataset, self._recipe, horizon=self._horizon, seed=seed)

    def _begin(self, architecture: Architecture, checkpoint: Path) -> Start | None:
        """The weights that were put there to be inherited, or the pretrained ones that the space asks for."""
        given, whose = inherited(checkpoint), None
        if given is not None:
            weights, whose = given[0], Architecture.from_dict(given[1]["architecture"])
        elif self._recipe.inherit == PRETRAINED:
            weights = self._weights[Architecture(backbone=architecture.backbone, kwargs=dict(architecture.kwargs)).id]
        else:
            return None
        batch = self._sample(torch.device("cpu")) if self._recipe.importance == "taylor" else None
        return Start(weights=weights, architecture=whose, importance=self._recipe.importance, batch=batch)

    def _build(self, architecture: Architecture, start: Start | None = None) -> nn.Module:
        return build(architecture, self._dataset.num_classes, self._dataset.in_chans, start=start)
