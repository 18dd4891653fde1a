"""Trainer: the loop. One network, one data set, one recipe; an epoch at a time.

What happens depends on the seed and the epoch alone, not on what ran before in the process nor on where the
training was paused: on a CPU to the last bit, on a GPU up to the order in which it adds.
"""

import inspect
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
import torch.nn.functional as F
from timm.optim import create_optimizer_v2, get_optimizer_class
from torch import Tensor, nn

from search.data import Batches, Dataset
from search.data.seeds import seed_of
from search.training import checkpoint
from search.training.evaluation import Score, has_batch_norm, predict, recalibrate, score, seeded
from search.training.schedule import learning_rate
from spaces.schema import Train

RECALIBRATION_IMAGES = 2048  # a mean over so many is off by 2% of a deviation (1 / sqrt(2048)) at most
_CHECK_STEPS = 100  # a GPU is asked this often whether the loss is finite: each answer waits for it
# The whole optimiser step in one kernel: a resnet10t at 32 pixels sees 14% more images a second on a CPU.
_FUSED = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)


class TrainingDiverged(Exception):
    """The loss is no longer finite; the message says at which epoch and step, both from 1."""


@final
class Trainer:
    """Trains `model` in place.

    A module may have two hooks: `penalty() -> Tensor`, a scalar that is added to the loss of every step, and
    `end_epoch(epoch, epochs)`, called after each epoch, counted from 1, of as many as the horizon has. It may also
    have a number `reach`: how far each of its own parameters must be able to come in the whole training. Adam and
    its kin move a parameter by about the learning rate a step, so that in a short training a gate would stay near
    where it starts whatever its penalty; where the sum of all rates is below `reach`, its rate is higher for that.

    Args:
        model: logits `[N, num_classes]` from images `[N, C, H, W]`.
        horizon: the epoch at which the learning rate reaches 0, whether or not the training is paused before.
        seed: of batch order, augmentation and dropout; the weights are the caller's.
        device: None takes a GPU where there is one.

    Attributes:
        epoch: epochs trained so far.
    """

    def __init__(
        self,
        model: nn.Module,
        dataset: Dataset,
        recipe: Train,
        *,
        horizon: int,
        seed: int,
        device: torch.device | str | None = None,
    ):
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        cuda = self.device.type == "cuda"
        self._format = torch.channels_last if cuda else torch.contiguous_format
        self.model = model.to(self.device).to(memory_format=self._format)
        self.epoch, self.horizon = 0, horizon
        self._dataset, self._recipe, self._seed = dataset, recipe, seed
        self._batches = Batches(dataset, dataset.train, recipe.batch_size, self.device)
        self._optimizer = optimizer_of(recipe, self.model)
        _hasten(self._optimizer, self.model, recipe.lr * horizon * len(self._batches) / 2)  # the sum of all rates
        self._amp_type = _amp_type(self.device) if recipe.amp == "auto" else None
        self._penalties = _hooks(self.model, "penalty")
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=self._amp_type == torch.float16)

    def train_epoch(self) -> dict[str, float]:
        """One pass over the training split.

        Returns:
            train_loss (smoothed, nats, with penalties), train_accuracy in [0, 1], lr (of the last step), seconds,
            images_per_s.

        Raises:
            TrainingDiverged: the loss is nan or inf.
            ValueError: the horizon is reached; the schedule ends there.
        """
        if self.epoch >= self.horizon:
            raise ValueError(f"epoch {self.epoch + 1} is past the horizon of {self.horizon} epochs")
        start, steps = time.perf_counter(), len(self._batches)
        losses, sizes = torch.zeros(steps, device=self.device), torch.zeros(steps)
        correct = torch.zeros((), device=self.device)
        self.model.train()
        with seeded(seed_of("dropout", self._seed, self.epoch), self.device):
            for step, (images, labels) in enumerate(self._batches.shuffled(self._seed, self.epoch)):
                rate = self._set_rate(self.epoch * steps + step)
                loss, hits = self._step(images.contiguous(memory_format=self._format), labels)
                losses[step], sizes[step] = loss, len(labels)
                correct += hits
                if (step + 1) % _CHECK_STEPS == 0 or step + 1 == steps:
                    self._check(losses)
        self.epoch += 1
        for end_epoch in _hooks(self.model, "end_epoch"):
            end_epoch(self.epoch, self.horizon)
        seconds = time.perf_counter() - start
        return {
            "train_loss": (losses.cpu() @ sizes / sizes.sum()).item(),
            "train_accuracy": correct.item() / self._batches.images,
            "lr": rate,
            "seconds": seconds,
            "images_per_s": self._batches.images / seconds,
        }

    def validate(self) -> dict[str, float]:
        """BatchNorm recalibrated on training images as they are, then the validation split.

        Returns:
            val_accuracy, val_loss and val_calibration_error, as of `Score`.

        Raises:
            TrainingDiverged: the network gives nan or inf.
        """
        self.recalibrate()
        result = self.score(self._dataset.val)
        if not np.isfinite(result.loss):
            raise TrainingDiverged(f"validation loss {result.loss} after epoch {self.epoch}")
        return {f"val_{name}": value for name, value in asdict(result).items()}

    def recalibrate(self) -> None:
        """Without BatchNorm nothing happens."""
        if not has_batch_norm(self.model):
            return
        seed = seed_of("recalibration", self._seed, self.epoch)
        chosen = np.random.default_rng(seed).permutation(self._dataset.train)[:RECALIBRATION_IMAGES]
        with seeded(seed, self.device):
            recalibrate(self.model, Batches(self._dataset, chosen, self._recipe.batch_size, self.device))

    def score(self, indices: np.ndarray) -> Score:
        """Accuracy and loss on these images of the data set, without recalibration."""
        batches = Batches(self._dataset, indices, self._recipe.batch_size, self.device)
        return score(*predict(self.model, batches))

    def save(self, directory: Path) -> None:
        """Leave the weights, and up to the horizon what `resume` needs; atomically."""
        if self.epoch < self.horizon:
            self.save_state(directory)
        checkpoint.save_weights(self.model, directory, self.epoch)
        if self.epoch >= self.horizon:
            checkpoint.drop_state(directory)

    def save_state(self, directory: Path) -> None:
        """Leave only what `resume` needs, between validations."""
        state = {
            "epoch": self.epoch,
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
        }
        checkpoint.save_state(state, directory)

    def resume(self, directory: Path) -> None:
        """Go on from what `save` or `save_state` left; from the start where there is nothing."""
        if checkpoint.saved_epoch(directory) == self.horizon:
            checkpoint.load_weights(self.model, directory)
            self.epoch = self.horizon
        elif (state := checkpoint.load_state(directory, self.device)) is not None:
            self.model.load_state_dict(state["model"])
            self._optimizer.load_state_dict(state["optimizer"])
            self._scaler.load_state_dict(state["scaler"])
            self.epoch = state["epoch"]

    def _step(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and number of hits of one optimiser step, both still on the device."""
        with torch.autocast(self.device.type, self._amp_type, enabled=self._amp_type is not None):
            logits = self.model(images)
            loss = F.cross_entropy(logits, labels, label_smoothing=self._recipe.label_smoothing)
        for penalty in self._penalties:
            loss = loss + penalty()
        torch.autograd.backward(self._scaler.scale(loss))
        if self._recipe.clip_grad is not None:
            self._scaler.unscale_(self._optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self._recipe.clip_grad)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad()
        return loss.detach(), (logits.detach().argmax(dim=1) == labels).sum()

    def _set_rate(self, step: int) -> float:
        steps = len(self._batches)
        rate = learning_rate(
            step,
            highest=self._recipe.lr,
            warmup_steps=self._recipe.warmup_epochs * steps,
            total_steps=self.horizon * steps,
        )
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group.get("lr_scale", 1.0)
        return rate

    def _check(self, losses: Tensor) -> None:
        """`losses`: of the steps of this epoch; 0 where they are still to come."""
        if not (finite := losses.isfinite()).all():
            step = int(finite.logical_not().nonzero()[0])
            raise TrainingDiverged(f"loss {losses[step].item()} in epoch {self.epoch + 1}, step {step + 1}")


def _hooks(model: nn.Module, name: str) -> list[Callable[..., Any]]:
    return [getattr(module, name) for module in model.modules() if hasattr(module, name)]


def optimizer_of(recipe: Train, model: nn.Module) -> torch.optim.Optimizer:
    """timm's, without weight decay on biases and norms; a parameter that is used twice is in it once."""
    kind = get_optimizer_class(recipe.optimizer, bind_defaults=False)
    arguments: dict[str, bool] = {}
    if issubclass(kind, _FUSED):
        arguments["fused"] = True
    if recipe.momentum == 0 and "nesterov" in inspect.signature(kind).parameters:
        arguments["nesterov"] = False  # timm's default, which SGD and its kin refuse without momentum
    optimizer: torch.optim.Optimizer = create_optimizer_v2(
        model,
        recipe.optimizer,
        lr=recipe.lr,
        weight_decay=recipe.weight_decay,
        momentum=recipe.momentum,
        **arguments,
    )
    return optimizer


def _hasten(optimizer: torch.optim.Optimizer, model: nn.Module, travel: float) -> None:
    """Parameters that must come further than `travel` get groups of their own, with a factor on the learning rate."""
    reaches = {
        id(parameter): float(getattr(module, "reach", 0.0))
        for module in model.modules()
        for parameter in module.parameters(recurse=False)
    }
    for group in list(optimizer.param_groups):
        faster: dict[float, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            scale = max(1.0, reaches[id(parameter)] / travel)
            faster.setdefault(scale, []).append(parameter)
        group["params"] = faster.pop(1.0, [])
        for scale, parameters in faster.items():
            optimizer.add_param_group({**group, "params": parameters, "lr_scale": scale})


def _amp_type(device: torch.device) -> torch.dtype | None:
    """The number format of mixed precision; None on a CPU, where it is slower than fp32."""
    if device.type != "cuda":
        return None
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
