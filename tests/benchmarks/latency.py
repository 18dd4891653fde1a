"""Whether measured latency orders models rightly; and, with a GPU, what 20 models cost on it.

    python -m tests.benchmarks.latency [--threads 1] [--size 224] [--passes 2] [--json OUT]
    python -m tests.benchmarks.latency --device cuda [--batch 64] [--json OUT]

20 timm models of 14 families, weights as they are drawn, one image at a time, by `search.costs.latency_ms.Latency` as
a search measures them: by the process of `search.workers.meter`, on reserved cores of this machine. They are measured
in passes over all models, in an order drawn anew for each pass; half of the passes with the rest of the machine idle,
half beside a training that never ends: a trial on the other cores, kept off those by the same means. Kendall's tau
(scipy) between any two passes, the largest and the median change of a model from one to the other, and how many
readings were not steady. `load` is the machine's, a minute long, before the first pass: beside other work the numbers
say little.

With `--device cuda`: latency of one image in float32, in bfloat16 and compiled, throughput and peak memory at the
batch, on the GPU. Nothing is measured where there is none.
"""

import argparse
import itertools
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import timm
import torch
from scipy.stats import kendalltau

from search.costs.latency_ms import Latency
from search.costs.machine import machine
from search.costs.throughput import Throughput
from search.costs.train_seconds import TrainSeconds
from search.evaluator import Reading
from search.workers.cluster import cluster
from search.workers.meter import ClusterMeter
from search.workers.pools import Resources
from search.workers.worker import cores, settle, stay_on
from spaces import Architecture
from tests.benchmarks.machine import circumstances

MODELS = (
    "resnet18",
    "resnet50",
    "resnext50_32x4d",
    "seresnet50",
    "regnetx_002",
    "regnety_008",
    "mobilenetv3_small_100",
    "mobilenetv4_conv_small",
    "efficientnet_b0",
    "ghostnet_100",
    "repvit_m0_9",
    "convnext_atto",
    "convnextv2_femto",
    "starnet_s1",
    "hgnetv2_b0",
    "densenet121",
    "vit_tiny_patch16_224",
    "deit3_small_patch16_224",
    "swin_tiny_patch4_window7_224",
    "mixer_s32_224",
)


@dataclass(frozen=True, kw_only=True)
class Models:
    """A `Meter` of timm models by their names."""

    size: int
    threads: int
    limit_s: float

    def measure(self, architecture: Architecture) -> Mapping[str, Reading]:
        assert architecture.backbone is not None
        latency = Latency(threads=self.threads, limit_s=self.limit_s)
        return {"latency_ms": latency(timm.create_model(architecture.backbone), (3, self.size, self.size))}


class Trial:
    """Trains without end, as a worker of a search does: on its cores, off those of the meter."""

    def __init__(self, kept: frozenset[int]):
        settle(1)
        stay_on(cores() - kept or cores())

    def train(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        model = timm.create_model("resnet18", num_classes=10)
        while time.monotonic() < until:
            TrainSeconds(images=64, batch=64, limit_s=5.0).seconds(model, (3, 64, 64))


@contextmanager
def training(meter: ClusterMeter) -> Iterator[None]:
    claim = meter.claim()
    assert claim is not None
    trial = ray.remote(Trial).options(num_cpus=1).remote(claim.cores)
    ray.get(trial.train.remote(5.0))  # it is up, and warm
    trial.train.remote(1e6)
    try:
        yield
    finally:
        ray.kill(trial)


def one_pass(meter: ClusterMeter, order: random.Random) -> dict[str, Reading]:
    names = list(MODELS)
    order.shuffle(names)
    found = {name: meter.measure(Architecture(backbone=name))["latency_ms"] for name in names}
    return {name: found[name] for name in MODELS}


def passes(given: argparse.Namespace) -> dict[str, Any]:
    measuring = Models(size=given.size, threads=given.threads, limit_s=given.limit_s)
    found: dict[str, dict[str, Reading]] = {}
    order = random.Random(given.seed)
    with (
        cluster(),
        ClusterMeter(measuring, cpus=given.threads, resources=Resources(cpus=1)) as meter,
    ):
        for number in range(given.passes):
            found[f"idle {number + 1}"] = said("idle", one_pass(meter, order))
        with training(meter):
            for number in range(given.passes):
                found[f"beside {number + 1}"] = said("beside a training", one_pass(meter, order))
        described = meter.machine
    return {
        "machine": described,
        "threads": given.threads,
        "n_models": len(MODELS),
        "readings": {label: {name: vars(r) for name, r in readings.items()} for label, readings in found.items()},
        "pairs": [compared(a, b, found) for a, b in itertools.combinations(found, 2)],
    }


def said(label: str, readings: dict[str, Reading]) -> dict[str, Reading]:
    unsteady = sum(not reading.steady for reading in readings.values())
    spread = statistics.median(reading.spread for reading in readings.values())
    print(f"pass over {len(readings)} models, {label}: median spread {spread:.1%}, {unsteady} not steady", flush=True)
    return readings


def compared(a: str, b: str, found: Mapping[str, Mapping[str, Reading]]) -> dict[str, Any]:
    one, other = ([reading.value for reading in found[label].values()] for label in (a, b))
    changes = [abs(second / first - 1) for first, second in zip(one, other, strict=True)]
    return {
        "passes": [a, b],
        "kendall_tau": float(kendalltau(one, other).statistic),
        "median_change": statistics.median(changes),
        "largest_change": max(changes),
    }


def told(found: Mapping[str, Any]) -> None:
    labels = list(found["readings"])
    print(f"\n{found['machine']}; {found['threads']} threads, one image; milliseconds (spread; ! is not steady)\n")
    print(f"{'model':30}" + "".join(f"{label:>18}" for label in labels))
    for name in MODELS:
        readings = [found["readings"][label][name] for label in labels]
        cells = [f"{r['value']:.2f} ({r['spread']:.0%}){' ' if r['steady'] else '!'}" for r in readings]
        print(f"{name:30}" + "".join(f"{cell:>18}" for cell in cells))
    print()
    for pair in found["pairs"]:
        print(
            f"{' and '.join(pair['passes']):24} tau {pair['kendall_tau']:.3f}, median change "
            f"{pair['median_change']:.1%}, largest {pair['largest_change']:.1%}, n {found['n_models']}"
        )


def peak_mib(model: torch.nn.Module, images: torch.Tensor) -> float:
    """What PyTorch has of the GPU at most in a forward pass."""
    torch.cuda.empty_cache()
    with torch.inference_mode():
        network = model.eval().to("cuda")
        network(images)
        torch.cuda.reset_peak_memory_stats()
        network(images)
        torch.cuda.synchronize()
    model.to("cpu")
    return torch.cuda.max_memory_allocated() / 2**20


def on_gpu(given: argparse.Namespace) -> dict[str, Any]:
    images, size = torch.randn(given.batch, 3, given.size, given.size, device="cuda"), (3, given.size, given.size)
    setting = {"device": "cuda", "limit_s": given.limit_s}
    costs: dict[str, Callable[[torch.nn.Module], float | Reading]] = {
        "fp32 ms": lambda model: Latency(**setting)(model, size),
        "bf16 ms": lambda model: Latency(**setting, dtype="bfloat16")(model, size),
        "fp32 compiled ms": lambda model: Latency(**setting, runtime="compile")(model, size),
        "bf16 compiled ms": lambda model: Latency(**setting, runtime="compile", dtype="bfloat16")(model, size),
        "fp32 images/s": lambda model: Throughput(**setting, batch=given.batch)(model, size),
        "bf16 images/s": lambda model: Throughput(**setting, batch=given.batch, dtype="bfloat16")(model, size),
        "peak MiB": lambda model: peak_mib(model, images),
    }
    print(f"{machine()}; {given.size} pixels, batch 1, of throughput and memory {given.batch}\n")
    print(f"{'model':30}" + "".join(f"{label:>18}" for label in costs), flush=True)
    rows = {}
    for name in MODELS:
        model = timm.create_model(name)
        rows[name] = {label: cost(model) for label, cost in costs.items()}
        print(f"{name:30}" + "".join(f"{_cell(value):>18}" for value in rows[name].values()), flush=True)
    plain = {name: {k: vars(v) if isinstance(v, Reading) else v for k, v in row.items()} for name, row in rows.items()}
    return {"machine": machine(), "batch": given.batch, "n_models": len(MODELS), "rows": plain}


def _cell(value: float | Reading) -> str:
    if isinstance(value, Reading):
        return f"{value.value:.2f} ({value.spread:.0%}){' ' if value.steady else '!'}"
    return f"{value:.1f}"


def main() -> str | None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="cores of the meter")
    parser.add_argument("--size", type=int, default=224, help="side of the images; some models take 224 only")
    parser.add_argument("--passes", type=int, default=2, help="idle, and as many beside a training")
    parser.add_argument("--batch", type=int, default=64, help="of throughput and memory on the GPU")
    parser.add_argument("--limit-s", type=float, default=5.0, help="seconds of a measurement at most")
    parser.add_argument("--seed", type=int, default=0, help="of the orders")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        return "skipped: there is no GPU that PyTorch can use"
    if given.device == "cpu" and given.threads >= (os.cpu_count() or 1):
        return f"skipped: {given.threads} cores to measure on and one to train on are more than there are"
    about = circumstances()
    if given.device == "cuda":
        found = on_gpu(given)
    else:
        found = passes(given)
        told(found)
        print(f"load before: {about['load']:.2f}")
    if given.json:
        options = {name: value for name, value in vars(given).items() if name != "json"}
        given.json.write_text(json.dumps({**about, **options, **found}, indent=2) + "\n")
    return None


if __name__ == "__main__":
    sys.exit(main())
