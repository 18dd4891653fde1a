"""Trainings of all arms by one recipe, seed by seed, and what their pairs differ in.

Arms of one seed start from the same weights of the trunk and see the same images in the same order. Tested is what is
left after the last epoch, on the test split, once; nothing is chosen by it. A training that diverges counts as chance.
Knows the trainer, nothing of clocks.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch

from search.confirmation.statistics import interval
from search.data import Dataset, load_data
from search.training import Trainer, TrainingDiverged
from spaces.schema import Train
from spaces.schema.data import Data
from tests.benchmarks.layer_attention.arms import ARMS, MATCHED, NAIVE, architecture, attending, network

MOST = 1 - 1e-6  # a threshold is below 1; that many of any number of gates are all

Row = dict[str, Any]


def images_of(path: Path, count: int | None, tested: int | None) -> Dataset:
    """So many images to train on and to test on, drawn by chance but always the same; None takes all."""
    if not path.is_file():
        raise SystemExit(f"{path} is not there: CIFAR-10 images as .npz are needed; say --data where they are")
    dataset = load_data(Data(source="npz", path=str(path), image_size=32))
    train = np.sort(np.concatenate([dataset.train, dataset.val]))
    return replace(dataset, train=_drawn(train, count, "--images"), test=_drawn(dataset.test, tested, "--test-images"))


def _drawn(indices: np.ndarray, count: int | None, option: str) -> np.ndarray:
    if count is not None and not 0 < count <= len(indices):
        raise SystemExit(f"{option} {count}: from 1 to {len(indices)} are there")
    return np.random.default_rng(0).permutation(indices)[:count]


def recipe_of(given: argparse.Namespace) -> Train:
    """That of the CIFAR experiments, but for the schedule: the trainer's is a cosine."""
    return Train(
        batch_size=given.batch,
        optimizer="momentum",
        lr=given.lr,
        momentum=0.9,
        weight_decay=1e-4,
        warmup_epochs=0,
        label_smoothing=0.0,
        amp="auto" if given.amp else "off",
    )


def trainings(depth: int, dataset: Dataset, given: argparse.Namespace, rows: list[Row]) -> Iterator[Row]:
    """Those of a depth that `rows` have not yet; who is first changes with the seed, the matched rules come last."""
    first = [arm for arm in given.arms if arm not in MATCHED]
    last = [arm for arm in given.arms if arm in MATCHED]
    for seed in given.seeds:
        turn = seed % len(first) if first else 0
        for arm in [*first[turn:], *first[:turn], *last]:
            there = {row["arm"]: row for row in rows if (row["depth"], row["seed"]) == (depth, seed)}
            if arm in there:
                continue
            row = _training(depth, arm, seed, dataset, given, there)
            if row is not None:
                yield row


def _training(
    depth: int, arm: str, seed: int, dataset: Dataset, given: argparse.Namespace, there: dict[str, Row]
) -> Row | None:
    """None for a rule whose ratio is not known, as ELA itself was not trained."""
    knobs = {name: value for name in ("warm_up", "probe_every") if (value := getattr(given, name)) is not None}
    if arm in MATCHED:
        if "ela" not in there:
            return None
        # Nothing skipped is no threshold above 0: then the network is the base form, as ELA's was.
        share = there["ela"]["skipped_share_of_gates"]
        if not share:
            return _copy(there["ela"], arm, "ela")
        knobs["skip_threshold"] = min(share, MOST)
    plan = architecture(depth, arm, drop_path=given.drop_path, **knobs)
    same = next((row for row in there.values() if row["architecture"] == plan.id and row["arm"] != NAIVE), None)
    if same is not None and arm != NAIVE:
        return _copy(same, arm, same["arm"])
    model = network(plan, dataset.num_classes, seed=seed, naive=ARMS[arm].naive)
    layers = attending(model)
    trainer = Trainer(model, dataset, recipe_of(given), horizon=given.epochs, seed=seed, device=given.device)
    seconds, masks = [], [_mask(model)]
    failed: Row = {}
    try:
        while trainer.epoch < given.epochs:
            seconds.append(trainer.train_epoch()["seconds"])
            masks.append(_mask(model))
        trainer.recalibrate()
        accuracy = trainer.score(dataset.test).accuracy
    except TrainingDiverged as error:
        accuracy, failed = 1 / dataset.num_classes, {"diverged": str(error)}
    return {
        "depth": depth,
        "arm": arm,
        "seed": seed,
        "architecture": plan.id,
        "accuracy": accuracy,
        "train_seconds": sum(seconds),
        "epoch_seconds": seconds,
        "skipped_share": sum(masks[-1]) / layers if layers else 0.0,
        "skipped_share_of_gates": _share(masks[1:-1]),
        "skipped_share_by_epoch": [sum(mask) / layers if layers else 0.0 for mask in masks[1:]],
        "divergences": list(getattr(model, "skip_controller", _Nothing).divergences),
        **failed,
    }


def _copy(row: Row, arm: str, whose: str) -> Row:
    return row | {"arm": arm, "same_network_as": row.get("same_network_as", whose)}


class _Nothing:
    """In place of a controller where nothing can be skipped."""

    skipped = divergences = ()


def _mask(model: torch.nn.Module) -> tuple[bool, ...]:
    found: tuple[bool, ...] = getattr(model, "skip_controller", _Nothing).skipped
    return found


def _share(masks: Sequence[tuple[bool, ...]]) -> float:
    """The mean over the epochs that were trained with these, from the first in which anything was skipped."""
    first = next((place for place, mask in enumerate(masks) if any(mask)), None)
    return 0.0 if first is None else fmean(sum(mask) / len(mask) for mask in masks[first:])


def paired(rows: Sequence[Row], one: str, other: str, images: int) -> Row | None:
    """Points of accuracy of one arm less another, over seeds that both have; None where there are none.

    Args:
        images: that accuracies were counted on; a spread below one of them is not believed.
    """
    by_arm = {arm: {row["seed"]: row["accuracy"] for row in rows if row["arm"] == arm} for arm in (one, other)}
    seeds = sorted(by_arm[one].keys() & by_arm[other].keys())
    if not seeds:
        return None
    found = interval([100 * (by_arm[one][seed] - by_arm[other][seed]) for seed in seeds], least=100 / (6**0.5 * images))
    return {"n": len(seeds), "points": found.mean, "low": found.low, "high": found.high}
