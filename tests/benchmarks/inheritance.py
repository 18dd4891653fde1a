"""Whether networks that inherit weights come further in a few epochs than the same networks from scratch.

    python -m tests.benchmarks.inheritance [--images 2000] [--epochs 3] [--seeds 0 ...] [--json OUT]

Each network of a fixed list is trained on a part of ../shared/data/cifar10_20k.npz at 32 pixels: from scratch, from
scratch for twice the epochs, from its backbone trained for as many epochs, and from the nearest of those before it in
the list. Accuracies are of the same validation images, seconds those of training and validation in this process.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from search.record import State, TrialRecord
from search.study.lineage import Lineage
from search.training import WEIGHTS, put_inherited
from search.trial import TimmEvaluator, dataset_of
from spaces import Architecture, SpaceFile, load

DATA = Path(__file__).resolve().parents[2].parent / "shared/data/cifar10_20k.npz"
BACKBONE = Architecture(backbone="resnet10t")
LIST = [
    {"width": 0.5},
    {"width": 0.25},
    {"width": 0.5, "scaling": "rezero"},
    {"width": 0.375},
    {"width": 0.25, "norm": "group"},
]


def space_of(images: Path, epochs: int) -> SpaceFile:
    return load(
        {
            "name": "inheritance",
            "data": {"source": "npz", "path": str(images), "image_size": 32},
            "backbones": [str(BACKBONE.backbone)],
            "objectives": {"accuracy": "maximize", "macs": "minimize"},
            "search": {"trials": 1, "fidelity": {"rungs": [epochs]}},
            "train": {"lr": 2.0e-3},
        }
    )


def part_of(data: Path, count: int, folder: Path) -> Path:
    """So many training images, and half as many to validate on, by chance but always the same."""
    with np.load(data) as arrays:
        images, labels = arrays["train_images"], arrays["train_labels"]
    chosen = np.random.default_rng(0).permutation(len(images))[: count + count // 2]
    train, val = chosen[:count], chosen[count:]
    arrays = {"train": train, "val": val, "test": val}
    path = folder / "part.npz"
    np.savez(
        path,
        **{f"{name}_images": images[which] for name, which in arrays.items()},
        **{f"{name}_labels": labels[which] for name, which in arrays.items()},
    )
    return path


def trained(
    space: SpaceFile, architecture: Architecture, seed: int, folder: Path, donor: tuple[Path, Architecture] | None
) -> tuple[TrialRecord, float]:
    """What a training comes to, and its seconds."""
    evaluator, began = TimmEvaluator(space, dataset_of(space)), time.perf_counter()
    if donor is not None:
        put_inherited(folder, donor[0] / WEIGHTS, {"name": "donor", "architecture": donor[1].to_dict()})
    history = tuple(evaluator.evaluate(architecture, space.search.fidelity.max, seed, folder))
    record = TrialRecord(
        number=int(folder.name),
        architecture=architecture,
        state=State.COMPLETE,
        seed=seed,
        costs=evaluator.costs(architecture),
        history=history,
        values=history[-1].values,
        ended=time.time(),
    )
    return record, time.perf_counter() - began


def trainings(given: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    images = part_of(DATA, given.images, folder)
    short, long = (space_of(images, epochs) for epochs in (given.epochs, 2 * given.epochs))
    evaluator = TimmEvaluator(short, dataset_of(short))
    networks = [Architecture(backbone=BACKBONE.backbone, choices=choices) for choices in LIST]
    for seed in given.seeds:
        root = folder / str(seed)
        record, seconds = trained(short, BACKBONE, seed, root / "backbone/0", None)
        yield _row("the backbone itself", seed, record, seconds)
        lineage = Lineage("nearest")
        for number, network in enumerate(networks):
            for start, space, donor in (
                ("scratch", short, None),
                ("scratch, twice the epochs", long, None),
                ("parent", short, (root / "backbone/0", BACKBONE)),
            ):
                yield _row(start, seed, *trained(space, network, seed, root / start / str(number), donor))
            costs = evaluator.costs(network)
            asked = TrialRecord(number=number, architecture=network, state=State.RUNNING, seed=seed, costs=costs)
            nearest = lineage.ancestor(asked)
            donor = None if nearest is None else (root / f"nearest/{nearest}", networks[int(nearest)])
            record, seconds = trained(short, network, seed, root / f"nearest/{number}", donor)
            lineage.put(record, ())
            yield _row("nearest", seed, record, seconds) | {"inherited_from": nearest}


def _row(start: str, seed: int, record: TrialRecord, seconds: float) -> dict[str, Any]:
    accuracy = record.values["accuracy"]
    print(f"{start:<26} seed {seed} {record.architecture.label:<28} {accuracy:.4f} in {seconds:.1f} s", flush=True)
    return {
        "start": start,
        "seed": seed,
        "network": record.architecture.label,
        "accuracy": accuracy,
        "epochs": record.fidelity,
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="archsearch-") as folder:
        rows = list(trainings(given, Path(folder)))
    for start in dict.fromkeys(row["start"] for row in rows):
        mine = [row for row in rows if row["start"] == start]
        means = {name: np.mean([row[name] for row in mine]) for name in ("accuracy", "seconds")}
        print(f"{start:<26} mean accuracy {means['accuracy']:.4f}, {means['seconds']:.1f} s a training")
    if given.json:
        given.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
