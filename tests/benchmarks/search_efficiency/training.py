"""Real training: the confirmed front of a search, by seconds, against the stock pair and NVIDIA ModelOpt.

    python -m tests.benchmarks.search_efficiency.training --seconds 350 --seeds 3 --json OUT.json
        [--arms stock ours-none ours modelopt ...] [--inherit parent] [--space FILE] [--data NPZ] [--epochs 9]
        [--train-images N] [--confirm-seeds K] [--bounds 0.57 0.28] [--modelopt-python PYTHON] [--plot OUT.png]
        [--quick]

Every arm runs alone, in a process of its own, on all cores: trainings of one thread each on each core, but ModelOpt,
which trains one network with all threads. With a GPU it is one training at a time, or as `--gpus-per-trial` says.
Arms:

    stock        Ray Tune + OptunaSearch, all to the end (`stock_pair`)
    ours-VALUE   the product with `train.inherit: VALUE` (`product`); `ours-none` is without inheritance
    ours         the same with the value of --inherit
    modelopt     FastNAS: trained once, then pruned and fine-tuned for each bound (`fastnas`)

The space, the networks, the data, the recipe and the loop that trains are the same in all. **Seconds** count from the
start of the first training: starting Ray, importing torch and reading the images is in none. What a search trains
before its trials (backbones to inherit from) is in its seconds. For ModelOpt they are those of training, pruning and
validating. Stock and ours end after `--seconds`, and what ends later does not count; ModelOpt takes what it takes.
Testing is in no seconds.

**Confirmed.** Each architecture that was ever on an arm's front is trained again from scratch, without inheritance,
with `--confirm-seeds` seeds that no search uses, and tested; that is done once for all arms and seeds. ModelOpt's
networks keep the test accuracy of their own training. What hypervolume means is said in `fronts`.

OUT is written after each step; where it holds runs with the same settings already, these and what was confirmed are
kept, so that an arm can be added or an interrupted benchmark gone on with. Delete it to begin anew.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

import spaces
from search.task import Task, opened
from spaces import InputError
from spaces.schema import Train
from tests.benchmarks.machine import SHARED, circumstances
from tests.benchmarks.search_efficiency import fronts, plots
from tests.benchmarks.search_efficiency.confirming import FIRST_SEED, confirm
from tests.benchmarks.search_efficiency.job import Job
from tests.benchmarks.simulation import quartiles

ROOT = Path(__file__).resolve().parents[3]
SPACE = ROOT / "spaces/catalog/small.yaml"
DATA = SHARED / "data/cifar10_20k.npz"
MODELOPT = "modelopt: needs `pip install nvidia-modelopt 'torchprofile<0.1'` in the environment of --modelopt-python"
PACKAGE = "tests.benchmarks.search_efficiency"
ENOUGH = 0.8  # of the seconds, between the first training's start and the last measurement
QUICK = {"seconds": 600.0, "trials": 2, "epochs": 2, "train_images": 300}


# What is asked for


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=350.0)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--arms", nargs="+", default=["stock", "ours-none", "ours", "modelopt"])
    parser.add_argument("--inherit", default="parent", help="of the arm `ours`")
    parser.add_argument("--space", type=Path, default=SPACE)
    parser.add_argument("--data", type=Path, default=DATA, help="an npz file, instead of the data of the space")
    parser.add_argument("--epochs", type=int, help="full fidelity; rungs beyond it are left out")
    parser.add_argument("--train-images", type=int, help="at most so many to train on, and 2/13 of that to validate")
    parser.add_argument("--trials", type=int, help="of each search; only the seconds count without")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="trainings at a time; all cores")
    parser.add_argument("--gpus-per-trial", type=float, default=float(torch.cuda.is_available()))
    parser.add_argument("--ready-s", type=float, default=30.0, help="for workers to start, on top of the seconds")
    parser.add_argument("--bounds", type=float, nargs="*", default=[0.57, 0.28], help="of ModelOpt, shares of FLOPs")
    parser.add_argument("--modelopt-python", default=sys.executable)
    parser.add_argument("--confirm-seeds", type=int, default=1)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--quick", action="store_true", help="made-up images, two tiny trainings an arm")
    given = parser.parse_args()
    if given.quick:
        vars(given).update(QUICK)
    elif not given.data.exists():
        sys.exit(f"needs {given.data}")
    return given


def space_of(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The space as plain data, with the images, the rungs and the budget of the benchmark."""
    plain = spaces.load(given.space).to_dict()
    data = made_up(folder) if given.quick else given.data
    plain["data"] = {"source": "npz", "path": str(data), "image_size": 32, "val_fraction": 2 / 15, "seed": 0}
    if given.train_images:
        plain["data"]["path"] = str(fewer(data, given.train_images, folder))
    search = plain["search"]
    for name in ("trials", "device_hours", "reference_point"):
        search.pop(name, None)
    epochs = given.epochs or search["fidelity"]["rungs"][-1]
    search["fidelity"]["rungs"] = [rung for rung in search["fidelity"]["rungs"] if rung < epochs] + [epochs]
    search |= {"sampler": "auto", "hours": 1.0}  # the hours are set by the arms
    plain["train"].pop("inherit", None)
    return plain


def fewer(data: Path, train_images: int, folder: Path) -> Path:
    """The same images, fewer of them to train and validate on; as many to test."""
    with np.load(data) as arrays:
        kept = {name: arrays[name] for name in arrays.files}
    chosen = np.random.default_rng(0).permutation(len(kept["train_labels"]))[: round(train_images * 15 / 13)]
    kept |= {name: kept[name][chosen] for name in ("train_images", "train_labels")}
    np.savez(folder / "fewer.npz", **kept)
    return folder / "fewer.npz"


def made_up(folder: Path) -> Path:
    """Noise with a bright quarter, which is the class."""
    rng, arrays = np.random.default_rng(0), dict[str, np.ndarray]()
    for name, count in (("train", 600), ("test", 200)):
        labels = np.arange(count) % 4
        images = rng.integers(0, 120, (count, 32, 32, 3), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[16 * (label // 2) :, 16 * (label % 2) :][:16, :16] += 120
        arrays |= {f"{name}_images": images, f"{name}_labels": labels}
    np.savez(folder / "made-up.npz", **arrays)
    return folder / "made-up.npz"


# Arms


def module_and_space(arm: str, plain: Mapping[str, Any], given: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """The module that runs an arm, and its space.

    Raises:
        InputError: there is no such arm, or this version of the product cannot run it.
    """
    if arm in ("stock", "modelopt"):
        return {"stock": "stock_pair", "modelopt": "fastnas"}[arm], dict(plain)
    value = given.inherit if arm == "ours" else arm.removeprefix("ours-")
    if arm != "ours" and not arm.startswith("ours-"):
        raise InputError(f"{arm}: no such arm; there are stock, ours, ours-VALUE and modelopt")
    if "inherit" not in Train.model_fields:
        if value != "none":
            raise InputError(f"{arm}: the space file knows no `train.inherit` in this version")
        return "product", dict(plain)
    space = {**plain, "train": {**plain["train"], "inherit": value}}
    try:
        spaces.load(space)
    except InputError as error:
        raise InputError(f"{arm}: {error}") from None
    return "product", space


def ran(arm: str, seed: int, plain: Mapping[str, Any], given: argparse.Namespace) -> dict[str, Any]:
    """The time line of an arm, from a process of its own.

    Raises:
        InputError: it cannot be run here; the message says why.
    """
    module, space = module_and_space(arm, plain, given)
    python = given.modelopt_python if arm == "modelopt" else sys.executable
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    if arm == "modelopt":
        environment.pop("OMP_NUM_THREADS")
        if subprocess.run([python, "-c", "import modelopt.torch, torchprofile"], capture_output=True).returncode:
            raise InputError(MODELOPT)
    with tempfile.TemporaryDirectory(prefix="archsearch-") as folder:
        job = Job(
            space={**space, "search": {**space["search"], "seed": seed}},
            seconds=given.seconds,
            trials=given.trials,
            seed=seed,
            workers=given.workers,
            gpus=given.gpus_per_trial,
            ready_s=given.ready_s,
            bounds=tuple(given.bounds),
            folder=folder,
        )
        (Path(folder) / "job.json").write_text(json.dumps(asdict(job)))
        began, log = time.monotonic(), Path(folder) / "log.txt"
        with log.open("w") as stream:
            command = [python, "-m", f"{PACKAGE}.{module}", f"{folder}/job.json"]
            done = subprocess.run(command, cwd=ROOT, env=environment, stdout=stream, stderr=stream)
        if done.returncode or not job.out.exists():
            sys.exit(f"{arm}, seed {seed}, ended with {done.returncode}:\n{log.read_text()[-4000:]}")
        found = json.loads(job.out.read_text())
    return {"arm": arm, "seed": seed, **found, "whole_s": time.monotonic() - began, "commit": commit()}


def counted(run: Mapping[str, Any], seconds: float) -> list[fronts.Row]:
    """What of an arm counts: all of ModelOpt's, of the others what ended in time."""
    return fronts.within(run["points"], math.inf if run["arm"] == "modelopt" else seconds)


def commit() -> str:
    """Of this checkout; with a mark where files differ from it."""
    said = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    return said.stdout.strip() or "unknown"


# The whole


def reference_of(task: Task) -> dict[str, float]:
    """See `fronts`."""
    assert task.dataset is not None
    largest = max(task.space.backbones(), key=lambda plain: task.evaluator.costs(plain)["macs"])
    return {
        "accuracy": 1 / task.dataset.num_classes,
        "macs": task.evaluator.costs(largest)["macs"],
        "backbone": largest.label,  # type: ignore[dict-item]
    }


def confirm_all(content: dict[str, Any], plain: dict[str, Any], given: argparse.Namespace) -> None:
    """Confirms what was ever on a front and is not confirmed yet, and writes each down as it comes."""
    known = content["confirmed"]
    members = [row for run in content["runs"] for row in fronts.ever(counted(run, given.seconds))]
    ours = {row["id"]: row for row in members if row["architecture"] is not None}
    seeds = range(FIRST_SEED, FIRST_SEED + given.confirm_seeds)
    wanted = [
        (row["architecture"], seed)
        for name, row in ours.items()
        for seed in seeds
        if str(seed) not in known.get(name, {}).get("test_accuracy", {})
    ]
    print(f"to confirm: {len(wanted)} trainings of {len(ours)} architectures", flush=True)

    def tell(name: str, seed: int, accuracy: float) -> None:
        entry = known.setdefault(name, {"label": ours[name]["label"], "macs": ours[name]["macs"], "test_accuracy": {}})
        entry["test_accuracy"][str(seed)] = accuracy
        write(content, given.json)
        print(f"  {accuracy:.4f}  {entry['macs']:>12,.0f} MACs  {entry['label']}", flush=True)

    confirm(plain, wanted, workers=1 if given.quick or given.gpus_per_trial else given.workers, tell=tell)


def means(content: Mapping[str, Any]) -> dict[str, float]:
    """Confirmed test accuracy by id, a mean over the seeds."""
    return {name: statistics.fmean(entry["test_accuracy"].values()) for name, entry in content["confirmed"].items()}


def judged(run: Mapping[str, Any], content: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """The curve of a run, its last front, and what the front is worth by its own tests."""
    rows, reference = counted(run, seconds), content["reference"]
    own = {row["id"]: row["test_accuracy"] for row in rows if row["test_accuracy"] is not None}
    confirmed = own if run["arm"] == "modelopt" else means(content)
    last = fronts.front(rows)
    tested = [row for row in last if row["test_accuracy"] is not None]
    curve = fronts.curve(rows, confirmed, reference)
    return {
        "curve": curve,
        "hypervolume": curve[-1][1],
        "last_front": [
            {
                **{name: row[name] for name in ("id", "label", "macs", "params", "accuracy", "seconds", "alone_s")},
                "own_test_accuracy": row["test_accuracy"],
                "confirmed_test_accuracy": confirmed[row["id"]],
            }
            for row in last
        ],
        "last_hypervolume": fronts.volume(last, confirmed, reference),
        "own_hypervolume": fronts.volume(tested, own, reference),
        "complete": sum(row["complete"] for row in rows),
    }


def compared(run: dict[str, Any], runs: Sequence[Mapping[str, Any]], content: Mapping[str, Any]) -> dict[str, Any]:
    """A judged run beside the stock pair's and ModelOpt's of the same seed: when it had caught up with each."""
    peers = {other["arm"]: other for other in runs if other["seed"] == run["seed"]}
    found: dict[str, Any] = {}
    if (stock := peers.get("stock")) and run["arm"].startswith("ours"):
        wanted = stock["judged"]["hypervolume"]
        took = fronts.seconds_to(stock["judged"]["curve"], wanted)
        mine = fronts.seconds_to(run["judged"]["curve"], wanted)
        found |= {"stock_hypervolume": wanted, "stock_s": took, "seconds_to_stock": mine}
    if (theirs := peers.get("modelopt")) and run["arm"] != "modelopt":
        rows = counted(run, content["settings"]["seconds"])
        found["modelopt"] = [
            {
                **{name: row[name] for name in ("label", "macs", "test_accuracy", "seconds", "alone_s")},
                "dominated_at_s": fronts.dominated_at((row["test_accuracy"], row["macs"]), rows, means(content)),
            }
            for row in theirs["points"]
        ]
    return found


def spread(values: Sequence[float]) -> list[float]:
    low, _, high = quartiles(values)
    return [statistics.median(values), low, high]


def summary(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A line an arm: over the seeds [median, lower quartile, upper quartile]; infinite is never."""
    lines = []
    for arm in dict.fromkeys(run["arm"] for run in runs):
        mine = [run for run in runs if run["arm"] == arm]
        line: dict[str, Any] = {"arm": arm, "n": len(mine)}
        for name in ("complete", "hypervolume", "last_hypervolume", "own_hypervolume"):
            line[name] = spread([run["judged"][name] for run in mine])
        for name in ("stock_s", "seconds_to_stock"):
            known = [run["compared"][name] for run in mine if name in run["compared"]]
            line[name] = spread(known) if known else None
        points = [point for run in mine for point in run["compared"].get("modelopt", [])]
        line["modelopt_points"] = len(points)
        line["modelopt_dominated_in_time"] = sum(point["dominated_at_s"] <= point["seconds"] for point in points)
        line["modelopt_dominated_alone"] = sum(point["dominated_at_s"] <= point["alone_s"] for point in points)
        lines.append(line)
    return lines


def show(runs: Sequence[Mapping[str, Any]], seconds: float) -> None:
    """A line a run, then the fronts."""
    print(f"\n{'arm':14} seed  complete  hypervolume  last front  own tests  to stock's hypervolume")
    for run in runs:
        found, beside = run["judged"], run["compared"]
        reached = ""
        if "stock_s" in beside:
            mine, span = beside["seconds_to_stock"], seconds
            reached = f"{mine:.0f} s, {mine / span:.0%} of {span:.0f} s" if mine < math.inf else "not reached"
            reached += f" (the stock pair had it at {beside['stock_s']:.0f} s)"
        print(
            f"{run['arm']:14} {run['seed']:4}  {found['complete']:8}  {found['hypervolume']:11.4f}"
            f"  {found['last_hypervolume']:10.4f}  {found['own_hypervolume']:9.4f}  {reached}"
        )
    for run in runs:
        print(f"\n{run['arm']}, seed {run['seed']}: the last front")
        for row in run["judged"]["last_front"]:
            own = "      " if row["own_test_accuracy"] is None else f"{row['own_test_accuracy']:.4f}"
            print(
                f"  {row['macs'] / 1e6:8.2f} M  val {row['accuracy']:.4f}  test {own}"
                f"  confirmed {row['confirmed_test_accuracy']:.4f}  at {row['seconds']:4.0f} s  {row['label']}"
            )
        for row in run["compared"].get("modelopt", []):
            at = row["dominated_at_s"]
            when = f"dominated after {at:.0f} s" if at < math.inf else "not dominated"
            print(
                f"  ModelOpt's {row['macs'] / 1e6:.2f} M {row['test_accuracy']:.4f}, which took {row['seconds']:.0f} s"
                f" ({row['alone_s']:.0f} s alone): {when}"
            )


def in_words(value: Any) -> str:
    """Of a line of the summary."""
    if not isinstance(value, list):
        return str(value)
    median, low, high = (f"{each:.4g}" for each in value)
    return f"{median} ({low}-{high})"


def write(content: Mapping[str, Any], path: Path) -> None:
    """As JSON; infinite, which is never, as null."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(content).replace("Infinity", "null") + "\n")
    part.replace(path)


def begun(path: Path, settings: Mapping[str, Any], reference: Mapping[str, float]) -> dict[str, Any]:
    """What an earlier run with these settings has left, else a new beginning."""
    if path.exists():
        content: dict[str, Any] = json.loads(path.read_text())
        if content.get("settings") == settings:
            print(f"goes on with {len(content['runs'])} runs in {path}", flush=True)
            return content
        sys.exit(f"{path} holds a benchmark with other settings; delete it, or name another file")
    return {**circumstances(), "settings": settings, "reference": reference, "runs": [], "confirmed": {}, "skipped": []}


def main() -> None:
    given = options()
    with tempfile.TemporaryDirectory(prefix="archsearch-") as folder:
        plain = space_of(given, Path(folder))
        task = opened(plain)
        assert task.dataset is not None
        names = ("seconds", "trials", "workers", "gpus_per_trial", "bounds", "train_images", "quick")
        settings = {name: getattr(given, name) for name in names}
        settings["space"] = {**plain, "data": {**plain["data"], "path": "" if given.quick else given.data.name}}
        settings["images"] = {name: len(getattr(task.dataset, name)) for name in ("train", "val", "test")}
        settings["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
        content = begun(given.json, json.loads(json.dumps(settings)), reference_of(task))
        run_all(content, plain, given)
        confirm_all(content, plain, given)
    for run in content["runs"]:
        run["judged"] = judged(run, content, given.seconds)
    for run in content["runs"]:
        run["compared"] = compared(run, content["runs"], content)
    content["summary"] = summary(content["runs"])
    write(content, given.json)
    show(content["runs"], given.seconds)
    for line in content["summary"]:
        told = ", ".join(f"{name} {in_words(value)}" for name, value in list(line.items())[2:])
        print(f"\n{line['arm']}, {line['n']} seeds, medians (quartiles): {told}")
    plots.draw(content, given.plot or given.json.with_suffix(".png"), means(content))


def run_all(content: dict[str, Any], plain: Mapping[str, Any], given: argparse.Namespace) -> None:
    """Every arm with every seed that is not there yet; arms in turn, seed by seed."""
    done = {(run["arm"], run["seed"]) for run in content["runs"]}
    content["skipped"] = []
    for seed in range(given.seeds):
        for arm in given.arms:
            if (arm, seed) in done or any(said.startswith(f"{arm}:") for said in content["skipped"]):
                continue
            try:
                run = ran(arm, seed, plain, given)
            except InputError as error:
                content["skipped"].append(str(error))
                print(f"skipped {error}", flush=True)
                continue
            content["runs"].append(run)
            write(content, given.json)
            best = fronts.front(counted(run, given.seconds))
            print(f"{arm}, seed {seed}: {len(best)} on the front, {run['notes']}, {run['whole_s']:.0f} s", flush=True)
            if not given.trials and arm != "modelopt" and run["notes"].get("span_s", 0.0) < ENOUGH * given.seconds:
                print(f"{arm}, seed {seed}: early; unless the space is exhausted, raise --ready-s", flush=True)


if __name__ == "__main__":
    main()
