"""The front of records: only complete ones, the best first objective first."""

import pytest

from search.evaluator import Measurement
from search.pareto import Objectives
from search.record import State, TrialRecord, front_of
from spaces import Architecture

OBJECTIVES = Objectives(directions={"accuracy": "maximize", "macs": "minimize"})
WORST = {"accuracy": 0.0, "macs": 10.0}


def record(number: int, state: State, accuracy: float, macs: float) -> TrialRecord:
    values = {"accuracy": accuracy, "macs": macs}
    return TrialRecord(
        number=number,
        architecture=Architecture(choices={"n": number}),
        state=state,
        seed=number,
        costs={"macs": macs},
        history=(Measurement(fidelity=3, values=values), Measurement(fidelity=4)),
        values=values if state is State.COMPLETE else {},
    )


def test_the_front_is_of_complete_trials_only() -> None:
    records = [
        record(0, State.COMPLETE, 0.5, 2.0),
        record(1, State.COMPLETE, 0.9, 6.0),
        record(2, State.COMPLETE, 0.4, 3.0),
        record(3, State.STOPPED, 0.99, 1.0),
        record(4, State.FAILED, 0.99, 1.0),
        record(5, State.RUNNING, 0.99, 1.0),
    ]
    front = front_of(records, OBJECTIVES, WORST)
    assert [member.number for member in front.members] == [1, 0]
    assert front.hypervolume == pytest.approx(0.5 * 8 + 0.4 * 4)
    assert front.reference_point == WORST


def test_no_complete_trial_is_an_empty_front() -> None:
    front = front_of([record(0, State.STOPPED, 0.9, 1.0)], OBJECTIVES, WORST)
    assert front.members == ()
    assert front.hypervolume == 0


def test_a_complete_trial_without_a_value_is_a_fault() -> None:
    with pytest.raises(ValueError, match="NaN and infinity are not values"):
        front_of([record(0, State.COMPLETE, float("nan"), 1.0)], OBJECTIVES, WORST)


def test_a_record_knows_how_far_it_has_come_and_whether_it_counts() -> None:
    assert record(0, State.RUNNING, 0.5, 1.0).fidelity == 4
    counted = {state for state in State if state.counts}
    assert counted == {State.COMPLETE, State.STOPPED, State.FAILED}
