"""Game: a search played through without training, to see how many networks train how long.

Its rungs are those of a search, its accuracies are by chance. Knows costs and rungs, nothing of architectures.
"""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import final

from search.pareto import Objectives, non_dominated
from search.study.rungs import Rungs
from spaces.schema import Search

NOISE = 1.0  # of accuracy, where what the logarithm of the size says of it has a deviation of 1 over the space
BETWEEN_RUNGS = 0.3  # further noise at each rung: they rank alike, not equally


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """An architecture that may be proposed.

    Attributes:
        costs: by name; every objective that is known before training.
        epoch_s: device seconds of a training epoch.
    """

    costs: Mapping[str, float]
    epoch_s: float


@final
class Game:
    """A search with one worker, whose accuracies are by chance, larger ones of larger networks.

    Args:
        pool: drawn from with every proposal.

    Attributes:
        drawn: what was proposed, trial by trial.
        epochs: trained, by trial.
        starts: of trainings, also to go on after a pause.
        validations: by trial.
    """

    def __init__(
        self, search: Search, objectives: Objectives, pool: Sequence[Candidate], trials: int, rng: random.Random
    ):
        played = search if search.trials is None else search.model_copy(update={"trials": trials})
        self._objectives, self._rng, self._rungs = objectives, rng, Rungs(played, objectives)
        self._measured = tuple(name for name in objectives.names if name not in pool[0].costs)
        sizes = [math.log(each.epoch_s) for each in pool]
        middle, deviation = fmean(sizes), pstdev(sizes) or 1.0
        self.drawn = [rng.choice(pool) for _ in range(trials)]
        self._quality = [(math.log(each.epoch_s) - middle) / deviation + NOISE * rng.gauss(0, 1) for each in self.drawn]
        self.epochs, self.validations, self.starts = [0] * trials, [0] * trials, 0
        self._last: dict[int, Mapping[str, float]] = {}
        for number in range(trials):
            self._train(number)
            self._promote()
        self._rungs.settle(())
        while self._promote():
            self._rungs.settle(())
        if self._rungs.planned and played.trials is not None:
            self._fill()

    def _promote(self) -> bool:
        """Trains on what may go on; whether there was any."""
        before = self.starts
        while (promotion := self._rungs.promotion()) is not None:
            self._train(promotion.number)
        return self.starts > before

    def _fill(self) -> None:
        """Trains on all that a sampler which plans may let go on, at most."""
        while free := self._rungs.free(set(range(len(self.drawn))) - set(self._last)):
            number = max(free, key=lambda number: self._quality[number])
            self._rungs.let_go(number)
            self._train(number)

    def _train(self, number: int) -> None:
        """Up to the rung at which it waits, or to the end."""
        self.starts += 1
        goes_on = True
        while goes_on:
            values = self._values(number)
            rung = self._rungs.judge(number, values, self._measured)
            goes_on = rung.goes_on
            self.epochs[number] = rung.fidelity
            self.validations[number] += 1
            if rung.fidelity == self._rungs.last:
                self._last[number] = values

    def _values(self, number: int) -> dict[str, float]:
        """Every objective at the next rung, in its own direction."""
        found = {}
        for name, direction in self._objectives.directions.items():
            quality = self._quality[number] + BETWEEN_RUNGS * self._rng.gauss(0, 1)
            measured = quality if direction == "maximize" else -quality
            found[name] = self.drawn[number].costs.get(name, measured)
        return found

    @property
    def complete(self) -> int:
        """Trials that were trained to the end."""
        return len(self._last)

    @property
    def front(self) -> list[Candidate]:
        """Of complete trials."""
        kept = non_dominated(self._objectives.minimised(self._last.values()))
        return [self.drawn[number] for number, best in zip(self._last, kept, strict=True) if best]
