"""The outbox: nothing is lost, nothing is repeated, nobody waits, whatever the service does."""

import logging
import threading
import time
from collections.abc import Callable

import pytest

from search.tracking.outbox import Courier, Outbox


class Service:
    """A real service in small: a list that can be away, or refuse one entry for ever."""

    def __init__(self) -> None:
        self.away, self.refused, self.got, self.recovered = False, "", [], 0

    def take(self, entry: str) -> None:
        if self.away or entry == self.refused:
            raise ConnectionError(f"no answer to {entry}\nand a second line")
        self.got.append(entry)

    def recover(self) -> None:
        if self.away:
            raise ConnectionError("still away")
        self.recovered += 1


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def outbox(service: Service) -> Outbox:
    return Outbox("the list", service.recover)


def test_work_is_done_at_once_and_in_order(outbox: Outbox, service: Service) -> None:
    for entry in "abc":
        outbox.do(entry, lambda entry=entry: service.take(entry))
    assert (service.got, len(outbox.waiting), service.recovered) == (["a", "b", "c"], 0, 0)


def test_what_fails_waits_and_only_the_newest_of_a_key_is_kept(
    outbox: Outbox, service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    service.away = True
    for entry in ("a1", "b1", "a2"):
        outbox.do(entry[0], lambda entry=entry: service.take(entry))
    assert outbox.waiting == {"a", "b"}
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warned == ["the list failed: no answer to a1; what is missing there waits"]
    service.away = False
    assert outbox.flush(5)
    assert (service.got, len(outbox.waiting), service.recovered) == (["b1", "a2"], 0, 1)
    assert caplog.records[-1].getMessage() == "the list is back; nothing is missing there"


def test_nobody_waits_for_a_service_that_is_away(outbox: Outbox, service: Service) -> None:
    tried = []

    def try_it() -> None:
        tried.append(time.monotonic())
        service.take("a")

    service.away = True
    began = time.monotonic()
    for key in range(1000):
        outbox.do(key, try_it)
    assert time.monotonic() - began < 0.5
    assert len(tried) == 1
    assert len(outbox.waiting) == 1000


def test_one_bad_entry_does_not_hold_up_the_others(
    outbox: Outbox, service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    service.refused = "bad"
    outbox.do("bad", lambda: service.take("bad"))
    outbox.do("good", lambda: service.take("good"))
    assert not outbox.flush(1.5)
    assert service.got == ["good"]
    assert outbox.waiting == {"bad"}
    assert caplog.records[-1].getMessage() == "the list: 1 things are still missing there"


def test_flush_gives_up_in_time(outbox: Outbox, service: Service) -> None:
    service.away = True
    outbox.do("a", lambda: service.take("a"))
    began = time.monotonic()
    assert not outbox.flush(0.2)
    assert time.monotonic() - began < 1


@pytest.fixture
def courier(service: Service) -> Courier:
    return Courier("the list", service.recover)


def taking(service: Service, entry: str) -> Callable[[], None]:
    return lambda: service.take(entry)


def test_a_courier_does_all_in_order_and_leaves_no_thread(courier: Courier, service: Service) -> None:
    for entry in map(str, range(200)):
        courier.do(entry, taking(service, entry))
    assert courier.flush(5)
    assert service.got == list(map(str, range(200)))
    assert "to the list" not in [thread.name for thread in threading.enumerate()]


def test_what_is_given_to_a_busy_courier_is_merged_by_its_key(courier: Courier, service: Service) -> None:
    busy, free = threading.Event(), threading.Event()

    def slow() -> None:
        busy.set()
        free.wait()

    courier.do("slow", slow)
    busy.wait()
    for entry in ("a1", "b1", "a2", "a3"):
        courier.do(entry[0], taking(service, entry))
    assert service.got == []  # nobody has waited
    free.set()
    assert courier.flush(5)
    assert service.got == ["a3", "b1"]


def test_a_courier_keeps_what_a_service_that_is_away_has_to_get(
    courier: Courier, service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    service.away = True
    for entry in ("a1", "b1", "a2"):
        courier.do(entry[0], taking(service, entry))
    assert not courier.flush(0.2)
    assert caplog.records[-1].getMessage() == "the list: 2 things are still missing there"
    assert service.got == []
    service.away = False
    assert courier.flush(5)
    assert sorted(service.got) == ["a2", "b1"]
    assert "to the list" not in [thread.name for thread in threading.enumerate()]


def test_work_that_failed_and_newer_of_its_key_are_one_thing_that_is_missing(
    courier: Courier, service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    failed = threading.Event()

    def fail() -> None:
        failed.set()
        raise ConnectionError("no answer")

    service.away = True
    courier.do("a", fail)
    assert failed.wait(5)
    courier.do("a", taking(service, "a2"))
    courier.do("b", taking(service, "b1"))
    assert not courier.flush(0.0)
    assert caplog.records[-1].getMessage() == "the list: 2 things are still missing there"


def test_a_flush_waits_as_long_as_anything_is_done(courier: Courier, service: Service) -> None:
    for entry in "abcdefgh":
        courier.do(entry, lambda entry=entry: (time.sleep(0.1), service.take(entry)))
    assert courier.flush(0.3)
    assert service.got == list("abcdefgh")
