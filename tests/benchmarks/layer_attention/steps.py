"""What a training step and an answer take: all arms of one depth in turn, round after round.

So whatever else the machine does hits all arms alike, and each round gives one paired difference to the plain network.
Knows networks and clocks, nothing of accuracies.
"""

import copy
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search.costs.memory import hollow, without_data
from search.costs.train_peak_bytes import peak_of_step
from search.training import optimizer_of, recalibrate, seeded
from search.training.evaluation import full_precision
from spaces.schema import Train
from tests.benchmarks.layer_attention.arms import NAIVE, architecture, close, naively, network

SHARES = (0.25, 0.5, 0.75)  # of layers, skipped
LR = 1e-4  # a step takes as long at any rate; so few on one batch at that of the recipe blow logits up
STATED = 0.5  # where no training has said which share ELA comes to
WARM_UP = 1  # rounds that do not count
ANSWERS = {"cpu": 5, "cuda": 50}  # rounds with a batch of one, for each with a whole one

Run = Callable[[], object]
Row = dict[str, Any]


def interleaved(runs: Mapping[str, Run], rounds: int, wait: Run) -> dict[str, list[float]]:
    """Milliseconds of each run, one of each a round, after rounds that do not count."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for count in range(WARM_UP + rounds):
        for name, run in runs.items():
            wait()
            began = time.perf_counter()
            run()
            wait()
            if count >= WARM_UP:
                times[name].append(1000 * (time.perf_counter() - began))
    return times


def quartiles(values: Sequence[float]) -> list[float]:
    return [float(value) for value in np.quantile(values, (0.25, 0.5, 0.75))]


class Step:
    """One optimiser step as the trainer takes it, always on the same images."""

    def __init__(self, model: nn.Module, recipe: Train, images: Tensor, labels: Tensor):
        self.model, self._images, self._labels = model.train(), images, labels
        self._optimizer = optimizer_of(recipe, model)
        self._smoothing = recipe.label_smoothing
        self._amp = recipe.amp == "auto" and images.device.type == "cuda"

    def __call__(self) -> None:
        with torch.autocast(self._images.device.type, torch.bfloat16, enabled=self._amp):
            loss = F.cross_entropy(self.model(self._images), self._labels, label_smoothing=self._smoothing)
        torch.autograd.backward(loss)
        self._optimizer.step()
        self._optimizer.zero_grad()


def measured(
    depth: int,
    images: Tensor,
    labels: Tensor,
    recipe: Train,
    *,
    classes: int,
    rounds: int,
    found: float | None,
    drop_path: float = 0.0,
) -> dict[str, Row]:
    """By arm; `ela` is at the share that its trainings came to, its key `by_share` has it at others.

    Args:
        images: [N, 3, 32, 32], on the device where it is measured.
        found: the share; None takes `STATED`.
    """
    device, recipe = images.device, recipe.model_copy(update={"lr": LR})
    layout = torch.channels_last if device.type == "cuda" else torch.contiguous_format  # as the trainer has it
    images = images.contiguous(memory_format=layout)
    models, shares = _models(depth, classes, found, drop_path)
    peaks = {name: _peak(model, recipe, images, labels) for name, model in models.items()}
    for model in models.values():
        model.to(device).to(memory_format=layout)
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    steps: dict[str, Run] = {name: Step(model, recipe, images, labels) for name, model in models.items()}
    train = interleaved(steps, rounds, wait)
    answers: dict[str, dict[str, list[float]]] = {}
    with torch.inference_mode():
        for model in models.values():
            model.eval()
        for batch, count in ((1, rounds * ANSWERS[device.type]), (len(images), rounds)):
            runs: dict[str, Run] = {name: partial(model, images[:batch]) for name, model in models.items()}
            answers[str(batch)] = interleaved(runs, count, wait)
    rows = {
        name: _row(times, train["plain"])
        | {
            "peak_bytes": peaks[name],
            "latency_ms": {batch: statistics.median(each[name]) for batch, each in answers.items()},
            "skipped_share": shares.get(name, 0.0),
            "max_abs_difference": None,
        }
        for name, times in train.items()
    }
    rows["mrla_base"] |= difference(models["mrla_base"], images)
    return _with_ela(rows, models, shares, images, found)


def _models(
    depth: int, classes: int, found: float | None, drop_path: float
) -> tuple[dict[str, nn.Module], dict[str, float]]:
    """By name, those of ELA by the share asked for, and which share of its layers each of those skips."""
    plans = {name: architecture(depth, name, drop_path=drop_path) for name in ("plain", "mrla_base", "mrla_light")}
    models = {name: network(plan, classes, seed=0) for name, plan in plans.items()}
    models = {"plain": models["plain"], NAIVE: naively(models["mrla_base"]), **models}
    shares: dict[str, float] = {}
    plan = architecture(depth, "ela", drop_path=drop_path)
    if plan.id != plans["mrla_base"].id:
        for share in sorted({*SHARES, STATED if found is None else found}):
            model = network(plan, classes, seed=0)
            shares[_key(share)] = close(model, share)
            models[_key(share)] = model
    return models, shares


def _key(share: float) -> str:
    return f"ela at {share:g}"


def _row(times: list[float], plain: list[float]) -> Row:
    low, median, high = quartiles(times)
    return {
        "train_step_ms": median,
        "train_step_quartiles_ms": [low, high],
        "train_steps_ms": times,
        "ratio_to_plain": quartiles([ours / theirs for ours, theirs in zip(times, plain, strict=True)]),
        "overhead_ms": quartiles([ours - theirs for ours, theirs in zip(times, plain, strict=True)]),
    }


def _with_ela(
    rows: dict[str, Row], models: dict[str, nn.Module], shares: dict[str, float], images: Tensor, found: float | None
) -> dict[str, Row]:
    """Rows by share under one name; where nothing can be skipped ELA is the base form."""
    if not shares:
        return rows | {"ela": rows["mrla_base"] | {"same_network_as": "mrla_base"}}
    chosen = _key(STATED if found is None else found)
    by_share = {name.removeprefix("ela at "): rows.pop(name) for name in shares}
    whole = models[chosen]
    close(whole, 0.0)  # with nothing skipped it is the base form; otherwise there is nothing to compare
    row = by_share[chosen.removeprefix("ela at ")] | difference(whole, images)
    origin = "stated" if found is None else "found in training"
    return rows | {"ela": row | {"share_is": origin, "by_share": by_share}}


def difference(model: nn.Module, images: Tensor) -> Row:
    """The largest of logits against the form of the reference, of both modes, and of double precision alone.

    After steps so few the statistics of batch norms are not yet those of the images: they are taken anew.
    """
    modes = {}
    for name, training, kind in (
        ("evaluation", False, torch.float32),
        ("training", True, torch.float32),
        ("double", False, torch.float64),
    ):
        ours = copy.deepcopy(model).to(kind)
        recalibrate(ours, [(images.to(kind), torch.zeros(len(images)))])
        ours.train(training)
        theirs = naively(ours)
        with torch.no_grad(), full_precision():
            answers = []
            for each in (ours, theirs):
                with seeded(0, images.device):
                    answers.append(each(images.to(kind)))
        modes[name] = float((answers[0] - answers[1]).abs().max())
    both = max(modes["evaluation"], modes["training"])
    return {"max_abs_difference": both, "max_abs_differences": modes, "largest_logit": float(answers[0].abs().max())}


def _peak(model: nn.Module, recipe: Train, images: Tensor, labels: Tensor) -> int:
    """Of a training step: what the GPU's allocator says, or counted without data where there is none."""
    if images.device.type == "cpu":
        with without_data():
            blank = torch.empty(images.shape, device="cpu")
            none = torch.zeros(labels.shape, dtype=torch.long, device="cpu")
            return peak_of_step(hollow(model, training=True), blank, none, partial(optimizer_of, recipe))
    with _on(model, images.device):
        before = torch.cuda.memory_allocated() - sum(tensor.nbytes for tensor in model.state_dict().values())
        step = Step(model, recipe, images, labels)
        step()
        torch.cuda.reset_peak_memory_stats()
        step()
        peak: int = torch.cuda.max_memory_allocated()
        return peak - before


@contextmanager
def _on(model: nn.Module, device: torch.device) -> Iterator[None]:
    """A GPU for so long, with weights and buffers afterwards as they were."""
    state = copy.deepcopy(model.state_dict())
    model.to(device)
    yield
    model.to("cpu")
    model.load_state_dict(state)
