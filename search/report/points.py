"""Where a trial stands among others, and how numbers are shown: what every picture, page and table has in common.

Knows records, nothing of who draws.
"""

import math
from collections.abc import Iterable, Mapping
from enum import StrEnum

from matplotlib.ticker import EngFormatter

from search.evaluator import SPREAD, UNSTEADY
from search.record import Front, State, TrialRecord

FRONT, DOMINATED, STOPPED = "#0b5cad", "#7d838c", "#d98324"
UNITS = {"_ms": "ms", "_bytes": "bytes", "_kb": "kB", "_mj": "mJ", "_seconds": "s", "_s": "s"}


class Standing(StrEnum):
    """What a trial is to someone who chooses, in the words of a legend."""

    FRONT = "front"
    DOMINATED = "complete, dominated"
    STOPPED = "stopped early"
    PAUSED = "paused"
    RUNNING = "running"
    INFEASIBLE = "infeasible, never trained"
    FAILED = "failed"


_STANDINGS = {
    State.COMPLETE: Standing.DOMINATED,
    State.STOPPED: Standing.STOPPED,
    State.PAUSED: Standing.PAUSED,
    State.RUNNING: Standing.RUNNING,
    State.INFEASIBLE: Standing.INFEASIBLE,
    State.FAILED: Standing.FAILED,
}


def standings(records: Iterable[TrialRecord], front: Front) -> dict[int, Standing]:
    """By number of the trial. Duplicates have none: they are the trial that they repeat."""
    members = {record.number for record in front.members}
    return {
        record.number: Standing.FRONT if record.number in members else _STANDINGS[record.state]
        for record in records
        if record.state in _STANDINGS
    }


def known(record: TrialRecord) -> dict[str, float]:
    """All that can be compared of a trial: costs, and every objective; of one not complete, as last measured."""
    measured = [measurement.values for measurement in record.history if measurement.values]
    tested = {} if record.test_accuracy is None else {"test_accuracy": record.test_accuracy}
    latest = record.values or (measured[-1] if measured else {})
    every = {**record.costs, **latest, **tested}
    return {name: value for name, value in every.items() if comparable(name) and math.isfinite(value)}


def comparable(name: str) -> bool:
    """Whether it is a value, and not how well another one was measured."""
    return not name.endswith((SPREAD, UNSTEADY))


def in_decades(front: Front, name: str, values: Iterable[float]) -> bool:
    """Whether an axis is to be logarithmic: that of a cost that spans a decade or more."""
    array = list(values)
    cost = front.objectives.directions.get(name, "minimize") == "minimize" and not name.endswith("accuracy")
    return cost and bool(array) and min(array) > 0 and max(array) >= 10 * min(array)


def with_unit(name: str) -> str:
    """`latency (ms)` for `latency_ms`."""
    for ending, unit in UNITS.items():
        if name.endswith(ending):
            return f"{name.removesuffix(ending).replace('_', ' ')} ({unit})"
    return name.replace("_", " ")


def titled(front: Front, name: str) -> str:
    """The title of an axis: name, unit and, of an objective, the better direction."""
    direction: Mapping[str, str] = front.objectives.directions
    if name not in direction:
        return with_unit(name)
    return f"{with_unit(name)}, {'lower' if direction[name] == 'minimize' else 'higher'} is better"


def shown(value: float) -> str:
    """A number in few characters: 0.9722, 12.5, 3.41 M."""
    return f"{value:.4g}" if abs(value) < 1000 else EngFormatter(places=2)(value)
