"""A search by what is measured: latency before training, robustness after it; real Ray, real trainings, two cores."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from search import results
from search.live import front_table
from search.readings import FILE
from search.record import State
from tests.search.command import archsearch, space_file

JUDGED = {"corruption_accuracy": "maximize", "calibration_error": "minimize"}


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("measured")
    space_file(
        folder,
        backbones=["resnet10t"],
        dimensions={"width": [0.125, 0.25, 1.0]},
        objectives={"accuracy": "maximize", "latency_ms": "minimize", **JUDGED},
        constraints={"params": {"max": 1.0e6}, "latency_ms": {"max": 1000}},
        costs={
            "latency_ms": {"batch": 2, "limit_s": 0.5},
            "corruption_accuracy": {"kinds": ["contrast", "jpeg"], "severities": [1, 5]},
        },
        search={"trials": 2, "fidelity": {"rungs": [1, 2], "reduction": 2}},
    )
    result = archsearch(folder, "run", "tiny.yaml")
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


def test_every_trial_has_what_was_measured(searched: Path) -> None:
    study = results.opened(searched / "runs", "tiny")
    trained = [record for record in study.records() if record.state.counts]
    assert len(trained) == 2
    for record in trained:
        assert record.costs["latency_ms"] > 0 <= record.costs["latency_ms_spread"]
        last = record.history[-1]
        assert set(last.values) == {"accuracy", *JUDGED}
        corrupted = [last.metrics[f"val_accuracy_{kind}_{s}"] for kind in ("contrast", "jpeg") for s in (1, 5)]
        assert last.values["corruption_accuracy"] == pytest.approx(sum(corrupted) / 4)
        assert last.values["calibration_error"] == last.metrics["val_calibration_error"]


def test_the_table_of_the_front_shows_the_spread(searched: Path) -> None:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(front_table(results.opened(searched / "runs", "tiny").front))
    assert "±" in capture.get()


def test_what_the_counted_constraints_refuse_is_not_measured(searched: Path) -> None:
    study = results.opened(searched / "runs", "tiny")
    measured = {json.loads(line)["architecture"] for line in (searched / "runs" / FILE).read_text().splitlines()}
    known = {record.architecture.id for record in study.records() if "latency_ms" in record.costs}
    refused = [record for record in study.records() if record.state is State.INFEASIBLE]
    assert known
    assert known <= measured
    assert all(record.architecture.id not in measured for record in refused)
    assert all("params" in record.reason for record in refused)


def test_the_reference_point_is_where_nothing_is_won(searched: Path) -> None:
    point = results.opened(searched / "runs", "tiny").reference_point
    assert point["latency_ms"] == 1000
    assert point["calibration_error"] == 1.0
    assert point["corruption_accuracy"] == point["accuracy"] < 0.2


def test_a_second_search_measures_nothing_again(searched: Path) -> None:
    before = (searched / "runs" / FILE).read_text().splitlines()
    steady = {line["architecture"]: line["value"] for line in map(json.loads, before) if line["steady"]}
    result = archsearch(searched, "run", "tiny.yaml")
    assert result.returncode == 0, result.stdout + result.stderr
    added = [json.loads(line) for line in (searched / "runs" / FILE).read_text().splitlines()[len(before) :]]
    assert not steady.keys() & {line["architecture"] for line in added}
    for record in results.opened(searched / "runs", "tiny-2").records():
        if record.architecture.id in steady:
            assert record.costs["latency_ms"] == steady[record.architecture.id]
