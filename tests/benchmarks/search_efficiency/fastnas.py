"""NVIDIA ModelOpt's FastNAS: the first backbone of the space is trained once, and pruned and fine-tuned once per bound.

Needs `pip install nvidia-modelopt 'torchprofile<0.1'`, which may be an environment of its own (`--modelopt-python`).
Recipe, data and epochs are those of the space, for the fine-tuning too; it trains one network at a time, with as many
threads as the other arms have workers. Its score is the accuracy on the validation split, after the BatchNorm
statistics are made anew on 2,048 training images, as ours are. What it finds out about the backbone for the first bound
it is given again for the others (`checkpoint`). Tests take none of its seconds.

It is used as it comes: channels are multiples of 32, so that of resnet10t at 32 pixels 27% of the FLOPs is the least
that it can leave, and a lower bound is refused (0.47).

A pruned network is none of our architectures: it keeps the test accuracy of its own training.
"""

import contextlib
import copy
import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import modelopt.torch.prune as mtp
import numpy as np
import torch
from torch import Tensor, nn

from search.costs.macs import macs
from search.data import Batches, Dataset
from search.data.seeds import seed_of
from search.task import opened
from search.training import RECALIBRATION_IMAGES, Trainer, predict, score, seeded
from spaces import SpaceFile, build
from tests.benchmarks.search_efficiency.job import Job, Point, answer


class Arm:
    """One backbone, its data and recipe, and a clock that stands still while it is tested."""

    def __init__(self, file: SpaceFile, dataset: Dataset, job: Job):
        self._file, self._dataset, self._job = file, dataset, job
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.points: list[Point] = []
        self.refused: dict[str, str] = {}
        self.spent_s = self._base_s = self._map_s = 0.0

    def train(self, network: nn.Module, label: str, began: float, *, search_s: float = 0.0) -> None:
        """To the end, validated; then tested, and noted."""
        horizon = self._file.search.fidelity.max
        trainer = Trainer(network, self._dataset, self._file.train, horizon=horizon, seed=self._job.seed)
        tuning = time.monotonic()
        while trainer.epoch < horizon:
            trainer.train_epoch()
        accuracy = trainer.validate()["val_accuracy"]
        tuned_s = time.monotonic() - tuning
        self.spent_s += time.monotonic() - began
        if not self.points:
            self._base_s, alone_s = tuned_s, tuned_s
        else:
            self._map_s = self._map_s or search_s
            alone_s = self._base_s + self._map_s + tuned_s
        point = Point(
            seconds=self.spent_s,
            id=label,
            label=label,
            macs=macs(network, self._dataset.input_size),
            params=sum(parameter.numel() for parameter in network.parameters()),
            accuracy=accuracy,
            fidelity=horizon,
            complete=True,
            test_accuracy=trainer.score(self._dataset.test).accuracy,
            alone_s=alone_s,
        )
        self.points.append(point)

    def prune(self, network: nn.Module, bound: float) -> None:
        """A copy of the trained network, pruned to a share of its FLOPs and fine-tuned."""
        label, began = f"fastnas {bound:.0%}", time.monotonic()
        asked = {
            "data_loader": Loader(self._dataset, self._file.train.batch_size, self._job.seed),
            "collect_func": lambda batch: batch[0].to(self._device),
            "score_func": self._score,
            "checkpoint": str(Path(self._job.folder) / "fastnas.pt"),
            "verbose": False,
        }
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                pruned, _ = mtp.prune(
                    copy.deepcopy(network),
                    mode="fastnas",
                    constraints={"flops": f"{100 * bound:g}%"},
                    dummy_input=torch.zeros(1, *self._dataset.input_size, device=self._device),
                    config=asked,
                )
        except (ValueError, AssertionError) as error:
            self.refused[label] = str(error).strip().splitlines()[-1]
            self.spent_s += time.monotonic() - began
            return
        self.train(pruned, label, began, search_s=time.monotonic() - began)

    def _score(self, network: nn.Module) -> float:
        batches = Batches(self._dataset, self._dataset.val, self._file.train.batch_size, self._device)
        return score(*predict(network, batches)).accuracy


class Loader:
    """Some training images as they are, in batches, as often as they are asked for."""

    def __init__(self, dataset: Dataset, batch_size: int, seed: int):
        chosen = np.random.default_rng(seed).permutation(dataset.train)[:RECALIBRATION_IMAGES]
        self._batches = Batches(dataset, chosen, batch_size, torch.device("cpu"))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)


def searched(job: Job) -> tuple[list[Point], dict[str, Any]]:
    torch.set_num_threads(job.workers)
    task = opened(job.space)
    assert task.dataset is not None
    backbone = next(iter(task.space.backbones()))
    with seeded(seed_of("weights", job.seed), torch.device("cpu")):
        network = build(backbone, task.dataset.num_classes, task.dataset.in_chans)
    arm = Arm(task.file, task.dataset, job)
    arm.train(network, f"{backbone.label} (base)", time.monotonic())
    for bound in job.bounds:
        arm.prune(network, bound)
    return arm.points, {"refused": arm.refused, "span_s": arm.spent_s}


if __name__ == "__main__":
    answer(searched)
