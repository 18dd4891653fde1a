"""The dry run: what is in a space, what it costs, and what a search of it will take. Nothing is trained or kept.

Puts together what the other files of this folder find out, and measures what they go by.
"""

import math
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from search.costing import Costing
from search.costs.machine import machine
from search.costs.predictor import ENOUGH, Predictor
from search.costs.train_seconds import TrainSeconds
from search.data import Batches, Dataset
from search.evaluator import Meter, Reading
from search.gate import Gate, limits
from search.pareto import Objectives
from search.planning.feasibility import Feasibility, Looked, look
from search.planning.forecast import Extent, Forecast, extent, forecast, sizes, twins
from search.planning.game import Candidate
from search.planning.hours import Estimate, Pace, Terms, estimate, validation_share
from search.readings import FILE, Readings
from search.task import Given, Task, opened
from search.training import RECALIBRATION_IMAGES, optimizer_of, predict
from spaces import Architecture, InputError, build

COUNT_S = 10.0  # for looking at a space: 2,000 architectures at 200 a second
PAIRS_S = 5.0  # for what each decision does
PREDICTED = 200  # architectures whose timed costs are predicted


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
        measured: of so many networks, spread over the sizes.
        predicted: of a sample of those that the counted costs allow; None where too few were measured to predict.
        kendall, error: of the prediction, held out: rank correlation, and median relative error.
        share: of that sample within the constraints on this cost, as predicted; None where there are none.
    """

    measured: Extent
    unsteady: int
    predicted: Extent | None = None
    kendall: float | None = None
    error: float | None = None
    share: float | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """
    Attributes:
        machine: on which everything was measured, in words.
        device: of the trainings.
        times: by timed cost.
        estimate: None where nothing can be trained.
    """

    name: str
    machine: str
    device: str
    feasibility: Feasibility
    forecast: Forecast
    proofs: tuple[Proof, ...]
    times: Mapping[str, Times]
    steps: tuple[Step, ...]
    estimate: Estimate | None

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "name": self.name,
            "machine": self.machine,
            "device": self.device,
            "feasibility": self.feasibility.to_dict(),
            "costs": self.forecast.to_dict(),
            "backbones": [asdict(proof) for proof in self.proofs],
            "timed": {name: asdict(times) for name, times in self.times.items()},
            "steps": [asdict(step) for step in self.steps],
            "estimate": self.estimate.to_dict() if self.estimate else None,
        }


def planned(
    space: Given,
    *,
    runs: Path,
    threads: int = 1,
    allow_code: bool = False,
    say: Callable[[str], None] = lambda note: None,
) -> Plan:
    """The plan of a space file.

    Args:
        runs: the folder of searches, where what was measured is kept for them.

    Raises:
        InputError: as `search.task.opened` and `plan`.
    """
    task = opened(space, allow_code=allow_code)
    costing = task.costing
    assert costing is not None, "the evaluator is ours"
    meter: Meter = costing
    if costing.timed:
        runs.mkdir(parents=True, exist_ok=True)
        meter = Readings(costing, runs / FILE, settings=costing.settings, machine=machine, say=say)
    return plan(task, meter=meter, threads=threads, say=say)


def plan(task: Task, *, meter: Meter, threads: int = 1, say: Callable[[str], None] = lambda note: None) -> Plan:
    """
    Args:
        task: of timm networks.
        meter: of the timed costs.
        threads: CPU cores of a training.
        say: is told what comes next.

    Raises:
        InputError: the evaluator is the user's own, or nothing in the space can be counted.
    """
    costing, dataset = task.costing, task.dataset
    if costing is None or dataset is None:
        raise InputError("a plan is of timm networks; this space has an evaluator of its own")
    seed = task.file.search.seed
    gate, rng = Gate(task.evaluator, task.file.constraints), random.Random(seed)
    say("counting architectures")
    found = look(task.space, gate.count, seed=seed, deadline_s=COUNT_S)
    if not any(each.costs for each in found.seen):
        raise InputError(found.refusal)
    say("taking back decisions, one at a time")
    forecasted = forecast(task.space, found.seen, _asides(task, found.seen, gate, rng))
    say("running each backbone on a batch")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    proofs = tuple(_proof(architecture, dataset, task, device) for architecture in task.space.backbones())
    fitting = [each for each in found.seen if each.feasible] or [each for each in found.found if each.feasible]
    pool = _spread(sorted(fitting, key=lambda each: each.costs["macs"]), PREDICTED)
    if costing.timed:
        say("measuring costs")
    times, timed = _times(task, costing, meter, pool)
    say("measuring training steps")
    steps = tuple(_step(each, task, dataset, device, threads) for three in sizes(fitting).values() for each in three)
    estimated = None
    if steps:
        cores = max(threads, (os.cpu_count() or 1) - costing.cores) // threads * threads
        terms = Terms(
            validation=validation_share(len(dataset.train), len(dataset.val), recalibrated=RECALIBRATION_IMAGES),
            start_s=float(np.median([proof.build_s for proof in proofs])),
            devices=torch.cuda.device_count() if device.type == "cuda" else cores,
            architectures=found.feasible if found.whole else math.inf,
        )
        per = 1 if device.type == "cuda" else threads  # devices of a training
        candidates = _candidates(task, dataset, pool, timed, steps, per)
        estimated = estimate(task.file.search, Objectives(directions=task.file.objectives), candidates, terms)
    return Plan(
        name=task.file.name,
        machine=machine(),
        device=f"{device.type}, {threads} {'thread' if threads == 1 else 'threads'}",
        feasibility=found,
        forecast=forecasted,
        proofs=proofs,
        times=times,
        steps=steps,
        estimate=estimated,
    )


def _asides(task: Task, seen: Sequence[Looked], gate: Gate, rng: random.Random) -> list[Looked]:
    """What those seen would be with one decision taken back."""
    until, found = time.monotonic() + PAIRS_S, list[Looked]()
    for each in seen:
        for aside in twins(task.space, each.walk, rng):
            if time.monotonic() > until:
                return found
            found.append(Looked.of(aside, gate.count(aside.architecture), task.file.constraints))
    return found


def _proof(architecture: Architecture, dataset: Dataset, task: Task, device: torch.device) -> Proof:
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


def _times(
    task: Task, costing: Costing, meter: Meter, pool: Sequence[Looked]
) -> tuple[dict[str, Times], list[dict[str, float]]]:
    """Every timed cost: measured over the sizes; and for each of the pool predicted from that, or measured."""
    if not costing.timed or not pool:
        return {}, [{} for _ in pool]
    chosen = _spread(pool, ENOUGH)
    readings = [meter.measure(each.walk.architecture) for each in chosen]
    if len(chosen) == len(pool):
        known = [{name: reading.value for name, reading in each.items()} for each in readings]
        return {name: _measured([each[name] for each in readings]) for name in costing.timed}, known
    seen, all_ = ([costing.features(each.walk.architecture) for each in group] for group in (chosen, pool))
    times: dict[str, Times] = {}
    known = [{} for _ in pool]
    for name in costing.timed:
        power = -1 if costing.rate(name) else 1  # what is predicted is a time
        predictor = Predictor.fit(seen, [each[name].value ** power for each in readings])
        predicted = [float(value) ** power for value in predictor.predict(all_)]
        bounds = [limit for limit in limits(task.file.constraints) if limit.name == name]
        within = sum(all(limit.excess({name: value}) <= 0 for limit in bounds) for value in predicted)
        times[name] = replace(
            _measured([each[name] for each in readings]),
            predicted=extent(predicted),
            kendall=predictor.kendall,
            error=predictor.error,
            share=within / len(pool) if bounds else None,
        )
        for costs, value in zip(known, predicted, strict=True):
            costs[name] = value
    return times, known


def _measured(readings: Sequence[Reading]) -> Times:
    unsteady = sum(not reading.steady for reading in readings)
    return Times(measured=extent([reading.value for reading in readings]), unsteady=unsteady)


def _step(each: Looked, task: Task, dataset: Dataset, device: torch.device, threads: int) -> Step:
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


def _candidates(
    task: Task,
    dataset: Dataset,
    pool: Sequence[Looked],
    timed: Sequence[Mapping[str, float]],
    steps: Sequence[Step],
    per: float,
) -> list[Candidate]:
    measured: dict[str, dict[float, float]] = {}
    for step in steps:
        measured.setdefault(step.backbone, {})[step.macs] = per * step.seconds
    pace, batches = Pace(measured), math.ceil(len(dataset.train) / task.file.train.batch_size)
    return [
        Candidate(costs={**each.costs, **more}, epoch_s=batches * pace.seconds(each.backbone, each.costs["macs"]))
        for each, more in zip(pool, timed, strict=True)
    ]


def _spread(ordered: Sequence[Looked], count: int) -> list[Looked]:
    """So many, evenly over the order, first and last among them; all where there are fewer."""
    if len(ordered) <= count:
        return list(ordered)
    return [ordered[round(place)] for place in np.linspace(0, len(ordered) - 1, count)]
