"""Fronts over time and what they are worth: time lines in, hypervolumes and moments out. Plain numbers only.

**Hypervolume.** In (test accuracy, multiply-accumulates), both linear, up to the reference point: accuracy 0.10, which
is chance on ten classes (1 / classes on other data), and the multiply-accumulates of the largest unmodified backbone of
the space. It is divided by the latter, so that it reads: the test accuracy above chance that the front has to offer, as
a mean over all budgets from nothing to the largest backbone. A network beyond the reference adds nothing.

**Over time.** A trial is on the front at time t if it has ended completely by then and no other that has dominates it
in (validation accuracy, multiply-accumulates). The hypervolume at t is that of every architecture that was on the front
at any time up to t, each with its confirmed test accuracy: so it never falls. What validation alone would hand over at
the end, the last front, is told beside it.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from search.pareto import hypervolume, non_dominated

Row = Mapping[str, Any]  # a `Point` as plain data
Curve = list[tuple[float, float]]  # (seconds, hypervolume) at each change, from (0, 0) on


def within(rows: Sequence[Row], seconds: float) -> list[Row]:
    """What is known after so many seconds, in the order of time."""
    return sorted((row for row in rows if row["seconds"] <= seconds), key=lambda row: row["seconds"])


def front(rows: Sequence[Row]) -> list[Row]:
    """The complete trials that no other dominates by validation accuracy, cheapest first; one for each architecture."""
    complete = [row for row in rows if row["complete"]]
    kept = non_dominated([(-row["accuracy"], row["macs"]) for row in complete] or [(0.0, 0.0)]).tolist()
    best = {row["id"]: row for row, on_front in zip(complete, kept, strict=False) if on_front}
    return sorted(best.values(), key=lambda row: row["macs"])


def ever(rows: Sequence[Row]) -> list[Row]:
    """Every trial that was on the front when it ended, in the order of time; one for each architecture."""
    found: dict[str, Row] = {}
    ordered = sorted((row for row in rows if row["complete"]), key=lambda row: row["seconds"])
    for place, row in enumerate(ordered, start=1):
        if any(member is row for member in front(ordered[:place])):
            found.setdefault(row["id"], row)
    return list(found.values())


def volume(members: Sequence[Row], confirmed: Mapping[str, float], reference: Mapping[str, float]) -> float:
    """Of members with their confirmed test accuracies, as a mean over budgets."""
    points = [(-confirmed[row["id"]], row["macs"] / reference["macs"]) for row in members]
    return hypervolume(points, (-reference["accuracy"], 1.0)) if points else 0.0


def curve(rows: Sequence[Row], confirmed: Mapping[str, float], reference: Mapping[str, float]) -> Curve:
    """The hypervolume from 0 s on, at each member of the front as it came."""
    members, found = ever(rows), [(0.0, 0.0)]
    for place, row in enumerate(members, start=1):
        found.append((row["seconds"], volume(members[:place], confirmed, reference)))
    return found


def seconds_to(curve: Curve, wanted: float) -> float:
    """When a hypervolume is reached; infinite where it is not."""
    return next((seconds for seconds, found in curve if found >= wanted), math.inf)


def dominated_at(point: tuple[float, float], rows: Sequence[Row], confirmed: Mapping[str, float]) -> float:
    """When a member of the front first had at least the test accuracy, at no more multiply-accumulates.

    Args:
        point: test accuracy, multiply-accumulates.
    """
    accuracy, macs = point
    for row in ever(rows):
        mine = confirmed[row["id"]]
        if mine >= accuracy and row["macs"] <= macs and (mine > accuracy or row["macs"] < macs):
            return float(row["seconds"])
    return math.inf
