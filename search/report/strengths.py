"""Which layers and channels of a trained network came to count most, drawn for people.

Takes what `spaces.techniques.scaling.scales.strengths` found: a list of strengths for each place, one for the whole
layer or one a channel (or group). Knows nothing of models or of searches.
"""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from search.report.points import FRONT

MOST_PLACES = 80  # drawn; the weakest of more are left out of the picture, not of the file
ROW_INCHES = 0.19
COLUMNS = 64  # of the map of channels: a layer with more is averaged, one with fewer repeated
NAMED = 4  # channels a layer
CHARS_AN_INCH = 8.5  # of the title

Strengths = Mapping[str, Sequence[float]]


def strengths_figure(strengths: Strengths, *, title: str) -> Figure:
    """A bar a layer (mean of its channels), and beside it the channels of each, strongest first, those by number."""
    means = {place: float(np.mean(values)) for place, values in strengths.items()}
    shown = sorted(means, key=lambda place: -abs(means[place]))[:MOST_PLACES]
    places = [place for place in means if place in set(shown)]
    many = any(len(strengths[place]) > 1 for place in places)
    left_out = len(means) - len(places)
    note = f", the strongest {MOST_PLACES} of {len(means)} layers" if left_out else ""
    width = 12.0 if many else 7.5
    lines = textwrap.wrap(f"{title}{note}", int(width * CHARS_AN_INCH))
    size = (width, 1.0 + 0.2 * len(lines) + ROW_INCHES * len(places))
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    axes = figure.subplots(1, 2 if many else 1, sharey=True, squeeze=False, width_ratios=[1, 1.2] if many else [1])[0]
    _bars(axes[0], places, means)
    axes[0].set_xlabel("strength, mean over channels" if many else "strength")
    if many:
        _channels(figure, axes[1], [strengths[place] for place in places])
    figure.suptitle("\n".join(lines), fontsize=11, fontweight="bold", x=0.01, ha="left", parse_math=False)
    return figure


def _bars(axis: Axes, places: Sequence[str], means: Mapping[str, float]) -> None:
    rows = range(len(places))
    bars = axis.barh(rows, [means[place] for place in places], color=FRONT, height=0.7)
    axis.bar_label(bars, [f"{means[place]:.3g}" for place in places], padding=3, fontsize=7)
    axis.margins(x=0.14)  # room for the longest label
    axis.set_yticks(rows, places, fontsize=7)
    axis.set_ylim(len(places) - 0.4, -0.6)  # the first layer on top
    axis.grid(axis="x", alpha=0.25, linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)


def _channels(figure: Figure, axis: Axes, layers: Sequence[Sequence[float]]) -> None:
    """Each row relative to its strongest channel: how uneven a layer is, whatever its size."""
    rows = []
    for values in layers:
        ordered = np.sort(np.abs(np.asarray(values, float)))[::-1]
        steps = np.linspace(0, len(ordered), COLUMNS + 1)
        parts = [ordered[int(low) : max(int(low) + 1, int(high))] for low, high in zip(steps, steps[1:], strict=False)]
        rows.append([part.mean() for part in parts])
    table = np.array(rows)
    image = axis.imshow(table / table.max(axis=1, keepdims=True).clip(1e-12), aspect="auto", vmin=0, cmap="viridis")
    axis.set_xticks([0, COLUMNS - 1], ["strongest", "weakest channel"])
    axis.tick_params(left=False)
    for row, values in enumerate(layers):
        text = ", ".join(map(str, np.argsort(-np.abs(values), kind="stable")[:NAMED])) if len(values) > 1 else ""
        axis.text(COLUMNS + 0.5, row, text, va="center", fontsize=7)
    axis.set_title(f"numbers: the {NAMED} strongest channels (or groups), from 0", fontsize=8, loc="right")
    figure.colorbar(image, ax=axis, label="relative to the layer's strongest", pad=0.13)
