"""The decision of the planner as an Optuna sampler."""

from dataclasses import dataclass
from typing import Any, final

from optuna import Study
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial

from spaces.questions import Label, Parameter


@dataclass
class Chosen:
    """What the next proposal is to be: the answer to each question; empty where nothing is known."""

    answers: tuple[tuple[Parameter, Label], ...] = ()


@final
class Ehvi(RandomSampler):
    """Proposes what was chosen; where nothing was, any architecture, every decision uniformly."""

    def __init__(self, seed: int, chosen: Chosen):
        super().__init__(seed=seed)
        self._chosen = chosen

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {parameter.name: CategoricalDistribution(parameter.choices) for parameter, _ in self._chosen.answers}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {parameter.name: label for parameter, label in self._chosen.answers}
