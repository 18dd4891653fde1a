"""Pace on a clock of the test's own."""

import pytest

from search.tracking import pace
from search.tracking.pace import SHARE, Pace


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(pace, "time", clock)
    return clock


def test_what_is_quick_is_done_as_often_as_asked(clock: Clock) -> None:
    paced = Pace(15.0)
    assert paced.due
    with paced.timed():
        clock.now += 0.1
    assert not paced.due
    clock.now += 14.9
    assert not paced.due
    clock.now += 0.2
    assert paced.due


def test_what_takes_long_is_done_seldom(clock: Clock) -> None:
    paced = Pace(15.0)
    with paced.timed():
        clock.now += 6.0
    clock.now += 6.0 / SHARE - 1
    assert not paced.due
    clock.now += 2
    assert paced.due


def test_what_failed_is_due_as_before(clock: Clock) -> None:
    paced = Pace(15.0)
    with pytest.raises(OSError, match="away"), paced.timed():
        raise OSError("away")
    assert paced.due
