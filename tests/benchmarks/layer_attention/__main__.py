"""Layer attention on CIFAR-10: step times, memory and accuracy, ours against the form of the reference, and its goals.

    python -m tests.benchmarks.layer_attention [--quick] [--parts accuracy steps] [--depths 20 56 110]
        [--accuracy-depths 20 38] [--arms ...] [--seeds 0 1 2 3 4] [--images N] [--test-images N] [--epochs E]
        [--batch B] [--rounds R] [--step-batch B] [--device cpu] [--threads 2] [--data FILE] --json OUT [--resume]

| arm | what |
|---|---|
| plain | a bottleneck ResNet of depth 9n + 2 for images of 32 x 32 (`cifar_resnet`) |
| mrla_base_naive | MRLA's base form as the reference has it: all values so far copied by `torch.cat` at each layer |
| mrla_base | ours: the same weights, the same outputs |
| mrla_light | MRLA's light form |
| ela, ela_0.2, ela_0.5 | ELA-style skipping (reconstructed from the abstract), threshold 0.3, 0.2, 0.5 |
| kl_threshold | skips where the divergence is below 0.05 nats |
| percentile, random | skip as many layers as `ela` of the same seed did in the end |

Step times: SGD steps on a batch of real images, all arms in turn, round after round; medians, quartiles, and paired
differences to the plain network. ELA's is measured with several shares of its layers closed, and with that which its
trainings came to. `peak_bytes` of a training step is counted without data on a CPU (`search.costs.memory`), on a GPU
the allocator's. Answers: of one image, and of a batch.

Accuracy: of the 5,000 test images (--quick on a CPU: of 1,000) after the last epoch, with the project's own trainer and
one recipe for all: SGD with momentum 0.9, weight decay 1e-4 (not on norms), crop and flip, a cosine from --lr to 0
(published are two steps).

**At depth 20 a stage has two blocks: there is nothing to skip, as attention over one layer cannot differ, and ELA is
the base form.** Its trainings at depth 38, the smallest with two gates a stage, are what says something of skipping.

| | CPU | CPU, --quick | GPU | GPU, --quick |
|---|---|---|---|---|
| depths of trainings | 20 38 | 38 | 20 56 110 | 56 |
| images, epochs, seeds | 1,500, 5, 5 | 400, 3, 2 | 15,000, 180, 5 | 3,000, 10, 2 |
| batch, lr, drop path | 64, 0.02, 0 | 64, 0.02, 0 | 128, 0.1, 0.2 | 128, 0.1, 0 |
| rounds and batch of steps | 15, 128 | 3, 64 | 50, 128 | 20, 128 |

Results are written after each training and each depth; --resume goes on from them.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from search.data import Batches, Dataset
from tests.benchmarks.layer_attention.accuracy import images_of, recipe_of, trainings
from tests.benchmarks.layer_attention.arms import ARMS
from tests.benchmarks.layer_attention.goals import goals, summary, table
from tests.benchmarks.layer_attention.steps import measured
from tests.benchmarks.machine import SHARED, circumstances
from tests.benchmarks.search_efficiency.results import commit

PARTS = ("accuracy", "steps")
LR, LR_BATCH = 0.1, 128  # of the recipe; in proportion for other batches
SHORT_LR = 0.02  # for the few steps of a CPU; with 0.05 attention saturates, divergences are of up to 500 nats
DEFAULTS: Mapping[tuple[str, bool], Mapping[str, Any]] = {
    ("cpu", False): {
        "accuracy_depths": [20, 38],
        "images": 1500,
        "epochs": 5,
        "seeds": 5,
        "rounds": 15,
        "lr": SHORT_LR,
    },
    ("cpu", True): {
        "accuracy_depths": [38],
        "images": 400,
        "epochs": 3,
        "seeds": 2,
        "rounds": 3,
        "lr": SHORT_LR,
        "test_images": 1000,
        "step_batch": 64,
    },
    ("cuda", False): {"accuracy_depths": [20, 56, 110], "images": None, "epochs": 180, "seeds": 5, "rounds": 50},
    ("cuda", True): {"accuracy_depths": [56], "images": 3000, "epochs": 10, "seeds": 2, "rounds": 20},
}
BATCH = {"cpu": 64, "cuda": 128}
STEP_BATCH = 128
# Options that must be the same for a run to go on.
KEPT = (
    "device",
    "threads",
    "images",
    "test_images",
    "epochs",
    "batch",
    "step_batch",
    "lr",
    "drop_path",
    "amp",
    "warm_up",
    "probe_every",
)


def options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m tests.benchmarks.layer_attention",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="under 15 minutes on two cores")
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    add("--depths", nargs="+", type=int, default=[20, 56, 110], help="of step times")
    add("--accuracy-depths", nargs="+", type=int)
    add("--arms", nargs="+", choices=list(ARMS), default=list(ARMS), help="of trainings", metavar="ARM")
    add("--seeds", nargs="+", type=int)
    add("--images", type=int, help="to train on")
    add("--test-images", type=int, help="default: all")
    add("--epochs", type=int)
    add("--batch", type=int, help="of trainings")
    add("--step-batch", type=int, help="of step times and answers")
    add("--lr", type=float)
    add("--drop-path", type=float, help="of the last block; it rises linearly")
    add("--warm-up", type=float, help="share of the epochs in which ELA skips nothing")
    add("--probe-every", type=int, help="epochs after which ELA measures all layers anew; 0: never")
    add("--rounds", type=int, help="of step times")
    add("--threads", type=int, default=2)
    add("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    add("--amp", action="store_true", help="bfloat16 on a GPU")
    add("--data", type=Path, default=SHARED / "data/cifar10_20k.npz")
    add("--json", type=Path, metavar="OUT")
    add("--resume", action="store_true")
    given = parser.parse_args(arguments)
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda, and there is no GPU that PyTorch can use")
    for name, value in DEFAULTS[given.device, given.quick].items():
        if getattr(given, name) is None:
            setattr(given, name, list(range(value)) if name == "seeds" else value)
    given.batch = given.batch or BATCH[given.device]
    given.step_batch = given.step_batch or STEP_BATCH
    given.lr = LR * given.batch / LR_BATCH if given.lr is None else given.lr
    if given.drop_path is None:
        given.drop_path = 0.2 if given.device == "cuda" and not given.quick else 0.0
    return given


def earlier(given: argparse.Namespace) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Trainings and step times that OUT holds already, where the run is to go on."""
    if not (given.resume and given.json and given.json.exists()):
        return [], {}
    content = json.loads(given.json.read_text())
    for name in KEPT:
        if content["options"][name] != getattr(given, name):
            was, now = content["options"][name], getattr(given, name)
            sys.exit(f"{given.json} was made with --{name.replace('_', '-')} {was}, not {now}; write another file")
    return content["trainings"], content["steps"]


class Results:
    """All that was measured so far; written whole or not at all."""

    def __init__(self, given: argparse.Namespace, dataset: Dataset):
        self._given, self._tested = given, len(dataset.test)
        self.trainings, self.steps = earlier(given)
        gpu = torch.cuda.get_device_name() if given.device == "cuda" else None
        self._head = {
            **circumstances(),
            "device": gpu or "cpu",
            "threads": given.threads,
            "commit": commit(),
            "options": {name: getattr(given, name) for name in (*KEPT, "quick", "rounds")},
            "peak_bytes_by": "the allocator of CUDA" if gpu else "search.costs.memory, without data",
        }

    def judged(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        depths = summary(self.steps, self.trainings)
        return depths, goals(depths, self.trainings, self._tested)

    def write(self) -> None:
        if not self._given.json:
            return
        depths, found = self.judged()
        seeds = sorted({row["seed"] for row in self.trainings})
        content = {
            **self._head,
            "seeds": seeds,
            "n": len(seeds),
            "depths": depths,
            "goals": found,
            "trainings": self.trainings,
            "steps": self.steps,
        }
        partial_file = self._given.json.with_name(self._given.json.name + ".part")
        partial_file.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
        partial_file.replace(self._given.json)

    def share(self, depth: int) -> float | None:
        """Which share of its layers ELA's trainings skip in the end, at this depth."""
        found = [row["skipped_share"] for row in self.trainings if (row["depth"], row["arm"]) == (depth, "ela")]
        return sum(found) / len(found) if found else None

    def show(self) -> None:
        depths, found = self.judged()
        print(table(depths), end="\n\n")
        for goal in found:
            print(f"{goal['verdict']:13} depth {goal['depth']:<4} {goal['goal']}: {goal['numbers']}")


def train(results: Results, dataset: Dataset, given: argparse.Namespace) -> None:
    for depth in given.accuracy_depths:
        for row in trainings(depth, dataset, given, results.trainings):
            results.trainings.append(row)
            results.write()
            print(
                f"depth {depth} seed {row['seed']} {row['arm']:16} {100 * row['accuracy']:.2f} % in"
                f" {row['train_seconds']:.1f} s, {row['skipped_share']:.2f} skipped"
                + (f" (the same network as {row['same_network_as']})" if "same_network_as" in row else ""),
                flush=True,
            )


def time_steps(results: Results, dataset: Dataset, given: argparse.Namespace) -> None:
    images, labels = next(iter(Batches(dataset, dataset.train, given.step_batch, torch.device(given.device))))
    for depth in given.depths:
        if str(depth) in results.steps:
            continue
        results.steps[str(depth)] = measured(
            depth,
            images,
            labels,
            recipe_of(given),
            classes=dataset.num_classes,
            rounds=given.rounds,
            found=results.share(depth),
            drop_path=given.drop_path,
        )
        results.write()
        print(f"depth {depth}: step times of {given.rounds} rounds", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    given = options(arguments)
    torch.set_num_threads(given.threads)
    dataset = images_of(given.data, given.images, given.test_images)
    results = Results(given, dataset)
    if "accuracy" in given.parts:
        train(results, dataset, given)
    if "steps" in given.parts:
        time_steps(results, dataset, given)
    results.write()
    results.show()


if __name__ == "__main__":
    main()
