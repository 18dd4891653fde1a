"""The front of a search for a person's eyes: a PNG of every pair of objectives.

Takes records as they are; knows nothing of studies, or of where a picture goes. Draws on matplotlib's Agg
canvas directly, so it needs no display and touches no global state.
"""

import math
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from search.record import Front, State, TrialRecord
from search.report.labels import label_of
from search.report.points import DOMINATED, FRONT, STOPPED, in_decades, known, shown, titled

PANELS_A_ROW, MOST_PANELS = 2, 12  # of more pairs, a picture would be too long to look at, and slow to draw
PANEL_INCHES, KEY_INCHES = (5.6, 4.6), 3.2
KEY_CHARS = 46  # of a line of the key
KEY_LINES = 27  # lines of the key that fit the height of one panel

Point = Mapping[str, float]


def front_figure(records: Sequence[TrialRecord], front: Front, *, title: str) -> Figure:
    """One panel a pair of objectives; the members of the front are numbered, and named in a last panel.

    Of many objectives the first pairs only; `search.report.page` has all.

    Args:
        records: every trial; drawn are complete ones, and stopped ones at their last measurement.
    """
    pairs = list(combinations(front.objectives.names, 2))[:MOST_PANELS] or [(front.objectives.names[0],) * 2]
    columns = min(len(pairs), PANELS_A_ROW)
    rows = math.ceil(len(pairs) / columns)
    size = (PANEL_INCHES[0] * columns + KEY_INCHES, PANEL_INCHES[1] * rows)
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    grid = figure.add_gridspec(rows, columns + 1, width_ratios=[PANEL_INCHES[0]] * columns + [KEY_INCHES])
    for place, (y, x) in enumerate(pairs):
        _panel(figure.add_subplot(grid[divmod(place, columns)]), records, front, x, y)
    _key(figure.add_subplot(grid[:, columns]), records, front, rows)
    figure.suptitle(title, fontsize=14, fontweight="bold", x=0.01, ha="left", parse_math=False)
    return figure


def _panel(axis: Axes, records: Sequence[TrialRecord], front: Front, x: str, y: str) -> None:
    numbers = {record.number for record in front.members}
    best = [record.values for record in front.members]
    dominated = [record.values for record in records if record.values and record.number not in numbers]
    stopped = [point for record in records if (point := _stopped_at(record, (x, y)))]
    _scatter(axis, stopped, x, y, marker="v", s=26, facecolors="none", edgecolors=STOPPED, linewidths=1.4)
    _scatter(axis, dominated, x, y, marker="o", s=26, color=DOMINATED, alpha=0.8)
    _scatter(axis, best, x, y, marker="o", s=48, color=FRONT, zorder=4)
    axis.margins(x=0.08, y=0.10)
    _scale(axis, front, x, y, [*stopped, *dominated, *best])
    if len(front.objectives.names) == 2 and best:
        _staircase(axis, front, x, y)
    places: dict[tuple[float, float], list[str]] = {}
    for place, point in enumerate(best, start=1):
        places.setdefault((point[x], point[y]), []).append(str(place))
    for spot, numbered in places.items():
        said = ", ".join(numbered)
        axis.annotate(said, spot, (-3, 5), textcoords="offset points", ha="right", fontsize=9, zorder=5)
    if not (best or dominated or stopped):
        axis.text(0.5, 0.5, "nothing measured yet", ha="center", transform=axis.transAxes)
    axis.grid(alpha=0.25, linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)


def _scatter(axis: Axes, points: Sequence[Point], x: str, y: str, **style: Any) -> None:
    axis.scatter([point[x] for point in points], [point[y] for point in points], **style)


def _stopped_at(record: TrialRecord, names: tuple[str, ...]) -> Point | None:
    """What a stopped or paused trial had last reached; None for any other, and where a value is missing."""
    if record.state not in (State.STOPPED, State.PAUSED):
        return None
    point = known(record)
    return point if all(name in point for name in names) else None


def _scale(axis: Axes, front: Front, x: str, y: str, points: Sequence[Point]) -> None:
    """Names, units and the better direction; a cost that spans a decade or more is drawn in decades."""
    for name, side, which in ((x, axis.xaxis, "x"), (y, axis.yaxis, "y")):
        side.set_label_text(titled(front, name))
        values = [point[name] for point in points]
        if not values:
            side.set_ticks([])
            continue
        if in_decades(front, name, values):
            (axis.set_xscale if which == "x" else axis.set_yscale)("log")
            side.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            side.set_minor_formatter(NullFormatter())
        if max(map(abs, values)) >= 1000:
            side.set_major_formatter(EngFormatter())


def _staircase(axis: Axes, front: Front, x: str, y: str) -> None:
    """The edge of what the front dominates and, shaded, the part of it that the hypervolume counts."""
    down_x, down_y = (front.objectives.directions[name] == "minimize" for name in (x, y))
    steps = sorted(((r.values[x], r.values[y]) for r in front.members), reverse=not down_x)
    (left, right), (low, high) = axis.get_xlim(), axis.get_ylim()
    far_x, far_y = (right if down_x else left), (high if down_y else low)
    edge = [(steps[0][0], far_y), *_corners(steps), (far_x, steps[-1][1])]
    axis.plot(*zip(*edge, strict=True), color=FRONT, linewidth=1.3, zorder=3.5)
    end_x, end_y = front.reference_point[x], front.reference_point[y]
    inside = [(a, b) for a, b in steps if (a < end_x) is down_x and (b < end_y) is down_y]
    if inside:
        shape = [(inside[0][0], end_y), *_corners(inside), (end_x, inside[-1][1]), (end_x, end_y)]
        axis.fill(*zip(*shape, strict=True), color=FRONT, alpha=0.08, linewidth=0)
    axis.set_xlim(left, right)
    axis.set_ylim(low, high)


def _corners(steps: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points of a front and, between two neighbours, what both of them dominate."""
    between = [corner for (_, b), (c, d) in pairwise(steps) for corner in ((c, b), (c, d))]
    return [steps[0], *between]


def _key(axis: Axes, records: Sequence[TrialRecord], front: Front, rows: int) -> None:
    """What the marks mean, with the number of each, and the members by name and value."""
    axis.set_axis_off()
    number = Counter(record.state for record in records)
    dominated = number[State.COMPLETE] - len(front.members)
    untrained = [f"{number[s]} {s}" for s in (State.INFEASIBLE, State.DUPLICATE) if number[s]]
    lines = [
        ("●", FRONT, f"front ({len(front.members)}), hypervolume {shown(front.hypervolume)}"),
        ("●", DOMINATED, f"complete, dominated ({dominated})"),
        ("▽", STOPPED, f"stopped or paused early, where it stood ({number[State.STOPPED] + number[State.PAUSED]})"),
        ("", "black", ", ".join(f"{number[s]} {s}" for s in (State.FAILED, State.RUNNING, State.PAUSED))),
        ("", "black", f"never trained: {', '.join(untrained)}" if untrained else ""),
        ("", "black", ""),
    ]
    for place, record in enumerate(front.members, start=1):
        values = ", ".join(f"{name} {shown(record.values[name])}" for name in front.objectives.names)
        name, *rest = textwrap.wrap(label_of(record.network), KEY_CHARS) or [""]
        entry = [(str(place), FRONT, name), *(("", "black", line) for line in rest), ("", DOMINATED, values)]
        if len(lines) + len(entry) >= KEY_LINES * rows:
            lines.append(("", "black", f"and {len(front.members) - place + 1} more"))
            break
        lines += entry
    style: dict[str, Any] = {"va": "top", "transform": axis.transAxes, "parse_math": False}
    for place, (mark, colour, text) in enumerate(lines):
        height = 1 - place / (KEY_LINES * rows)
        axis.text(0.0, height, mark, color=colour, fontsize=9, **style)
        axis.text(0.07, height, text, color="black" if mark else colour, fontsize=8, **style)
