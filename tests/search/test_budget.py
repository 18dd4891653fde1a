"""Budgets of time: a search ends within an epoch of its limit, loses nothing, and goes on when it is given more."""

import pytest

from search.evaluator import Measurement
from search.record import State
from search.study import budget, studies
from search.study.work import Assignment, Idle
from spaces import InputError, SpaceError, load
from tests.search.plain import REFERENCE, Table, drive, plain_space, summary


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when told to."""
    now = [1000.0]
    monkeypatch.setattr(budget.time, "monotonic", lambda: now[0])
    return now


def begin(directory, **options):
    return studies.begin(directory, plain_space(**options), Table(), reference_point=REFERENCE)


def resume(directory, **options):
    return studies.resume(directory, plain_space(**options), Table())


def test_device_hours_of_all_trainings_are_one_budget(tmp_path):
    study = begin(tmp_path / "s", trials=8, device_hours=1, scheduler="none")
    first, second = study.next(), study.next()
    assert study.report(first.number, Measurement(fidelity=1, device_s=1800))
    assert study.report(second.number, Measurement(fidelity=1, device_s=1799))
    assert study.spent == {"trials": 0.0, "device_hours": pytest.approx(3599 / 3600)}
    assert study.overspent == ""
    assert not study.report(first.number, Measurement(fidelity=2, values={"accuracy": 0.5}, device_s=1))
    paused = study.records()[first.number]
    assert (paused.state, paused.reason) == (State.PAUSED, "the budget of 1 device hours is spent")
    assert not study.report(second.number, Measurement(fidelity=2, values={"accuracy": 0.5}, device_s=1))
    assert study.next() is Idle.TIME
    study.close()
    assert studies.read(study.directory).counts()[State.PAUSED] == 2

    again = resume(tmp_path / "s", trials=8, device_hours=2, scheduler="none")
    assert again.spent["device_hours"] == pytest.approx(3601 / 7200)
    assert again.next() == first.__class__(**{**vars(first), "rungs": (6,)})
    assert again.records()[first.number].state is State.RUNNING
    drive(again, Table())
    assert again.counts()[State.COMPLETE] == 7  # the first is still in our hands
    again.close()


EPOCH_S = 30


@pytest.mark.parametrize("limit", ["hours", "device_hours"])
def test_towards_the_end_of_time_a_sampler_that_plans_finishes_what_it_can(tmp_path, clock, limit):
    """A new training takes 180 s, one that waits at epoch 2 another 120."""
    study, late = begin(tmp_path / "s", sampler="ehvi", trials=None, **{limit: 1800 / 3600}), []
    while isinstance(work := study.next(), Assignment):
        left = 1800 * (1 - study.spent[limit])
        if 4 * EPOCH_S <= left < 6 * EPOCH_S and (len(work.rungs) == 1 or study.counts()[State.PAUSED]):
            late.append(work)
        for rung in work.rungs:
            trained = EPOCH_S * (rung - (2 if rung == 6 else 0))
            clock[0] += trained
            value = {"accuracy": Table().accuracy(work.architecture, rung)}
            if not study.report(work.number, Measurement(fidelity=rung, values=value, device_s=trained)):
                break
    assert late
    assert all(work.rungs == (6,) for work in late)
    study.close()


def test_hours_of_all_drivers_are_one_budget(tmp_path, clock):
    study = begin(tmp_path / "s", hours=1, trials=None, scheduler="none")
    for _ in range(3):
        work = study.next()
        clock[0] += 600
        study.report(work.number, Measurement(fidelity=6, values={"accuracy": 0.5}))
        study.report(work.number, Measurement(fidelity=6, values={"accuracy": 0.5}))
    study.close()
    clock[0] += 9e9  # nobody works on it
    again = resume(tmp_path / "s", hours=1, trials=None, scheduler="none")
    assert again.spent == {"hours": pytest.approx(0.5)}
    work = again.next()
    assert again.report(work.number, Measurement(fidelity=1))
    clock[0] += 1800
    assert not again.report(work.number, Measurement(fidelity=2))
    assert again.next() is Idle.TIME
    assert again.counts()[State.COMPLETE] == 3
    assert len(again.front.members) >= 1
    again.close()


def test_what_waits_at_a_rung_when_time_is_over_is_as_good_as_before_when_there_is_more(tmp_path):
    whole = begin(tmp_path / "whole", trials=12)
    drive(whole, Table())
    study = begin(tmp_path / "s", trials=12, device_hours=1)
    work = study.next()
    assert not study.report(work.number, Measurement(fidelity=1, device_s=3600))
    assert study.next() is Idle.TIME
    study.close()
    again = resume(tmp_path / "s", trials=12)
    drive(again, Table())
    assert [line[1:5] for line in summary(again)] == [line[1:5] for line in summary(whole)]
    again.close()
    whole.close()


def test_a_space_without_any_budget_is_refused_and_so_is_a_strange_one():
    space = {**plain_space(trials=3).to_dict()}
    for search, message in (
        ({"fidelity": {"max": 2}}, "search: has no budget; give trials, hours or device_hours"),
        ({"hours": 0, "fidelity": {"max": 2}}, "search.hours"),
        ({"device_hours": float("inf"), "fidelity": {"max": 2}}, "search.device_hours"),
    ):
        with pytest.raises((SpaceError, InputError), match=message):
            load({**space, "search": search})
