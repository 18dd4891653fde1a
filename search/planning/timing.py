"""What a plan measures: each backbone on a batch of the data, training steps, and timed costs of a few networks.

Knows tasks and costs; nothing of searches.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import final

import numpy as np
import torch
from torch import nn

from search.costing import Costing
from search.costs.predictor import ENOUGH
from search.costs.train_seconds import TrainSeconds
from search.data import Batches, Dataset
from search.evaluator import Reading
from search.foresight import Foresight
from search.gate import Limit
from search.planning.feasibility import Looked
from search.planning.forecast import Extent, extent
from search.task import Task
from search.training import optimizer_of, predict
from spaces import Architecture, InputError, SpaceError, build


@dataclass(frozen=True, kw_only=True)
class Proof:
    """A backbone as it is, built with weights and run on one batch of the data.

    Attributes:
        images: of the batch.
        shape: of its answer, `[images, classes]`.
        seconds: of building it, and of running it.
    """

    label: str
    images: int
    shape: tuple[int, ...]
    build_s: float
    run_s: float


@dataclass(frozen=True, kw_only=True)
class Step:
    """A training step of one network, measured.

    Attributes:
        backbone: as the space calls it.
        batch: images.
        seconds, spread, steady: as of a `Reading`.
    """

    backbone: str
    label: str
    macs: float
    batch: int
    seconds: float
    spread: float
    steady: bool


@dataclass(frozen=True, kw_only=True)
class Times:
    """A timed cost over a space.

    Attributes:
        measured: of networks spread over the sizes.
        unsteady: how many of these are.
        refused: networks that could not be measured.
        kendall, error: of what is predicted from them, held out: rank correlation, and median relative error; None
            where too few were measured to predict, or all were.
        share: of architectures that the counted costs allow, those within the constraints on this cost, as measured
            or predicted; None where there are none.
    """

    measured: Extent
    unsteady: int
    refused: int
    kendall: float | None
    error: float | None
    share: float | None


@final
class Clocked:
    """The timed costs of architectures, measured for a few, predicted for others.

    Args:
        chosen: those to be measured.
    """

    def __init__(self, costing: Costing, foresight: Foresight, chosen: Sequence[Looked]):
        self._costing, self._foresight = costing, foresight
        self._readings: dict[str, Mapping[str, Reading]] = {}
        self._refused = 0
        for each in chosen:
            try:
                self._readings[each.walk.architecture.id] = foresight.measure(each.walk.architecture)
            except SpaceError:
                self._refused += 1

    def costs(self, architecture: Architecture) -> dict[str, float]:
        """By name; empty where it is neither measured nor can be predicted."""
        if architecture.id in self._readings:
            return {name: reading.value for name, reading in self._readings[architecture.id].items()}
        try:
            return {name: guess.value for name, guess in self._foresight.foresee(architecture).items()}
        except SpaceError:
            return {}

    def with_costs(self, looked: Looked) -> Looked:
        """The same, where it has costs at all, with these too."""
        if not looked.costs:
            return looked
        return replace(looked, costs={**looked.costs, **self.costs(looked.walk.architecture)})

    def times(self, pool: Sequence[Looked], limits: Sequence[Limit]) -> dict[str, Times]:
        """
        Args:
            pool: architectures with these costs, for the shares.
        """
        return {name: self._times(name, pool, limits) for name in self._costing.timed} if self._readings else {}

    def _times(self, name: str, pool: Sequence[Looked], limits: Sequence[Limit]) -> Times:
        readings = [each[name] for each in self._readings.values()]
        predictor = self._foresight.predictors.get(name)
        bounds, known = [limit for limit in limits if limit.name == name], [each for each in pool if name in each.costs]
        within = sum(all(limit.excess(each.costs) <= 0 for limit in bounds) for each in known)
        return Times(
            measured=extent([reading.value for reading in readings]),
            unsteady=sum(not reading.steady for reading in readings),
            refused=self._refused,
            kendall=predictor.kendall if predictor else None,
            error=predictor.error if predictor else None,
            share=within / len(known) if bounds and known else None,
        )


def proof(architecture: Architecture, task: Task, dataset: Dataset, device: torch.device) -> Proof:
    began = time.perf_counter()
    model = build(architecture, dataset.num_classes, dataset.in_chans).to(device)
    built = time.perf_counter()
    batch = dataset.val[: task.file.train.batch_size]
    logits, _ = predict(model, Batches(dataset, batch, len(batch), device))
    if not logits.isfinite().all():
        raise InputError(f"{architecture.label} gives nan or inf on images of the data set, before any training")
    return Proof(
        label=architecture.label,
        images=len(batch),
        shape=tuple(logits.shape),
        build_s=built - began,
        run_s=time.perf_counter() - built,
    )


def step(each: Looked, task: Task, dataset: Dataset, device: torch.device, threads: int) -> Step:
    recipe = task.file.train
    clock = TrainSeconds(
        batch=recipe.batch_size,
        images=len(dataset.train),
        optimizer=partial(optimizer_of, recipe),
        device=device.type,
        dtype="bfloat16" if device.type == "cuda" and recipe.amp == "auto" else "float32",
        threads=threads,
    )
    model: nn.Module = build(each.walk.architecture, dataset.num_classes, dataset.in_chans)
    reading = clock.seconds(model, dataset.input_size)
    return Step(
        backbone=each.backbone,
        label=each.walk.architecture.label,
        macs=each.costs["macs"],
        batch=recipe.batch_size,
        seconds=reading.value,
        spread=reading.spread,
        steady=reading.steady,
    )


def chosen(pool: Sequence[Looked]) -> list[Looked]:
    """As many as are needed to predict from, evenly over the sizes."""
    return spread(pool, ENOUGH)


def spread(ordered: Sequence[Looked], count: int) -> list[Looked]:
    """So many, evenly over the order, first and last among them; all where there are fewer."""
    if len(ordered) <= count:
        return list(ordered)
    return [ordered[round(place)] for place in np.linspace(0, len(ordered) - 1, count)]
