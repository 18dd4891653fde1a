"""The searches of a benchmark as numbers, as a table and as a picture."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator

from tests.benchmarks.search_efficiency.methods import FREE, OURS, SHARES
from tests.benchmarks.search_efficiency.stock import OPTUNA
from tests.benchmarks.simulation import End, quartiles

Rows = Sequence[Mapping[str, Any]]
LOWEST = 0.5  # share at which the pictures begin
GOAL = 0.25  # of the hours of the best stock sampler


def by_method(rows: Rows) -> dict[str, Rows]:
    return {name: [row for row in rows if row["method"] == name] for name in dict.fromkeys(r["method"] for r in rows)}


def summary(rows: Rows) -> dict[str, Any]:
    """The searches of one method together.

    `hours_to` is [median, lower, upper quartile], an infinite quartile as None, or None where the median is infinite;
    `reached` counts the searches behind it, `cut_before` those of the rest that ended for want of real time, not of
    simulated hours.
    """
    hours = {share: [row["hours_to"][share] for row in rows] for share in rows[0]["hours_to"]}
    cut = [row["end"] == End.CUT for row in rows]
    return {
        "hours_to": {share: _triple(each) for share, each in hours.items()},
        "reached": {share: sum(map(math.isfinite, each)) for share, each in hours.items()},
        "cut_before": {
            share: sum(short and math.isinf(reached) for short, reached in zip(cut, each, strict=True))
            for share, each in hours.items()
        },
        "final_hypervolume": [row["final_hypervolume"] for row in rows],
        "final_hours": [row["hours"] for row in rows],
        "seeds": [row["seed"] for row in rows],
        "trainings": {rung: _median(row["trainings"][rung] for row in rows) for rung in rows[0]["trainings"]},
        "repeats": _median(row["repeats"] for row in rows),
        "seconds": _median(row["seconds"] for row in rows),
    }


def _triple(hours: Sequence[float]) -> list[float | None] | None:
    low, middle, high = quartiles(hours)
    return [middle, low, high if math.isfinite(high) else None] if math.isfinite(middle) else None


def _median(values: Any) -> float:
    return quartiles(list(values))[1]


def against(methods: Mapping[str, Any], ours: str) -> dict[str, dict[str, Any]]:
    """By share: our median hours as a part of those of the best of Optuna's samplers, repeats paid and repeats free.

    `at_most` is true where no sampler came there within the hours that are known of it: the part is of the most of
    those. None where we have not come there, or there is nobody to compare with.
    """
    kinds = {"paid": list(OPTUNA), "free": [name + FREE for name in OPTUNA]}
    there = {
        kind: [methods[name] | {"name": name} for name in names if name in methods] for kind, names in kinds.items()
    }
    return {
        share: {kind: _part(methods.get(ours), stock, share) for kind, stock in there.items()} | {"goal": GOAL}
        for share in _shares(methods)
    }


def _shares(methods: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(share for found in methods.values() for share in found["hours_to"]))


def _part(ours: Mapping[str, Any] | None, stock: Rows, share: str) -> dict[str, Any] | None:
    if not stock or ours is None or not (mine := ours["hours_to"][share]):
        return None
    reached = {found["name"]: found["hours_to"][share][0] for found in stock if found["hours_to"][share]}
    if reached:
        best = min(reached, key=lambda name: reached[name])
        return {"stock": best, "part": mine[0] / reached[best], "at_most": False}
    known = max(max(found["final_hours"]) for found in stock)
    return {"stock": None, "part": mine[0] / known, "at_most": True}


def compared(column: Mapping[str, Any]) -> list[str]:
    """What `against` says, in words."""
    lines = []
    for share, found in column["against_best_stock"].items():
        for kind in ("paid", "free"):
            if part := found[kind]:
                whom = part["stock"] or "what any stock sampler had, which did not come there"
                much = f"{'at most ' * part['at_most']}{part['part']:.2f} of the hours of {whom}"
                lines.append(f"{float(share):.0%}, repeats {kind}: {column['ours']} takes {much} (goal: {GOAL})")
    return lines


def table(methods: Mapping[str, Any]) -> str:
    """Markdown: a row a method."""
    shares = _shares(methods)
    head = [
        "hours to",
        *(f"{float(share):.0%}" for share in shares),
        "hypervolume",
        "of 12 / 200",
        "repeats",
        "s a seed",
    ]
    lines = [head, ["---"] * len(head)]
    for name, found in methods.items():
        cells = [_cell(found, share) for share in shares]
        trained = " / ".join(f"{count:g}" for count in found["trainings"].values())
        kept = [f"{_median(found['final_hypervolume']):.2%}", trained, f"{found['repeats']:g}"]
        lines.append([name, *cells, *kept, f"{found['seconds']:.0f}"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(found: Mapping[str, Any], share: str) -> str:
    n, reached, cut = len(found["seeds"]), found["reached"][share], found["cut_before"][share]
    if triple := found["hours_to"][share]:
        middle, low, high = triple
        return f"{middle:.1f} ({low:.1f}-{'' if high is None else f'{high:.1f}'})"
    short = f", {cut} cut at {_median(found['final_hours']):.0f} h" if cut else ""
    return f"not reached ({reached} of {n}{short})"


def plot(panels: Mapping[tuple[str, int], Rows], path: Path) -> None:
    """A panel a cost and number of workers: what is missing of the hypervolume against hours, both logarithmic."""
    costs, workers = (list(dict.fromkeys(key[place] for key in panels)) for place in (0, 1))
    size = (7.0 * len(workers), 4.6 * len(costs))
    figure, axes = pyplot.subplots(len(costs), len(workers), figsize=size, squeeze=False, layout="constrained")
    names = list(dict.fromkeys(row["method"] for rows in panels.values() for row in rows))
    for (cost, count), rows in panels.items():
        panel = axes[costs.index(cost)][workers.index(count)]
        _draw(panel, rows, names)
        panel.set_title(f"{cost}, {count} worker{'s' * (count > 1)}")
    axes[0][0].legend(fontsize="x-small")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _draw(panel: Axes, rows: Rows, names: Sequence[str]) -> None:
    first = min((gains[1][0] for row in rows if len(gains := row["gains"]) > 1), default=0.1)
    grid = np.geomspace(max(first, 1e-3), max(row["hours"] for row in rows), 200)
    colours = pyplot.get_cmap("tab20")
    for name, searches in by_method(rows).items():
        low, middle, high = np.transpose([quartiles([_share_at(row, hours) for row in searches]) for hours in grid])
        colour, style = colours(names.index(name) % 20), ":" if name.endswith(FREE) else "-"
        colour, width = ("black", 2.5) if name == OURS else (colour, 1.5)
        panel.plot(grid, middle, label=name, color=colour, linestyle=style, linewidth=width)
        panel.fill_between(grid, low, high, color=colour, alpha=0.15, linewidth=0)
    for share in SHARES:
        panel.axhline(share, color="grey", linewidth=0.5)
    panel.set(xscale="log", ylim=(LOWEST, 1.0), xlabel="simulated hours", ylabel="share of the reachable hypervolume")
    panel.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    panel.xaxis.set_major_formatter("{x:g}")
    panel.xaxis.set_minor_formatter("")


def _share_at(row: Mapping[str, Any], hours: float) -> float:
    """Beyond its end a search stays where it was."""
    return max(share for at, share in row["gains"] if at <= hours)
