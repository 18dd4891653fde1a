"""Seen: an Optuna study as its sampler is to see it. Optuna knows no trials between running and ended; we do.

A trial that has reached a rung, waiting there or not, runs on in the storage, since it may still be trained. A
sampler would learn nothing from it for as long as that lasts. Here it is what a trial is that was stopped there.
"""

import copy
from collections.abc import Container, Mapping, Sequence
from typing import final

from optuna import Study, Trial
from optuna.study._constrained_optimization import _CONSTRAINTS_KEY
from optuna.trial import FrozenTrial, TrialState, create_trial


@final
class Seen(Study):
    """The same study, storage and caches, but for some running trials.

    Args:
        shown: what stands for them, by number; may change.
    """

    def __init__(self, study: Study, shown: Mapping[int, FrozenTrial]):
        self.__dict__.update(study.__dict__)
        self._shown = shown

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        """What every sampler of Optuna reads trials by."""
        trials = super()._get_trials(deepcopy=False, use_cache=use_cache)
        if self._shown:
            trials = [self._shown.get(trial.number, trial) for trial in trials]
        if states is not None:
            trials = [trial for trial in trials if trial.state in states]
        return copy.deepcopy(trials) if deepcopy else trials


def stand_in(
    trial: Trial, state: TrialState, values: Sequence[float] | None, violations: Mapping[str, float]
) -> FrozenTrial:
    """A running trial as if it had ended."""
    running = trial.storage.get_trial(trial._trial_id)
    constraints = {f"{_CONSTRAINTS_KEY}:{name}": violation for name, violation in violations.items()}
    told = create_trial(
        state=state,
        values=values,
        params=running.params,
        distributions=running.distributions,
        system_attrs={**running.system_attrs, **constraints},
    )
    told.number, told._trial_id = running.number, running._trial_id
    return told
