"""What a training skipped of its layer attention, drawn for people: layers by epochs, by how alike they attend.

Takes the course of one training (`search.skipping`); knows nothing of models or of searches. Draws on matplotlib's
Agg canvas directly, so it can be done in any thread.
"""

import textwrap
from collections.abc import Sequence
from itertools import groupby

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch, PathPatch
from matplotlib.path import Path
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from search.skipping import Skipping

MOST_LAYERS = 80  # drawn; of more those whose divergence is the highest are left out of the picture, not of the file
ROW_INCHES, EPOCH_INCHES = 0.19, 0.16
WIDTH_INCHES = 4.0, 12.0  # of the map, at least and at most
CHARS_AN_INCH = 8.5  # of the title
DECADES = 4  # of the colours, at most
COLOURS = ListedColormap(colormaps["YlGnBu"](np.linspace(0.05, 0.75, 256)))  # a black hatch is seen on all of them
UNMEASURED, HATCH = "#c3c7cc", "////"


def skipping_figure(skipping: Skipping, *, title: str) -> Figure:
    """A row a gated layer, the first on top, a column an epoch, the divergence as colour; what is skipped is hatched.

    An epoch of which nothing is known is as one in which nothing was measured.
    """
    shown = _shown(skipping)
    last = skipping.epochs[-1]
    kl, skipped = np.full((len(shown), last), np.nan), np.zeros((len(shown), last), dtype=bool)
    for epoch, values, mask in zip(skipping.epochs, skipping.kl_nats, skipping.skipped, strict=True):
        kl[:, epoch - 1] = [np.nan if values[place] is None else values[place] for place in shown]
        skipped[:, epoch - 1] = [mask[place] for place in shown]
    left_out = len(skipping.blocks) - len(shown)
    note = f", the {len(shown)} of lowest divergence of {len(skipping.blocks)} gated layers" if left_out else ""
    names = [skipping.blocks[place] for place in shown]
    return _figure(kl, skipped, names, f"{title}{note}", share=skipping.skipped_share[-1])


def _shown(skipping: Skipping) -> list[int]:
    """Places of the blocks to draw: all, or those whose last known divergence is the lowest."""
    lowest = []
    for place in range(len(skipping.blocks)):
        known = [row[place] for row in skipping.kl_nats if row[place] is not None]
        lowest.append((known[-1] if known else np.inf, place))
    return sorted(place for _, place in sorted(lowest)[:MOST_LAYERS])


def _figure(
    kl: NDArray[np.float64], skipped: NDArray[np.bool_], names: Sequence[str], title: str, *, share: float
) -> Figure:
    """`kl` in nats, nan where it is not known, and `skipped`: [layers, epochs]."""
    layers, epochs = kl.shape
    width = float(np.clip(EPOCH_INCHES * epochs, *WIDTH_INCHES)) + 0.085 * max(map(len, names)) + 1.6
    lines = textwrap.wrap(title, int(width * CHARS_AN_INCH))
    height = 1.2 + 0.2 * len(lines) + max(ROW_INCHES * layers, 1.2)
    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    axis = figure.subplots()
    colours = COLOURS.with_extremes(bad=UNMEASURED)
    extent = (0.5, epochs + 0.5, layers - 0.5, -0.5)
    image = axis.imshow(
        np.ma.masked_invalid(kl), cmap=colours, norm=_norm(kl), aspect="auto", extent=extent, interpolation="nearest"
    )
    _hatch(axis, skipped)
    axis.set_yticks(range(layers), names, fontsize=7)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axis.set_xlabel("epoch")
    axis.set_ylabel("after block")
    legend = [
        Patch(facecolor="none", edgecolor="black", hatch=HATCH, label=f"skipped, at last {share:.0%} of all retrievals")
    ]
    if np.isnan(kl).any():
        legend.append(Patch(facecolor=UNMEASURED, edgecolor="none", label="not measured"))
    figure.legend(handles=legend, loc="outside lower left", ncols=2, fontsize=8, frameon=False)
    if np.isfinite(kl).any():
        figure.colorbar(image, ax=axis, label="KL (nats)", aspect=8 * height, fraction=0.5 / width)
    figure.suptitle("\n".join(lines), fontsize=11, fontweight="bold", x=0.01, ha="left", parse_math=False)
    return figure


def _norm(kl: NDArray[np.float64]) -> Normalize:
    """Colours in decades where the divergences span one or more; none is 0 to the eye below DECADES of them."""
    known = kl[np.isfinite(kl)]
    highest = float(known.max(initial=0.0))
    lowest = max(float(known.min(initial=highest)), highest * 10.0**-DECADES)
    if highest >= 10 * lowest > 0:
        return LogNorm(lowest, highest, clip=True)
    return Normalize(0.0, highest or 1.0)


def _hatch(axis: Axes, skipped: NDArray[np.bool_]) -> None:
    """One shape for all, a rectangle for each stretch of epochs: thousands of cells are drawn at once."""
    corners: list[tuple[float, float]] = []
    for row, cells in enumerate(skipped):
        column = 0
        for hatched, group in groupby(cells):
            end = column + len(list(group))
            if hatched:
                left, right, top, bottom = column + 0.5, end + 0.5, row - 0.5, row + 0.5
                corners += [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
            column = end
    if corners:
        codes = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY] * (len(corners) // 5)
        axis.add_patch(PathPatch(Path(corners, codes), facecolor="none", edgecolor="black", hatch=HATCH, linewidth=0))
