"""How a trial that ended in each of our states is told to each sampler, so that it proposes fewer of the kind.

Optuna knows three ends. What each sampler makes of them (Optuna 5.0 source):

- TPE learns from COMPLETE and PRUNED; a PRUNED one, or one with a violated constraint, counts as bad. FAIL is
  not seen at all, so what was told FAIL is proposed again.
- NSGA-II breeds from COMPLETE ones only; a violated constraint loses to none.
- GP fits COMPLETE ones only, and every constraint of theirs.
- random sees nothing.

What counts is measured, not argued: the share of proposals of a kind, in the first and last third of a search
whose good architectures lie next to infeasible (or failing, or bad) ones; 6 dimensions of 4 choices, means of 6
seeds (GP: 3).

    proposals of     random   TPE, 150                    NSGA-II, 300                GP, 45
    infeasible       .71      FAIL .71 .57 PRUNED .32 .25 FAIL .76 .22 violated .65 .20 FAIL .71 .64 violated .53 .00
    failed           .50      FAIL .45 .33 PRUNED .19 .19 FAIL .52 .08 violated .39 .08 FAIL .51 .09 violated .27 .00
    stopped          .50      FAIL .46 .36 PRUNED .21 .24 FAIL .53 .10 violated .44 .09 FAIL .51 .27 violated .27 .00
    duplicate        .07 .35  FAIL .49 .89 PRUNED .20 .28 FAIL .21 .71 violated .22 .75 FAIL .00 .04 violated .00 .02

Where two ways do the same, the plainer word wins. The true state is in our user attribute in any case.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from optuna.trial import TrialState

from search.gate import limits
from search.record import State, TrialRecord
from spaces.schema import Bound


@dataclass(frozen=True, kw_only=True)
class Telling:
    """What Optuna hears.

    Attributes:
        state: COMPLETE goes with values: exact costs, what was measured, the reference point for the rest.
        violated: whether a constraint is told as violated, by how much where that is known. A violation keeps a
            COMPLETE trial out of `optuna.Study.best_trials`.
    """

    state: TrialState
    violated: bool = False


_COMPLETE = {State.COMPLETE: Telling(state=TrialState.COMPLETE)}
_PRUNED = Telling(state=TrialState.PRUNED)
_FAIL = Telling(state=TrialState.FAIL)
_VIOLATING = Telling(state=TrialState.COMPLETE, violated=True)

RANDOM: Mapping[State, Telling] = _COMPLETE | {
    State.STOPPED: _PRUNED,
    State.FAILED: _FAIL,
    State.INFEASIBLE: _FAIL,
    State.DUPLICATE: _FAIL,
}
TPE: Mapping[State, Telling] = _COMPLETE | {
    State.STOPPED: _PRUNED,
    State.FAILED: _PRUNED,
    State.INFEASIBLE: Telling(state=TrialState.PRUNED, violated=True),
    State.DUPLICATE: _PRUNED,
}
NSGA2: Mapping[State, Telling] = _COMPLETE | {
    State.STOPPED: _VIOLATING,
    State.FAILED: _FAIL,
    State.INFEASIBLE: _VIOLATING,
    State.DUPLICATE: _FAIL,
}
GP: Mapping[State, Telling] = _COMPLETE | {
    State.STOPPED: _VIOLATING,
    State.FAILED: _VIOLATING,
    State.INFEASIBLE: _VIOLATING,
    State.DUPLICATE: _VIOLATING,
}


def learnable(record: TrialRecord, reference_point: Mapping[str, float]) -> dict[str, float]:
    """What a sampler may learn from a trial, by objective: what is known of it, and the worst of the rest."""
    measured = {name: value for m in record.history for name, value in m.values.items() if math.isfinite(value)}
    return {**reference_point, **measured, **record.costs, **record.values}


def violations(record: TrialRecord, constraints: Mapping[str, Bound], *, full: int) -> dict[str, float]:
    """By how much each hard constraint is violated, and as one more what is missing of a full training.

    Above 0 is violated. The names and their order are the same for every trial: GP wants them so.

    Args:
        full: the fidelity of a full training.
    """
    found = {
        f"{limit.name} {limit.side}": limit.excess(record.costs) if limit.name in record.costs else 0.0
        for limit in limits(constraints)
    }
    if record.state is State.COMPLETE or any(violation > 0 for violation in found.values()):
        missing = 0.0
    else:
        missing = 1.0 - (record.fidelity / full if record.state is State.STOPPED else 0.0)
    return {**found, "training": missing}
