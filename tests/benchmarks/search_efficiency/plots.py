"""The picture of a benchmark of real training: hypervolume against seconds, and the confirmed fronts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.figure import Figure

from tests.benchmarks.search_efficiency.fronts import Curve


def draw(content: Mapping[str, Any], path: Path, confirmed: Mapping[str, float]) -> None:
    """Writes a PNG; a colour an arm, a thin line a seed; hypervolumes also as medians over the seeds.

    Args:
        confirmed: test accuracy by id.
    """
    figure = Figure(figsize=(12, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    arms = list(dict.fromkeys(run["arm"] for run in content["runs"]))
    for colour, arm in enumerate(arms):
        runs = [run for run in content["runs"] if run["arm"] == arm]
        look: dict[str, Any] = {"color": f"C{colour}", "alpha": 1.0 if len(runs) == 1 else 0.3}
        for run in runs:
            seconds, volumes = zip(*reached(run, content), strict=True)
            left.step(seconds, volumes, where="post", lw=0.8, **look)
            front = run["judged"]["last_front"]
            macs = [row["macs"] / 1e6 for row in front]
            tested = [row["confirmed_test_accuracy"] for row in front]
            right.plot(macs, tested, "o-", lw=0.8, ms=4, **look)
        seconds, volumes = medians([reached(run, content) for run in runs])
        label = f"{arm}, {len(runs)} seed{'s' * (len(runs) > 1)}"
        left.step(seconds, volumes, where="post", lw=2, color=f"C{colour}", label=label)
    left.set(xlabel="seconds since the first training began", ylabel="hypervolume of the confirmed fronts")
    left.set_title("seeds, and their medians", fontsize=10)
    right.set(xlabel="multiply-accumulates an image, millions", ylabel="confirmed test accuracy", xscale="log")
    right.set_title("last fronts by validation", fontsize=10)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=len(arms))
    figure.savefig(path, dpi=110)


def reached(run: Mapping[str, Any], content: Mapping[str, Any]) -> Curve:
    """The curve of a run, up to the end of its seconds."""
    curve: Curve = run["judged"]["curve"]
    return [*curve, (max(content["settings"]["seconds"], curve[-1][0]), run["judged"]["hypervolume"])]


def medians(curves: Sequence[Curve]) -> tuple[list[float], list[float]]:
    """Seconds at which any of the curves changes, and the median hypervolume from then on."""
    moments = sorted({seconds for curve in curves for seconds, _ in curve})
    return moments, [median(max(volume for at, volume in curve if at <= now) for curve in curves) for now in moments]
