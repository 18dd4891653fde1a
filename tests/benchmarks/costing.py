"""How many architectures of the ready spaces are costed a second: out of known parts, and by a full build each.

python -m tests.benchmarks.costing [--n 1000] [--seed 0] [--processes 2] [--full 100] [--json OUT]

Costed is: drawn from one space after the other, brought into its canonical form, with parameters, multiply-accumulates,
bytes on disk, and whether the constraints of its space hold. Each process draws its share of the N, and begins with
nothing known; the second half of its share is the warm rate. Nothing is remembered of a whole architecture, so that
small spaces, where some are drawn twice, do not help. Opening the spaces is not counted. For `--full` of them, every
cost is compared with that of a full build, counted by torch's FlopCounterMode, and that is timed too. Rates are by the
clock, and by the time of the processors, which tells more where the machine has other work.
"""

import argparse
import json
import multiprocessing
import random
import time
from collections.abc import Mapping
from itertools import cycle, islice
from pathlib import Path
from typing import Any, final

import torch

from search.costs.macs import Macs
from search.costs.model_bytes import ModelBytes, model_bytes
from search.costs.params import Params, params
from search.gate import limits
from spaces import Architecture, SearchSpace, build, load
from spaces.build import skeleton
from spaces.twin import uncollected
from tests.benchmarks.machine import circumstances
from tests.contracts.counting import torch_macs

CATALOG = Path(__file__).resolve().parents[2] / "spaces" / "catalog"
CLASSES = 10
Costed = tuple[str, Architecture, dict[str, float], bool]


def size_of(space: SearchSpace) -> tuple[int, int, int]:
    side = (space.file.data.image_size if space.file.data else None) or 32
    return 3, side, side


@final
class Watch:
    """Seconds since it was made: by the clock, and of the processor."""

    def __init__(self) -> None:
        self._start = self._now()

    def __call__(self) -> tuple[float, float]:
        return tuple(now - start for now, start in zip(self._now(), self._start, strict=True))  # type: ignore[return-value]

    def _now(self) -> tuple[float, float]:
        return time.perf_counter(), time.process_time()


def composed(
    spaces: Mapping[str, SearchSpace], count: int, seed: str
) -> tuple[list[Costed], list[tuple[float, float]]]:
    """So many random architectures, from one space after the other, and when each was done."""
    costs = {cost.name: cost for cost in (Params(), Macs(), ModelBytes())}
    bounds = {name: limits(space.file.constraints) for name, space in spaces.items()}
    rng, watch = random.Random(seed), Watch()
    done: list[Costed] = []
    times = []
    for name in islice(cycle(spaces), count):
        with uncollected():
            architecture = spaces[name].sample(rng).canonical
            model = skeleton(architecture, CLASSES)
            values = {key: cost(model, size_of(spaces[name])).value for key, cost in costs.items()}
            del model
        feasible = not any(bound.excess(values) > 0 for bound in bounds[name])
        done.append((name, architecture, values, feasible))
        times.append(watch())
    return done, times


def built(space: SearchSpace, architecture: Architecture) -> dict[str, float]:
    """The same costs, from the whole network each time."""
    with torch.device("meta"):
        model = build(architecture, CLASSES)
    return {"params": params(model), "macs": torch_macs(model, size_of(space)), "model_bytes": model_bytes(model)}


def work(given: argparse.Namespace, process: int, ready: Any, found: Any) -> None:
    torch.set_num_threads(1)
    spaces = {path.stem: SearchSpace(load(path)) for path in sorted(CATALOG.glob("*.yaml"))}
    ready.wait()
    done, times = composed(spaces, given.n // given.processes, f"{given.seed} {process}")
    ready.wait()
    sample = random.Random(given.seed).sample(done, min(given.full // given.processes, len(done)))
    watch = Watch()
    full = [built(spaces[name], Architecture.from_dict(one.to_dict())) for name, one, _, _ in sample]
    seconds = watch()
    wrong = [one.to_json() for (_, one, values, _), other in zip(sample, full, strict=True) if values != other]
    half = len(times) // 2
    rates = {
        f"{key}_per_{unit}_s": number / (times[last][place] - (times[first][place] if first else 0.0))
        for place, unit in enumerate(("clock", "processor"))
        for key, number, first, last in (
            ("all", len(times), 0, -1),
            ("cold", half, 0, half - 1),
            ("warm", len(times) - half, half - 1, -1),
        )
    }
    rates |= {
        f"full_per_{unit}_s": len(sample) / spent for unit, spent in zip(("clock", "processor"), seconds, strict=True)
    }
    found.put(
        {
            "architectures": len(done),
            "ids": [f"{name} {one.id}" for name, one, _, _ in done],
            "feasible": sum(feasible for *_, feasible in done),
            "compared": len(sample),
            "wrong": wrong,
            "rates": rates,
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--full", type=int, default=100)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    ready, found = context.Barrier(given.processes), context.Queue()
    workers = [context.Process(target=work, args=(given, place, ready, found)) for place in range(given.processes)]
    for worker in workers:
        worker.start()
    parts = [found.get() for _ in workers]
    for worker in workers:
        worker.join()
    rates = {key: sum(part["rates"][key] for part in parts) for key in parts[0]["rates"]}
    different = len({one for part in parts for one in part.pop("ids")})
    result: dict[str, Any] = {"n": given.n, "seed": given.seed, "different": different, "rates": rates}
    result |= {"processes": parts, "machine": circumstances()}
    print(
        f"{sum(part['architectures'] for part in parts)} architectures ({different} different,"
        f" {sum(part['feasible'] for part in parts)} feasible), {sum(part['compared'] for part in parts)} of them by a"
        f" full build too: {sum(len(part['wrong']) for part in parts)} differ. In {given.processes} processes:"
    )
    for unit in ("clock", "processor"):
        every, cold, warm, full = (rates[f"{key}_per_{unit}_s"] for key in ("all", "cold", "warm", "full"))
        print(
            f"per second of {unit:9}: {every:5.0f} out of parts ({cold:.0f} in the first half, {warm:.0f} in the"
            f" second), {full:5.1f} by a full build; {every / full:.0f} times as many"
        )
    print(json.dumps(result["machine"]))
    if given.json:
        given.json.write_text(json.dumps(result, indent=2) + "\n")
    if any(part["wrong"] for part in parts):
        raise SystemExit("they do not agree: " + ", ".join(one for part in parts for one in part["wrong"]))


if __name__ == "__main__":
    main()
