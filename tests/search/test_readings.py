"""What was measured once is not measured again: by which search ever, whatever happens to the file."""

import json
import multiprocessing
from collections.abc import Mapping
from pathlib import Path

import pytest

from search.evaluator import Meter, Reading
from search.readings import FILE, Readings
from spaces import Architecture

SETTINGS = {"latency_ms": "10 classes, 3x32x32, cpu", "throughput": "10 classes, 3x32x32, cpu, 64"}


class Clock:
    """Counts what it is asked."""

    def __init__(self, steady: bool = True, value: float = 1.5):
        self.asked: list[str] = []
        self.steady, self.value = steady, value

    def measure(self, architecture: Architecture) -> Mapping[str, Reading]:
        self.asked.append(architecture.id)
        value = self.value + len(self.asked)
        return {name: Reading(value=value, spread=0.25, steady=self.steady) for name in SETTINGS}


def network(a: int = 0) -> Architecture:
    return Architecture(choices={"a": a})


def search(
    folder: Path,
    clock: Meter,
    settings: Mapping[str, str] = SETTINGS,
    machine: str = "m",
    said: list[str] | None = None,
) -> Readings:
    say = [].append if said is None else said.append
    return Readings(clock, folder / FILE, settings=settings, machine=lambda: machine, say=say)


def test_what_is_known_is_not_measured_again(tmp_path: Path) -> None:
    clock = Clock()
    first = search(tmp_path, clock)
    assert isinstance(first, Meter)
    readings = [first.measure(network(a)) for a in (0, 1, 0)]
    assert readings[0] == readings[2] != readings[1]
    assert readings[0]["latency_ms"] == Reading(value=2.5, spread=0.25, steady=True)
    later = search(tmp_path, clock)
    assert [later.measure(network(a)) for a in (0, 1, 0)] == readings
    assert clock.asked == [network(0).id, network(1).id]


def test_another_setting_or_machine_is_another_reading(tmp_path: Path) -> None:
    clock = Clock()
    known = search(tmp_path, clock).measure(network())
    assert search(tmp_path, clock, machine="other").measure(network()) != known
    other = {**SETTINGS, "latency_ms": "100 classes, 3x32x32, cpu"}
    mixed = search(tmp_path, clock, settings=other).measure(network())
    assert mixed["latency_ms"] != known["latency_ms"]
    assert mixed["throughput"] == known["throughput"]  # what is known does not change
    assert len(clock.asked) == 3
    renamed = {"my_ms": SETTINGS["latency_ms"]}
    assert search(tmp_path, clock, settings=renamed).measure(network()) == {"my_ms": known["latency_ms"]}
    assert len(clock.asked) == 3


def test_a_meter_that_moves_measures_for_the_machine_that_it_came_to(tmp_path: Path) -> None:
    class Moving(Clock):
        machine = "old"

        def measure(self, architecture: Architecture) -> Mapping[str, Reading]:
            self.machine = "new"
            return super().measure(architecture)

    clock = Moving()
    readings = Readings(clock, tmp_path / FILE, settings=SETTINGS, machine=lambda: clock.machine)
    known = readings.measure(network())
    assert readings.measure(network()) == known
    assert {json.loads(line)["machine"] for line in (tmp_path / FILE).read_text().splitlines()} == {"new"}
    assert len(clock.asked) == 1


def test_what_is_not_steady_has_one_more_chance_in_a_later_search(tmp_path: Path) -> None:
    clock = Clock(steady=False)
    first = search(tmp_path, clock)
    assert first.measure(network()) == first.measure(network())
    assert not first.measure(network())["latency_ms"].steady
    assert len(clock.asked) == 1
    second = search(tmp_path, clock)
    again = second.measure(network())
    assert again == second.measure(network())
    assert again["latency_ms"].value == 3.5  # the later one
    assert len(clock.asked) == 2
    assert search(tmp_path, clock).measure(network()) == again
    assert len(clock.asked) == 2


def test_a_steady_reading_replaces_one_that_was_not(tmp_path: Path) -> None:
    search(tmp_path, Clock(steady=False)).measure(network())
    better = search(tmp_path, Clock(value=7.0)).measure(network())
    assert better["latency_ms"] == Reading(value=8.0, spread=0.25, steady=True)
    never = Clock()
    assert search(tmp_path, never).measure(network()) == better
    assert never.asked == []


GOOD = {"architecture": network().id, "machine": "m", "value": 9.0, "spread": 0.1, "steady": True}


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"\x80\x04\x95 pickled",
        b"[" * 100_000,
        b'"text"',
        b"[]",
        b"null",
        *(
            json.dumps({**GOOD, "setting": SETTINGS["latency_ms"], **changed}).encode()
            for changed in (
                {"value": float("nan")},
                {"value": float("inf")},
                {"value": -1.0},
                {"value": True},
                {"value": "9.0"},
                {"value": 10**400},
                {"spread": None},
                {"steady": 1},
                {"machine": ["m"]},
                {"architecture": {}},
            )
        ),
    ],
    ids=lambda line: line[-30:].decode(errors="replace"),
)
def test_a_line_that_says_nothing_is_passed_over(tmp_path: Path, line: bytes) -> None:
    good = [json.dumps({**GOOD, "setting": setting}).encode() for setting in SETTINGS.values()]
    (tmp_path / FILE).write_bytes(b"\n".join([line, *good, line, b""]))
    clock = Clock()
    assert search(tmp_path, clock).measure(network())["latency_ms"].value == 9.0
    assert clock.asked == []
    (tmp_path / FILE).write_bytes(line + b"\n")
    assert search(tmp_path, clock).measure(network())["latency_ms"].value == 2.5


def test_a_line_cut_off_harms_no_other(tmp_path: Path) -> None:
    clock, file = Clock(), tmp_path / FILE
    search(tmp_path, clock).measure(network(0))
    file.write_bytes(file.read_bytes()[:-20])
    later = search(tmp_path, clock)
    later.measure(network(0))
    later.measure(network(1))
    assert len(clock.asked) == 3
    last = search(tmp_path, clock)
    last.measure(network(0))
    last.measure(network(1))
    assert len(clock.asked) == 3


def test_a_search_sees_what_another_measures_meanwhile(tmp_path: Path) -> None:
    one, other = Clock(), Clock(value=100.0)
    first, second = search(tmp_path, one), search(tmp_path, other)
    first.measure(network(0))
    assert second.measure(network(0)) == first.measure(network(0))
    second.measure(network(1))
    assert first.measure(network(1)) == second.measure(network(1))
    assert (one.asked, other.asked) == ([network(0).id], [network(1).id])


def measure(folder: Path, start: int) -> None:
    readings = search(folder, Clock())
    for a in range(start, start + 100):
        readings.measure(network(a))


def test_several_processes_write_at_once(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=measure, args=(tmp_path, start)) for start in (0, 50, 1000)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    clock = Clock()
    readings = search(tmp_path, clock)
    for a in (*range(150), *range(1000, 1100)):
        readings.measure(network(a))
    assert clock.asked == []
    for line in (tmp_path / FILE).read_text().splitlines():
        json.loads(line)


def test_a_file_that_cannot_be_used_is_said_once_and_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / "directory" / FILE).mkdir(parents=True)
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone" / FILE).symlink_to("missing/readings.jsonl")
    for folder, reason in (("directory", "Is a directory"), ("gone", "No such file or directory")):
        clock, said, file = Clock(), list[str](), tmp_path / folder / FILE
        readings = search(tmp_path / folder, clock, said=said)
        for a in (0, 1, 0):
            assert readings.measure(network(a)).keys() == SETTINGS.keys()
        assert len(clock.asked) == 2
        assert said == [f"measured costs are not kept for later searches: {file}: {reason}"]
