"""What a search without us is: Optuna's samplers, asked and told plainly at full fidelity; and its limit, an oracle.

Knows Optuna and the replayed table, nothing of our engine.
"""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import optuna
import torch
from numpy.typing import NDArray
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler

from tests.benchmarks.replay import RUNGS, Replay, coded, dimensions
from tests.benchmarks.simulation import Work

OPTUNA: Mapping[str, Callable[[int], BaseSampler]] = {
    "optuna-random": lambda seed: RandomSampler(seed=seed),
    "optuna-nsga2": lambda seed: NSGAIISampler(seed=seed),
    "optuna-tpe": lambda seed: TPESampler(seed=seed),
    "optuna-tpe-multivariate": lambda seed: TPESampler(seed=seed, multivariate=True),
    "optuna-gp": lambda seed: GPSampler(seed=seed),
}
FULL = RUNGS[-1]


class Optuna:
    """A sampler, in memory. What it proposes is trained, also when it has been trained before."""

    def __init__(self, name: str, seed: int, replay: Replay):
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        torch.set_num_threads(1)  # GP: its matrices are too small for more
        self._replay, self._space = replay, dimensions(replay.cells)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            sampler = OPTUNA[name](seed)
        self._study = optuna.create_study(sampler=sampler, directions=["maximize", "minimize"])
        self._trials: dict[int, optuna.Trial] = {}

    def next(self) -> Work | None:
        trial = self._study.ask()
        chosen: dict[str, Any] = {
            edge: trial.suggest_categorical(edge, operations) for edge, operations in self._space.items()
        }
        self._trials[trial.number] = trial
        return Work(number=trial.number, code=coded(chosen), fidelity=FULL)

    def report(self, work: Work, hours: float) -> Work | None:
        seen = self._replay.seen(work.code, FULL)
        self._study.tell(self._trials.pop(work.number), [seen, self._replay.cells[work.code][self._replay.cost]])
        return None


class Oracle:
    """Knows the truth of every cell, and trains what adds most hypervolume a second to what it has begun."""

    def __init__(self, replay: Replay):
        self._codes = list(replay.cells)
        self._truths = np.array([replay.truth(code) for code in self._codes])
        self._hours = np.array([replay.hours(code, FULL) for code in self._codes])
        self._bound = -replay.reference[0], replay.reference[1]
        self._begun: list[int] = []

    def next(self) -> Work | None:
        gains = gained(self._truths, self._truths[self._begun], self._bound)
        best = int(np.argmax(gains / self._hours))
        if gains[best] <= 0:
            return None
        self._begun.append(best)
        return Work(number=len(self._begun), code=self._codes[best], fidelity=FULL)

    def report(self, work: Work, hours: float) -> Work | None:
        return None


def gained(points: NDArray[np.float64], front: NDArray[np.float64], bound: tuple[float, float]) -> NDArray[np.float64]:
    """(n, 2), (k, 2) -> (n,): by how much each point alone would enlarge the hypervolume of the front up to the bound.

    Between the costs of neighbours on the front, the front is flat: a point adds a rectangle in each such strip.
    """
    front = front[(front < bound).all(axis=1)]
    front = front[np.lexsort((front[:, 0], front[:, 1]))]
    heights = np.append(bound[0], np.minimum.accumulate(front[:, 0]))  # of the strip that begins at each edge
    edges = np.concatenate(([-np.inf], front[:, 1], [bound[1]]))
    begins = np.maximum(edges[:-1], points[:, 1:])
    widths = np.clip(edges[1:] - begins, 0.0, None)
    return (widths * np.clip(heights - points[:, :1], 0.0, None)).sum(axis=1)
