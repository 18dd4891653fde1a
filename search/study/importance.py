"""How much each decision of a search explains of what is good and bad in each objective.

Conditional PED-ANOVA (arXiv 2304.10255, 2601.20800) as Optuna has it, on trials put in the words of a user. Knows
the study, nothing of who shows the result.
"""

import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.pareto import Direction
from search.record import State, TrialRecord
from search.report.story import Importance
from search.study.study import Study
from spaces import SpaceFile

LEAST = 10  # trials with a value of an objective, before anything is said of it
TOP, LEAST_TOP = 0.1, 5  # good is the best tenth, but at least five trials, as Optuna's documentation asks for


def importance(study: Study) -> Importance:
    """By objective, then by decision, the largest first; an objective of which too little is known is missing.

    A cost is known of every architecture whose training did not fail, a measured objective of complete trials only. The
    names are those of `params_of`: `width`, `norm.2` (of stage 2), `kwargs.depth`. A decision counts where it was
    open: what a backbone leaves no choice about is not held against the others.
    """
    trained = [record for record in study.records() if record.state.open or record.state.counts]
    decided, found = study.decided(), {}
    for name, direction in study.file.objectives.items():
        known = {r.number: value for r in trained if (value := _value(r, name)) is not None}
        if len(known) >= LEAST and len(set(known.values())) > 1:
            trials = [_trial(decided[number], study.file, value) for number, value in known.items()]
            shares = _shares(trials, direction)
            if shares:
                found[name] = shares
    return found


def _value(record: TrialRecord, name: str) -> float | None:
    """An objective as far as it is final."""
    return record.values.get(name, record.costs.get(name)) if record.state is not State.FAILED else None


def _shares(trials: list[FrozenTrial], direction: Direction) -> dict[str, float]:
    """What each decision explains; empty where no decision explains anything."""
    evaluator = PedAnovaImportanceEvaluator(target_quantile=max(TOP, LEAST_TOP / len(trials)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that `normalize` is new; that few trials chose among the same
        study = optuna.create_study(direction=direction)
        study.add_trials(trials)
        found = get_param_importances(study, evaluator=evaluator, normalize=False)
    whole = sum(found.values())
    return {name: value / whole for name, value in found.items()} if whole > 0 else {}


def _trial(frozen: FrozenTrial, file: SpaceFile, value: float) -> FrozenTrial:
    """The same decisions under a user's names, with one value."""
    distributions = dict(_renamed(frozen.distributions, file))
    params = dict(_renamed(frozen.params, file))
    return create_trial(state=TrialState.COMPLETE, value=value, params=params, distributions=distributions)


def _renamed(entries: Mapping[str, BaseDistribution] | Mapping[str, Any], file: SpaceFile) -> Iterator[tuple[str, Any]]:
    """Optuna's names are those of `spaces.questions.Parameter`."""
    for name, entry in entries.items():
        if name == "backbone" or name in file.dimensions:
            yield name, entry
        elif (plain := re.sub(r"\(.*\)$", "", name)).partition(".")[0] in file.dimensions:
            yield re.sub(r"\.(\d+)", lambda stage: f".{int(stage[1]) + 1}", plain, count=1), entry
        else:  # an argument of a backbone: LABEL.NAME
            yield f"kwargs.{name.rpartition('.')[2]}", entry
