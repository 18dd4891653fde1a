"""The dry run: what is in a space, what it costs, and what a search of it will take. Nothing is trained.

Puts together what the other files of this folder find out, and measures what they go by.
"""

import math
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from search.costs.machine import machine
from search.data import Dataset
from search.foresight import Foresight
from search.gate import Gate, Limit, limits
from search.metered import metered
from search.pareto import Objectives
from search.planning.feasibility import Feasibility, Looked, look
from search.planning.forecast import Forecast, forecast, sizes, twins
from search.planning.game import Candidate
from search.planning.hours import Estimate, Pace, Terms, estimate, validation_share
from search.planning.timing import Clocked, Proof, Step, Times, chosen, proof, spread, step
from search.task import Given, Task, opened
from search.training import RECALIBRATION_IMAGES
from search.workers.cluster import cluster
from search.workers.pools import Resources
from search.workers.worker import cores
from spaces import InputError
from spaces.schema import PARENT

COUNT_S = 10.0  # for looking at a space: 2,000 architectures at 200 a second
PAIRS_S = 5.0  # for what each decision does
PREDICTED = 200  # architectures, in each place where a sample of them is needed: some 20 ms each


@dataclass(frozen=True, kw_only=True)
class Plan:
    """
    Attributes:
        machine: on which everything was measured, in words.
        device: of the trainings.
        times: by timed cost.
        estimate: None where nothing can be trained.
        refusal: why that is so, and what comes closest; empty where something can.
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
    refusal: str

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
            "refusal": self.refusal,
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

    What takes a clock is measured as a search does it, and kept for searches.

    Args:
        runs: the folder of searches.
        threads: CPU cores of a training.
        say: is told what comes next.

    Raises:
        InputError: as `search.task.opened`; nothing in the space can be counted, or there is no room to measure.
    """
    task = opened(space, allow_code=allow_code)
    assert task.costing is not None, "the evaluator is ours"
    if not task.costing.timed:
        return plan(task, None, threads=threads, say=say)
    try:
        runs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--runs {runs} cannot be written: {error.strerror}") from None
    with cluster(), metered(task, Resources.asked(cpus=threads), runs, say) as metering:
        assert metering is not None
        return plan(task, metering.foresight, threads=threads, say=say)


def plan(
    task: Task, foresight: Foresight | None, *, threads: int = 1, say: Callable[[str], None] = lambda note: None
) -> Plan:
    """
    Args:
        task: of timm networks.
        foresight: measures the timed costs; None where there are none.

    Raises:
        InputError: nothing in the space can be counted, or a backbone gives no finite answers.
    """
    costing, dataset, seed = task.costing, task.dataset, task.file.search.seed
    assert costing is not None, "the evaluator is ours"
    assert dataset is not None, "and so are the images"
    gate, bounds = Gate(task.evaluator, task.file.constraints), limits(task.file.constraints)
    say("counting architectures")
    found = look(task.space, gate.count, seed=seed, deadline_s=COUNT_S)
    if not any(each.costs for each in found.seen):
        raise InputError(found.refusal)
    say("taking back decisions, one at a time")
    seen, asides = list(found.seen), _asides(task, found.seen, gate, random.Random(seed))
    fitting = [each for each in seen if each.feasible] or [each for each in found.found if each.feasible]
    pool = spread(sorted(fitting, key=lambda each: each.costs["macs"]), PREDICTED)
    times: dict[str, Times] = {}
    refusal = found.refusal
    if foresight is not None and pool:
        say("measuring costs")
        clocked = Clocked(costing, foresight, chosen(pool))
        pool = [clocked.with_costs(each) for each in pool]
        times = clocked.times(pool, bounds)
        seen[:PREDICTED] = map(clocked.with_costs, seen[:PREDICTED])
        asides[:PREDICTED] = map(clocked.with_costs, asides[:PREDICTED])
        slow, pool = pool, [each for each in pool if _within(each, bounds)]
        if not pool:
            refusal = _refusal(slow, [bound for bound in bounds if bound.name in costing.timed])
    say("running each backbone on a batch")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    proofs = tuple(proof(architecture, task, dataset, device) for architecture in task.space.backbones())
    say("measuring training steps")
    steps = tuple(step(each, task, dataset, device, threads) for three in sizes(fitting).values() for each in three)
    return Plan(
        name=task.file.name,
        machine=machine(),
        device=f"{device.type}, {threads} {'thread' if threads == 1 else 'threads'}",
        feasibility=found,
        forecast=forecast(task.space, seen, asides),
        proofs=proofs,
        times=times,
        steps=steps,
        estimate=_estimate(task, dataset, found, pool, proofs, steps, threads) if pool else None,
        refusal=refusal,
    )


def _within(each: Looked, bounds: Sequence[Limit]) -> bool:
    return all(bound.excess(each.costs) <= 0 for bound in bounds if bound.name in each.costs)


def _refusal(slow: Sequence[Looked], timed: Sequence[Limit]) -> str:
    """That none of the architectures meets the constraints on what takes a clock."""

    def excess(each: Looked) -> float:
        return sum(max(0.0, bound.excess(each.costs)) for bound in timed if bound.name in each.costs)

    closest = min(slow, key=excess)
    beyond = " and ".join(
        f"{bound.name} {closest.costs[bound.name]:.6g}, {bound.side} is {bound.value:.6g}"
        for bound in timed
        if bound.name in closest.costs and bound.excess(closest.costs) > 0
    )
    return (
        f"none of {len(slow)} architectures meets the constraints on what is measured, as measured or predicted;"
        f" closest is {closest.walk.architecture.label} with {beyond}; widen the constraints or the space"
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


def _estimate(
    task: Task,
    dataset: Dataset,
    found: Feasibility,
    pool: Sequence[Looked],
    proofs: Sequence[Proof],
    steps: Sequence[Step],
    threads: int,
) -> Estimate:
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    per = 1 if gpus else threads  # devices of a training
    taken = task.costing.cores if task.costing else 0
    measured: dict[str, dict[float, float]] = {}
    for one in steps:
        measured.setdefault(one.backbone, {})[one.macs] = per * one.seconds
    pace, batches = Pace(measured), math.ceil(len(dataset.train) / task.file.train.batch_size)
    candidates = [
        Candidate(costs=each.costs, epoch_s=batches * pace.seconds(each.backbone, each.costs["macs"])) for each in pool
    ]
    validation = validation_share(len(dataset.train), len(dataset.val), recalibrated=RECALIBRATION_IMAGES)
    start_s, epochs = per * float(np.median([each.build_s for each in proofs])), task.file.search.fidelity.max
    plain = [*task.space.backbones()] if task.file.train.inherit == PARENT else []
    parents = [batches * pace.seconds(each.backbone or "", task.evaluator.costs(each)["macs"]) for each in plain]
    terms = Terms(
        validation=validation,
        start_s=start_s,
        parents_s=sum((epochs + validation) * epoch_s + start_s for epoch_s in parents),
        devices=gpus or max(1, (len(cores()) or os.cpu_count() or 1) - taken) // threads * threads or threads,
        architectures=found.feasible if found.whole else math.inf,
    )
    return estimate(task.file.search, Objectives(directions=task.file.objectives), candidates, terms)
