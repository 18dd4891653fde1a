"""Fine-tuning a narrowed pretrained network against the same architecture from scratch, on few images.

    python -m tests.benchmarks.pretrained [--starts l2 scratch ...] [--seeds 0 1 ...] [--epochs N] [--json OUT]

tf_efficientnet_lite0 (ImageNet weights) at width 0.75, on 12 classes of flowers at 224 pixels. Every start has the
same recipe, number of epochs, images, normalisation and order of batches. Needs the weights and images of ../shared.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import timm
import torch

from search.trial import TimmEvaluator, dataset_of
from spaces import Architecture, SpaceFile, load
from spaces.resizing.importance import METHODS

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
IMAGES, WEIGHTS = SHARED / "data/flowers12", SHARED / "weights/tf_efficientnet_lite0.safetensors"
SCRATCH = "scratch"
NARROW = Architecture(backbone="tf_efficientnet_lite0", choices={"width": 0.75})


def space_of(start: str, given: argparse.Namespace) -> SpaceFile:
    pretrained = start != SCRATCH
    train = {"batch_size": 32, "lr": given.lr, "pretrained": pretrained}
    return load(
        {
            "name": "pretrained",
            "data": {"source": "folder", "path": str(IMAGES), "image_size": given.image_size},
            "backbones": [{"name": NARROW.backbone} | ({"weights": str(WEIGHTS)} if pretrained else {})],
            "dimensions": {"width": [NARROW.choices["width"]]},
            "objectives": {"accuracy": "maximize", "macs": "minimize"},
            "search": {"trials": 1, "fidelity": {"rungs": [given.epochs]}},
            "train": train | ({"importance": start} if pretrained else {}),
        }
    )


def trainings(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One a seed and start; the accuracies are of the last epoch, on validation and on held-out test images."""
    dataset = dataset_of(space_of("l2", given))
    for seed in given.seeds:
        for start in given.starts:
            evaluator = TimmEvaluator(space_of(start, given), dataset)
            began = time.perf_counter()
            with tempfile.TemporaryDirectory() as folder:
                *_, last = epochs = list(evaluator.evaluate(NARROW, given.epochs, seed, Path(folder)))
                test_accuracy = evaluator.test(NARROW, Path(folder))
            yield {
                "start": start,
                "seed": seed,
                "val_accuracy": last.values["accuracy"],
                "test_accuracy": test_accuracy,
                "train_loss": [epoch.metrics["train_loss"] for epoch in epochs],
                "seconds": time.perf_counter() - began,
                "images": {name: len(getattr(dataset, name)) for name in ("train", "val", "test")},
                "mean": dataset.preprocessing.mean,
                "std": dataset.preprocessing.std,
                **evaluator.costs(NARROW),
            }


def circumstances(given: argparse.Namespace) -> dict[str, Any]:
    recipe = space_of(SCRATCH, given).to_dict()["train"]
    return {
        "network": NARROW.label,
        "recipe": {name: value for name, value in recipe.items() if name not in ("inherit", "importance")},
        "epochs": given.epochs,
        "image_size": given.image_size,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {os.cpu_count()} cores",
        "threads": torch.get_num_threads(),
        "versions": {"torch": torch.__version__, "timm": timm.__version__, "python": platform.python_version()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", nargs="+", choices=[*METHODS, SCRATCH], default=[*METHODS, SCRATCH])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if missing := [str(path) for path in (IMAGES, WEIGHTS) if not path.exists()]:
        sys.exit(f"needs {' and '.join(missing)}")
    if given.threads:
        torch.set_num_threads(given.threads)
    rows = []
    for row in trainings(given):
        rows.append(row)
        accuracies = f"val {row['val_accuracy']:.3f}  test {row['test_accuracy']:.3f}"
        print(f"{row['start']:9} seed {row['seed']}  {accuracies}  {row['seconds']:.0f} s", flush=True)
        if given.json:
            given.json.write_text(json.dumps({**circumstances(given), "trainings": rows}, indent=2) + "\n")
    for start in given.starts:
        found = [row["test_accuracy"] for row in rows if row["start"] == start]
        spread = f"n={len(found)}, {min(found):.3f} to {max(found):.3f}"
        print(f"{start:9} test accuracy {statistics.mean(found):.3f} ({spread})")


if __name__ == "__main__":
    main()
