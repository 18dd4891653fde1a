"""The benchmark of real training: what it makes of time lines, and that two of its arms run and leave their fronts."""

import json
import math
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.search_efficiency import fronts

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = {"accuracy": 0.1, "macs": 10.0}

SPACE = """
name: tiny
data: {source: digits}
backbones: [resnet10t]
dimensions: {width: [0.125, 0.25]}
objectives: {accuracy: maximize, macs: minimize}
search: {trials: 2, fidelity: {rungs: [1, 3], reduction: 2}}
train: {batch_size: 32, lr: 3.0e-3}
"""


def row(name: str, seconds: float, accuracy: float, macs: float, *, complete: bool = True) -> dict[str, Any]:
    return {"id": name, "seconds": seconds, "accuracy": accuracy, "macs": macs, "complete": complete}


ROWS = [
    row("early", 1.0, 0.9, 1.0, complete=False),
    row("large", 2.0, 0.6, 8.0),
    row("worse", 3.0, 0.5, 9.0),
    row("small", 4.0, 0.4, 2.0),
    row("better", 5.0, 0.7, 8.0),
]
CONFIRMED = {"large": 0.5, "small": 0.3, "better": 0.4, "worse": 1.0}


def test_a_front_is_of_complete_trials_by_validation() -> None:
    assert [member["id"] for member in fronts.front(ROWS)] == ["small", "better"]
    assert [member["id"] for member in fronts.ever(ROWS)] == ["large", "small", "better"]
    assert fronts.front([]) == fronts.ever([]) == []


def test_the_hypervolume_is_a_mean_over_budgets() -> None:
    """0.3 above 0.1 from 2 to 10 million, 0.5 above 0.3 from 8 to 10; what is beyond the reference adds nothing."""
    members = [ROWS[1], ROWS[3]]
    assert fronts.volume(members, CONFIRMED, REFERENCE) == pytest.approx((8 * 0.2 + 2 * 0.2) / 10)
    beyond = [row("chance", 0.0, 0.5, 1.0), row("huge", 0.0, 0.9, 11.0)]
    assert fronts.volume(beyond, {"chance": 0.1, "huge": 0.9}, REFERENCE) == 0.0


def test_the_hypervolume_never_falls_and_is_told_when_it_rises() -> None:
    found = fronts.curve(ROWS, CONFIRMED, REFERENCE)
    assert [seconds for seconds, _ in found] == [0.0, 2.0, 4.0, 5.0]
    assert [volume for _, volume in found] == pytest.approx([0.0, 0.08, 0.2, 0.2])
    assert fronts.seconds_to(found, 0.07) == 2.0
    assert fronts.seconds_to(found, 0.19) == 4.0
    assert fronts.seconds_to(found, 0.3) == math.inf


def test_a_point_is_dominated_from_a_moment_on() -> None:
    assert fronts.dominated_at((0.45, 8.5), ROWS, CONFIRMED) == 2.0
    assert fronts.dominated_at((0.25, 3.0), ROWS, CONFIRMED) == 4.0
    assert fronts.dominated_at((0.5, 8.0), ROWS, CONFIRMED) == math.inf  # it is the same point
    assert fronts.dominated_at((0.99, 9.0), ROWS, CONFIRMED) == math.inf  # one that was never on the front is not told


def test_two_arms_run_and_leave_their_fronts(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(SPACE)
    command = [sys.executable, "-m", "tests.benchmarks.search_efficiency.training", "--quick"]
    command += ["--arms", "stock", "ours-none", "ours-nonsense", "--space", "tiny.yaml", "--json", "out.json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    content = json.loads((tmp_path / "out.json").read_text())
    assert {"cpu", "versions", "settings", "reference", "runs", "confirmed", "skipped", "summary"} <= content.keys()
    assert [run["arm"] for run in content["runs"]] == ["stock", "ours-none"]
    assert len(content["skipped"]) == 1
    assert content["skipped"][0].startswith("ours-nonsense: ")
    assert (tmp_path / "out.png").stat().st_size > 10_000
    for run in content["runs"]:
        explains_itself(run, content)


def explains_itself(run: dict[str, Any], content: dict[str, Any]) -> None:
    assert {"arm", "seed", "points", "notes", "commit", "judged", "compared"} <= run.keys()
    keys = {"seconds", "id", "label", "macs", "params", "accuracy", "fidelity", "complete", "test_accuracy"}
    assert all(keys <= point.keys() for point in run["points"])
    complete = [point for point in run["points"] if point["complete"]]
    assert complete
    assert all(point["fidelity"] == 2 and point["seconds"] > 0 for point in complete)
    curve = run["judged"]["curve"]
    assert curve[0] == [0.0, 0.0]
    assert all(a[0] <= b[0] and a[1] <= b[1] for a, b in pairwise(curve))
    for member in run["judged"]["last_front"]:
        assert member["own_test_accuracy"] is not None
        tests = content["confirmed"][member["id"]]["test_accuracy"]
        assert member["confirmed_test_accuracy"] == pytest.approx(sum(tests.values()) / len(tests))
