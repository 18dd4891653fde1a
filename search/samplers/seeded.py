"""Seeded: makes any Optuna sampler a pure function of what was told, the seed, and the number of the trial.

A sampler that keeps its generator, or a cache, between proposals proposes something else after a restart.
Here a new one is made for each proposal, and for each decision that is sampled on its own, so that a
proposal which a crash cut in half is completed as it would have been.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from search.samplers.seen import Seen


class Seeded(BaseSampler):
    """Wraps the samplers that `make(seed)` returns, for one study.

    Attributes:
        shown: what they are to see of trials that have reached a rung and not ended, by number.

    Args:
        make: a new sampler for a seed below 2**32.
        seed: of the whole search.
    """

    def __init__(self, make: Callable[[int], BaseSampler], seed: int):
        self._make, self._seed = make, seed
        self._number, self._sampler = -1, make(seed)
        self._seen: Seen | None = None
        self.shown: dict[int, FrozenTrial] = {}

    def _for(self, trial: FrozenTrial) -> BaseSampler:
        if self._number != trial.number:
            self._number, self._sampler = trial.number, self._make(derive(self._seed, trial.number))
        return self._sampler

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._for(trial).infer_relative_search_space(self._view(study), trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        before = _proposed(trial)
        return self._for(trial).sample_relative(self._view(study), trial, search_space) if before is None else before

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        alone = self._make(derive(self._seed, trial.number, param_name))
        return alone.sample_independent(self._view(study), trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._for(trial).before_trial(self._view(study), trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        self._make(derive(self._seed, trial.number)).after_trial(self._view(study), trial, state, values)

    def _view(self, study: Study) -> Seen:
        if self._seen is None:
            self._seen = Seen(study, self.shown)
        return self._seen


def _proposed(trial: FrozenTrial) -> dict[str, Any] | None:
    """What TPE and GP had already proposed for a trial that a crash cut in half.

    They write it down, in pieces, for samplers in other processes; GP would take it for another's.
    """
    marks = [key for key in trial.system_attrs if ":relative_params:" in key]
    pieces = [trial.system_attrs[key] for key in sorted(marks, key=lambda key: int(key.rpartition(":")[2]))]
    proposed: dict[str, Any] | None = json.loads("".join(pieces)) if pieces else None
    return proposed


def derive(seed: int, *names: int | str) -> int:
    """A seed below 2**32 that differs for every seed and names, the same in any process."""
    text = "/".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
