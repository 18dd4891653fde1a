"""How long the sampler thinks of one proposal.

    python -m tests.benchmarks.search_efficiency.suggestions [--told 100 1000 10000] [--candidates 10000] [--n 5]
                                                             [--json OUT]

A made-up space of eight dimensions of five choices; one in ten of those told is trained to the end, the others to the
first rung of two. Candidates are costed and encoded before the clock starts. Each of the `--n` proposals knows one
trial more than the one before, as in a search; `first` also learns hyperparameters, as is done whenever there are a
quarter more measurements. Seconds on one thread.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from search.evaluator import Measurement
from search.pareto import Objectives
from search.record import State, TrialRecord
from search.samplers.ehvi.encoding import Known
from search.samplers.ehvi.planner import Planner
from spaces import Architecture
from tests.benchmarks.machine import circumstances

RUNGS = (12, 200)
DIMENSIONS, CHOICES = 8, 5


def networks(count: int, rng: np.random.Generator) -> list[Known]:
    """Different ones."""
    codes = rng.permutation(CHOICES**DIMENSIONS)[:count]
    digits = np.stack([codes // CHOICES**place % CHOICES for place in range(DIMENSIONS)], axis=1)
    return [
        (
            Architecture(choices={f"x{place}": int(choice) for place, choice in enumerate(row)}),
            {"macs": float(1 + row.sum()), "params": float(1 + (row**2).sum())},
        )
        for row in digits
    ]


def trial(number: int, known: Known, rng: np.random.Generator) -> TrialRecord:
    architecture, costs = known
    rungs = RUNGS if number % 10 == 0 else RUNGS[:1]
    history = tuple(
        Measurement(
            fidelity=rung,
            values={"accuracy": 0.1 * np.log(costs["params"]) + 0.001 * rung + 0.02 * rng.normal()},
            time=float(number),
            device_s=rung * costs["macs"],
        )
        for rung in rungs
    )
    state = State.COMPLETE if len(rungs) == 2 else State.PAUSED
    return TrialRecord(number=number, architecture=architecture, state=state, seed=0, costs=costs, history=history)


def measured(told: int, candidates: int, count: int) -> dict[str, Any]:
    """Seconds of some proposals."""
    rng = np.random.default_rng(0)
    known = networks(told + count + candidates, rng)
    records = [trial(number, each, rng) for number, each in enumerate(known[: told + count])]
    fresh = known[told + count :]
    objectives = Objectives(directions={"accuracy": "maximize", "macs": "minimize"})
    planner = Planner(objectives, {"accuracy": 0.0, "macs": 40.0}, RUNGS, fresh[:1000], {})
    planner._encoding([*fresh, *known[: told + count]])
    seconds = []
    for more in range(count):
        now = records[: told + more]
        waiting = [record.number for record in now if record.state is State.PAUSED]
        began = time.perf_counter()
        planner.plan(now, fresh, waiting[-200:], np.random.default_rng(more))
        seconds.append(time.perf_counter() - began)
    return {
        "told": told,
        "candidates": candidates,
        "first_s": seconds[0],
        "median_s": statistics.median(seconds[1:]),
        "worst_s": max(seconds[1:]),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--told", nargs="+", type=int, default=[100, 1000, 10_000])
    parser.add_argument("--candidates", type=int, default=10_000)
    parser.add_argument("--n", type=int, default=5)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = []
    with threadpool_limits(limits=1):
        for told in given.told:
            rows.append(measured(told, given.candidates, given.n))
            found = "  ".join(f"{name[:-2]} {rows[-1][name]:.3f} s" for name in ("first_s", "median_s", "worst_s"))
            print(f"{told:6} told, {given.candidates} candidates: {found}", flush=True)
    if given.json:
        given.json.write_text(json.dumps({**circumstances(), "n": given.n, "suggestions": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
