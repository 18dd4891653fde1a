"""The picture of a benchmark of real training: hypervolume against seconds, and the confirmed fronts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure


def draw(content: Mapping[str, Any], path: Path, confirmed: Mapping[str, float]) -> None:
    """Writes a PNG; a colour an arm, a line or a set of points a seed.

    Args:
        confirmed: test accuracy by id.
    """
    figure = Figure(figsize=(12, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    arms = list(dict.fromkeys(run["arm"] for run in content["runs"]))
    for run in content["runs"]:
        colour, label = f"C{arms.index(run['arm'])}", run["arm"] if run["seed"] == content["runs"][0]["seed"] else None
        found = run["judged"]
        end = max(content["settings"]["seconds"], found["curve"][-1][0])
        seconds, volumes = zip(*found["curve"], (end, found["hypervolume"]), strict=True)
        left.step(seconds, volumes, where="post", color=colour, label=label)
        front = found["last_front"]
        macs = [row["macs"] / 1e6 for row in front]
        right.plot(macs, [row["confirmed_test_accuracy"] for row in front], "o-", color=colour, label=label, lw=0.8)
    left.set(xlabel="seconds since the first training began", ylabel="hypervolume of the confirmed fronts")
    right.set(xlabel="multiply-accumulates an image, millions", ylabel="confirmed test accuracy", xscale="log")
    right.set_title("last fronts by validation", fontsize=10)
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=110)
