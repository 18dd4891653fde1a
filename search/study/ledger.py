"""The written form of a trial: its user attributes in the study's storage, to and from a TrialRecord.

Attributes are plain JSON and written one by one. A crash between any two leaves a trial that can be read and
gone on with: without `proposal` it is proposed again; without `state` it is trained on from its last rung.

    proposal                        architecture, seed, costs, when it was proposed, from which trial it is to
                                    inherit if from any; once it has been judged
    inherited_from                  from whom it did inherit, where that came to something else
    history/N                       measurements since the last such attribute, the first of them the N-th
    rung/F                          every objective at fidelity F, whether it may go on from there, and as the
                                    how manieth it came, from 0
    paused                          why it is not trained now though it may go on; empty once it does
    reason, duplicate_of, ended     how it ended
    state                           how it ended, in one word; after those
    mlflow_run_id, test_accuracy    found out by others, whenever that was
    origin                          the trial of an earlier search whose values these are

What is never to be trained ends before it is proposed: its `proposal` is the last attribute.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from search.evaluator import Measurement
from search.record import State, TrialRecord
from spaces import Architecture

Attributes = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Rung:
    """What a trial reached at a rung.

    Attributes:
        place: how many had come there before it.
        values: every objective in its own direction.
        goes_on: whether it was allowed to train on; else it waits there, or was stopped.
    """

    fidelity: int
    place: int
    values: Mapping[str, float]
    goes_on: bool


PROPOSAL, PAUSED, INHERITED = "proposal", "paused", "inherited_from"


def proposal(record: TrialRecord) -> list[tuple[str, Any]]:
    """What is written of a trial when it has been judged."""
    fields = {"seed": record.seed, "costs": dict(record.costs), "started": record.started}
    given = {} if record.inherited_from is None else {INHERITED: record.inherited_from}
    return [(PROPOSAL, {"architecture": record.architecture.to_dict(), **fields, **given})]


def ending(record: TrialRecord) -> list[tuple[str, Any]]:
    """What is written of a trial when it ends; nothing while it runs."""
    if record.state.open:
        return []
    fields = {"reason": record.reason or None, "duplicate_of": record.duplicate_of, "ended": record.ended}
    return [(name, value) for name, value in (fields | {"state": record.state.value}).items() if value is not None]


def rung_attribute(rung: Rung) -> tuple[str, dict[str, Any]]:
    return f"rung/{rung.fidelity}", {"place": rung.place, "values": dict(rung.values), "goes_on": rung.goes_on}


def written_measurements(attributes: Attributes) -> list[Measurement]:
    """All measurements in the order in which they were written."""
    chunks = sorted((int(key.partition("/")[2]), key) for key in attributes if key.startswith("history/"))
    return [
        Measurement(
            fidelity=fidelity,
            values=values,
            metrics=metrics,
            time=at,
            device_s=device_s,
            network=Architecture.from_dict(network[0]) if network else None,
        )
        for _, key in chunks
        for fidelity, values, metrics, at, device_s, *network in attributes[key]
    ]


def rungs(attributes: Attributes) -> list[Rung]:
    """Rungs reached, lowest first."""
    found = [
        Rung(fidelity=int(key.partition("/")[2]), **value)
        for key, value in attributes.items()
        if key.startswith("rung/")
    ]
    return sorted(found, key=lambda rung: rung.fidelity)


def joined(history: tuple[Measurement, ...], new: Measurement) -> tuple[Measurement, ...]:
    """History with one more measurement.

    A training that goes on from a checkpoint measures again what it had measured after it: the new replaces
    what was seen at the same fidelity and beyond. News at the same fidelity that says something else is added.
    """
    before = tuple(old for old in history if old.fidelity < new.fidelity)
    same = [old for old in history if old.fidelity == new.fidelity]
    if not same or len(before) + len(same) < len(history):
        return (*before, new)
    merged = Measurement(
        fidelity=new.fidelity,
        values={**same[-1].values, **new.values},
        metrics={**same[-1].metrics, **new.metrics},
        time=new.time,
        device_s=same[-1].device_s + new.device_s,
        network=new.network or same[-1].network,
    )
    return (*before, merged)


def costs_after(costs: Mapping[str, float], history: tuple[Measurement, ...]) -> dict[str, float]:
    """The costs of the network that a training left: as measured where it is another one."""
    measured = {name: value for m in history if m.network is not None for name, value in m.values.items()}
    return {name: measured.get(name, cost) for name, cost in costs.items()}


def read(number: int, attributes: Attributes) -> TrialRecord:
    """The record of a trial that has at least a proposal."""
    proposed, reached = attributes[PROPOSAL], rungs(attributes)
    waits = attributes.get(PAUSED) or (reached and not reached[-1].goes_on)
    state = State(attributes.get("state", State.PAUSED if waits else State.RUNNING))
    history: tuple[Measurement, ...] = ()
    for measurement in written_measurements(attributes):
        history = joined(history, measurement)
    return TrialRecord(
        number=number,
        architecture=Architecture.from_dict(proposed["architecture"]),
        state=state,
        reason=attributes.get("reason") or (attributes.get(PAUSED, "") if state is State.PAUSED else ""),
        seed=proposed["seed"],
        costs=costs_after(proposed["costs"], history),
        history=history,
        values=reached[-1].values if state is State.COMPLETE else {},
        test_accuracy=attributes.get("test_accuracy"),
        mlflow_run_id=attributes.get("mlflow_run_id"),
        duplicate_of=attributes.get("duplicate_of"),
        inherited_from=attributes.get(INHERITED, proposed.get(INHERITED)),
        origin=attributes.get("origin"),
        started=proposed["started"],
        ended=attributes.get("ended"),
    )


class Diary:
    """Measurements on their way to storage: written at a rung, at the end, or within about a second.

    Args:
        write: takes trial number, attribute and value.
    """

    EVERY_S = 1.0

    def __init__(self, write: Callable[[int, str, Any], None]):
        self._write = write
        self._unwritten: dict[int, list[Measurement]] = {}
        self._count: dict[int, int] = {}
        self._since: dict[int, float] = {}

    def resume(self, number: int, attributes: Attributes) -> None:
        """Goes on after what is written of a trial."""
        self._count[number] = len(written_measurements(attributes))

    def add(self, number: int, measurement: Measurement, *, at_once: bool) -> None:
        self._unwritten.setdefault(number, []).append(measurement)
        if at_once or time.monotonic() - self._since.setdefault(number, time.monotonic()) > self.EVERY_S:
            self.flush(number)

    def close(self) -> None:
        for number in list(self._unwritten):
            self.flush(number)

    def flush(self, number: int) -> None:
        news, count = self._unwritten.pop(number, []), self._count.get(number, 0)
        if news:
            self._write(number, f"history/{count}", [_as_list(m) for m in news])
            self._count[number], self._since[number] = count + len(news), time.monotonic()


def _as_list(measurement: Measurement) -> list[Any]:
    """What `written_measurements` reads; the network only where there is one."""
    plain = [
        measurement.fidelity,
        dict(measurement.values),
        dict(measurement.metrics),
        measurement.time,
        measurement.device_s,
    ]
    return plain if measurement.network is None else [*plain, measurement.network.to_dict()]
