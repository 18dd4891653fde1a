"""The picture of a front: what a person must be able to read from it."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from search.evaluator import Measurement
from search.pareto import Objectives
from search.record import Front, State, TrialRecord, front_of
from search.report.picture import front_figure
from search.report.points import FRONT, STOPPED, shown
from spaces import Architecture

DIRECTIONS = {"accuracy": "maximize", "macs": "minimize"}
WORST = {"accuracy": 0.1, "macs": 5e7, "latency_ms": 100.0}


def record(number: int, state: State, accuracy: float, macs: float, latency_ms: float = 1.0) -> TrialRecord:
    costs = {"macs": macs, "latency_ms": latency_ms}
    return TrialRecord(
        number=number,
        architecture=Architecture(choices={"net": number}),
        state=state,
        seed=0,
        costs=costs,
        history=(Measurement(fidelity=3, values={"accuracy": accuracy}),),
        values={"accuracy": accuracy, **costs} if state is State.COMPLETE else {},
    )


RECORDS = [
    record(0, State.COMPLETE, 0.97, 2e7, 9.0),
    record(1, State.COMPLETE, 0.92, 4e6, 4.0),
    record(2, State.COMPLETE, 0.85, 1e6, 6.0),
    record(3, State.COMPLETE, 0.80, 5e6, 9.5),
    record(4, State.STOPPED, 0.60, 8e6, 5.0),
    record(5, State.FAILED, 0.99, 1e5),
    record(6, State.INFEASIBLE, 0.99, 1e5),
    record(7, State.RUNNING, 0.99, 1e5),
]


def front(records: list[TrialRecord], **more: str) -> Front:
    directions = {**DIRECTIONS, **more}
    return front_of(records, Objectives(directions=directions), {name: WORST[name] for name in directions})


def texts(figure: object, panel: int) -> list[str]:
    return [text.get_text() for text in figure.axes[panel].texts]


def test_two_objectives_are_one_panel_with_scales_names_and_numbers() -> None:
    figure = front_figure(RECORDS, front(RECORDS), title="digits")
    panel, _ = figure.axes
    assert panel.get_xlabel() == "macs, lower is better"
    assert panel.get_ylabel() == "accuracy, higher is better"
    assert (panel.get_xscale(), panel.get_yscale()) == ("log", "linear")
    assert texts(figure, 0) == ["1", "2", "3"]
    drawn = {tuple(np.round(spot, 6)) for marks in panel.collections for spot in np.asarray(marks.get_offsets())}
    assert drawn == {(r.costs["macs"], r.history[0].values["accuracy"]) for r in RECORDS[:5]}
    assert figure.get_suptitle() == "digits"


def test_the_key_names_the_members_and_counts_the_states() -> None:
    key = texts(front_figure(RECORDS, front(RECORDS), title="digits"), 1)
    for line in (
        f"front (3), hypervolume {shown(front(RECORDS).hypervolume)}",
        "complete, dominated (1)",
        "stopped or paused early, where it stood (1)",
        "1 failed, 1 running, 0 paused",
        "never trained: 1 infeasible",
        "net=0",
        "accuracy 0.97, macs 20.00 M",
    ):
        assert line in key


def test_the_shaded_part_is_the_hypervolume() -> None:
    panel = front_figure(RECORDS, front(RECORDS), title="digits").axes[0]
    x, y = np.asarray(panel.patches[0].get_xy()).T
    area = abs(np.dot(x[:-1], y[1:]) - np.dot(y[:-1], x[1:])) / 2  # the shoelace formula
    assert area == pytest.approx(front(RECORDS).hypervolume)


def test_a_cost_within_a_decade_is_drawn_linearly() -> None:
    near = RECORDS[:2]
    assert front_figure(near, front(near), title="x").axes[0].get_xscale() == "linear"


def test_three_objectives_are_every_pair_and_no_staircase() -> None:
    figure = front_figure(RECORDS, front(RECORDS, latency_ms="minimize"), title="digits")
    *panels, _ = figure.axes
    assert [(panel.get_ylabel().split(",")[0], panel.get_xlabel().split(",")[0]) for panel in panels] == [
        ("accuracy", "macs"),
        ("accuracy", "latency (ms)"),
        ("macs", "latency (ms)"),
    ]
    assert not any(panel.lines or panel.patches for panel in panels)


def pixels(path: Path, colour: str) -> int:
    image = np.asarray(Image.open(path).convert("RGB")).astype(int)
    return int((np.abs(image - np.round(255 * np.array(to_rgb(colour)))).max(axis=2) < 24).sum())


def test_the_written_picture_shows_front_and_stopped_trials(tmp_path: Path) -> None:
    front_figure(RECORDS, front(RECORDS), title="no $math$ here").savefig(tmp_path / "all.png")
    front_figure(RECORDS[5:], front(RECORDS[5:]), title="x").savefig(tmp_path / "none.png")
    assert pixels(tmp_path / "all.png", FRONT) > 20 * pixels(tmp_path / "none.png", FRONT) > 0
    assert pixels(tmp_path / "all.png", STOPPED) > 1.5 * pixels(tmp_path / "none.png", STOPPED)
    assert Image.open(tmp_path / "all.png").size > (800, 400)


def test_nothing_measured_yet_is_said() -> None:
    assert texts(front_figure([], front([]), title="x"), 0) == ["nothing measured yet"]


def test_a_long_front_is_cut_in_the_key_only() -> None:
    many = [record(n, State.COMPLETE, 0.5 + n / 100, 1e6 + n * 1e5) for n in range(40)]
    figure = front_figure(many, front(many), title="x")
    assert len(texts(figure, 0)) == 40
    assert texts(figure, 1)[-1] == "and 30 more"


def test_of_twelve_objectives_the_first_pairs_are_drawn_without_a_warning(tmp_path: Path) -> None:
    names = [f"cost_{number}" for number in range(12)]
    rows = [
        TrialRecord(
            number=n,
            architecture=Architecture(choices={"net": n}),
            state=State.COMPLETE,
            seed=0,
            values={name: float((n * (place + 3)) % 7 + 1) for place, name in enumerate(names)},
        )
        for n in range(3)
    ]
    best = front_of(rows, Objectives(directions=dict.fromkeys(names, "minimize")), dict.fromkeys(names, 9.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        front_figure(rows, best, title="x").savefig(tmp_path / "twelve.png")
    assert len(front_figure(rows, best, title="x").axes) == 13
