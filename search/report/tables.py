"""The tables of a report, as data: the front, and what a confirmation has found of it.

Knows records and confirmations, nothing of Markdown or HTML.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from search.confirmation.record import TESTS, Confirmation, Contender, Interval
from search.record import Front, TrialRecord
from search.report.labels import label_of
from search.report.points import comparable, shown, with_unit

Links = Callable[[TrialRecord], str | None]
"""The address of a trial's run; one that begins with `#` is a page of the MLflow that shows the report."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """
    Attributes:
        order: what to sort by; None where that is the text.
    """

    text: str
    link: str | None = None
    order: float | None = None


@dataclass(frozen=True, kw_only=True)
class Table:
    """
    Attributes:
        rows: each as long as `head`.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]] = field(default_factory=tuple)


def front_table(front: Front, links: Links, *, inherits: bool = False) -> Table:
    """The members, numbered as in the pictures.

    Args:
        inherits: whether trainings start from weights of others.
    """
    names = front.objectives.names
    costs = _names(record.costs for record in front.members)
    others = [name for name in costs if name not in names]
    tested = any(record.test_accuracy is not None for record in front.members)
    head = ["#", "architecture", *map(with_unit, names), *(["test accuracy"] if tested else [])]
    rows = []
    for place, record in enumerate(front.members, start=1):
        cells = [_place(place), Cell(text=label_of(record.network), link=links(record))]
        cells += [_number(record.values.get(name)) for name in names]
        cells += [_number(record.test_accuracy)] if tested else []
        cells += [_number(record.costs.get(name)) for name in others]
        cells += [Cell(text=record.start)] if inherits else []
        rows.append([*cells, Cell(text=record.network.id), _place(record.number)])
    began = ["started from"] if inherits else []
    return Table(head=[*head, *map(with_unit, others), *began, "id", "trial"], rows=rows)


def confirmation_table(confirmation: Confirmation, front: Front, links: Links) -> Table:
    """Members first, each with its number on the front and its link; then the backbones as timm has them."""
    places = {record.number: (place, record) for place, record in enumerate(front.members, start=1)}
    found = [name for name in TESTS if any(name in one.summary for one in confirmation.contenders)]
    costs = confirmation.costs(front.objectives.names)
    rows = []
    for contender in confirmation.contenders:
        place, record = places.get(-1 if contender.trial is None else contender.trial, (None, None))
        cells = [
            Cell(text="") if place is None else _place(place),
            Cell(text=_named(contender), link=None if record is None else links(record)),
        ]
        cells += [_interval(contender.summary.get(name)) for name in found]
        cells += [_number(contender.costs.get(name)) for name in costs]
        rows.append([*cells, Cell(text=contender.verdict)])
    return Table(head=["#", "architecture", *map(with_unit, found), *map(with_unit, costs), "verdict"], rows=rows)


def _named(contender: Contender) -> str:
    return label_of(contender.architecture) + (" (unmodified)" if contender.unmodified else "")


def _names(mappings: Iterable[Mapping[str, object]]) -> list[str]:
    """Of all values, in the order in which they come up."""
    return [name for name in dict.fromkeys(name for mapping in mappings for name in mapping) if comparable(name)]


def _place(number: int) -> Cell:
    return Cell(text=str(number), order=number)


def _number(value: float | None) -> Cell:
    return Cell(text="") if value is None else Cell(text=shown(value), order=value)


def _interval(found: Interval | None) -> Cell:
    if found is None:
        return Cell(text="")
    between = f" ({shown(found.low)} to {shown(found.high)})" if found.high > found.low else ""
    return Cell(text=shown(found.mean) + between, order=found.mean)
