"""Foresight: a meter that also guesses, from what it has measured, what others would measure: to propose by.

Knows costs and architectures; nothing of samplers, trials or where anything is measured.
"""

from collections.abc import Callable, Mapping
from typing import final

from search.costing import Costing
from search.costs.predictor import ENOUGH, Features, Predictor
from search.evaluator import Guess, Meter, Reading
from spaces import Architecture

GROWTH = 1.25  # a predictor is fitted anew once so many times as many are measured


@final
class Foresight:
    """A `Foreseer`.

    Args:
        meter: measures.
        costing: whose timed costs it measures.
        say: is told once how well it guesses.

    Attributes:
        predictors: by cost; of rates, one of one over it. None as long as too few are measured.
    """

    def __init__(self, meter: Meter, costing: Costing, say: Callable[[str], None] = lambda note: None):
        self._meter, self._costing, self._say = meter, costing, say
        self._features: list[Features] = []
        self._values: list[Mapping[str, float]] = []
        self._seen: set[str] = set()
        self.predictors: dict[str, Predictor] = {}
        self._fitted = 0

    def measure(self, architecture: Architecture) -> Mapping[str, Reading]:
        readings = self._meter.measure(architecture)
        self.learn(architecture, {name: reading.value for name, reading in readings.items()})
        return readings

    def learn(self, architecture: Architecture, costs: Mapping[str, float]) -> None:
        """Takes in what is known already, where all timed costs are."""
        if architecture.id not in self._seen and all(name in costs for name in self._costing.timed):
            self._seen.add(architecture.id)
            self._features.append(self._costing.features(architecture))
            self._values.append({name: costs[name] ** self._power(name) for name in self._costing.timed})

    def foresee(self, architecture: Architecture) -> Mapping[str, Guess]:
        """By timed cost; nothing as long as fewer than ENOUGH are measured.

        Raises:
            SpaceError: the network cannot be built or run.
        """
        if len(self._values) >= max(ENOUGH, GROWTH * self._fitted):
            self._fit()
        if not self.predictors:
            return {}
        features = [self._costing.features(architecture)]
        return {
            name: Guess(value=float(predictor.predict(features)[0]) ** self._power(name), error=predictor.error)
            for name, predictor in self.predictors.items()
        }

    def _fit(self) -> None:
        before, self._fitted = self._fitted, len(self._values)
        for name in self._costing.timed:
            self.predictors[name] = Predictor.fit(self._features, [values[name] for values in self._values])
            if not before:
                self._say(f"{name}, to propose by: {self.predictors[name]}")

    def _power(self, name: str) -> int:
        """What is predicted is a time; a rate is one over it."""
        return -1 if self._costing.rate(name) else 1
