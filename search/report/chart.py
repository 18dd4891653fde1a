"""What the script of a page draws: every trial by columns, the axes that can be chosen, the hypervolume over time.

Plain data for JSON. Knows the story of a search, nothing of HTML or of the library that draws.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from search.confirmation.record import Confirmation, Contender
from search.record import Front, TrialRecord
from search.report.history import Moment, hypervolume_history
from search.report.labels import label_of
from search.report.points import (
    DOMINATED,
    FRONT,
    STOPPED,
    Standing,
    comparable,
    in_decades,
    known,
    shown,
    standings,
    titled,
)
from search.report.story import Story
from search.report.tables import Links

BACKBONE = "unmodified backbone"
DIGITS = 7  # significant ones, of values: more than anybody reads, and half the file

MARKS: Mapping[str, Mapping[str, Any]] = {  # in plotly's words; drawn in this order, so the front comes last
    Standing.INFEASIBLE: {"color": "#b04a8f", "symbol": "x-thin-open", "size": 7},
    Standing.FAILED: {"color": "#c0392b", "symbol": "x", "size": 8},
    Standing.RUNNING: {"color": "#0f9ba8", "symbol": "circle-open-dot", "size": 9},
    Standing.PAUSED: {"color": STOPPED, "symbol": "square-open", "size": 8},
    Standing.STOPPED: {"color": STOPPED, "symbol": "triangle-down-open", "size": 8},
    Standing.DOMINATED: {"color": DOMINATED, "symbol": "circle", "size": 7},
    BACKBONE: {"color": "#1b7f4b", "symbol": "diamond", "size": 10},
    Standing.FRONT: {"color": FRONT, "symbol": "circle", "size": 11},
}


def chart(story: Story, links: Links) -> dict[str, Any]:
    """By name: `trials` (columns), `axes`, `marks`, `directions`, `history`."""
    rows = [*_trials(story, links), *_backbones(story.confirmation)]
    names = list(dict.fromkeys([*story.front.objectives.names, *(name for row in rows for name in row["values"])]))
    fields = ("standing", "label", "about", "link", "number", "place")
    return {
        "trials": {name: [row[name] for row in rows] for name in fields},
        "values": {name: [_short(row["values"].get(name)) for row in rows] for name in names},
        "axes": [_axis(story.front, name, rows) for name in names],
        "marks": {str(standing): mark for standing, mark in MARKS.items()},
        "directions": dict(story.front.objectives.directions),
        "history": _history(hypervolume_history(story.records, story.front)),
    }


def _trials(story: Story, links: Links) -> Iterable[dict[str, Any]]:
    standing = standings(story.records, story.front)
    places = {record.number: place for place, record in enumerate(story.front.members, start=1)}
    for record in story.records:
        if record.number not in standing:
            continue
        contender = None if story.confirmation is None else story.confirmation.of(record.number)
        costs, means = ({}, {}) if contender is None else _found(contender)
        yield {
            "standing": str(standing[record.number]),
            "label": label_of(record.network),
            "about": _about(record),
            "link": links(record),
            "number": record.number,
            "place": places.get(record.number),
            "values": {**costs, **known(record), **means},
        }


def _about(record: TrialRecord) -> str:
    """What else there is to know: how far it was trained, and why not further."""
    trained = f"as measured at fidelity {record.fidelity}" if record.history and not record.values else ""
    taken = f"taken over from {record.origin}" if record.origin else ""
    return "; ".join(part for part in (trained, record.reason, taken) if part)


def _backbones(confirmation: Confirmation | None) -> Iterable[dict[str, Any]]:
    for contender in () if confirmation is None else confirmation.contenders:
        if contender.trial is None:
            costs, means = _found(contender)
            yield {
                "standing": BACKBONE,
                "label": label_of(contender.architecture),
                "about": contender.verdict,
                "link": None,
                "number": None,
                "place": None,
                "values": {**costs, **means},
            }


def _found(contender: Contender) -> tuple[dict[str, float], dict[str, float]]:
    """What a confirmation knows of a contender: costs, and means."""
    costs = {name: value for name, value in contender.costs.items() if comparable(name)}
    return costs, {name: found.mean for name, found in contender.summary.items()}


def _axis(front: Front, name: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    values = [row["values"][name] for row in rows if name in row["values"]]
    return {"name": name, "title": titled(front, name), "log": in_decades(front, name, values)}


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{DIGITS}g}")


def _history(moments: Sequence[Moment]) -> dict[str, Any]:
    """Where the hypervolume changes, and the last moment."""
    before = [None, *moments]
    kept = [
        moment
        for last, moment in zip(before, moments, strict=False)
        if last is None or moment.hypervolume != last.hypervolume or moment is moments[-1]
    ]
    return {
        "trainings": [moment.trainings for moment in kept],
        "hours": [_short(moment.hours) for moment in kept],
        "hypervolume": [_short(moment.hypervolume) for moment in kept],
        "shown": [shown(moment.hypervolume) for moment in kept],
    }
