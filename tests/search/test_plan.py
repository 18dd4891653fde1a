"""`archsearch plan`: what it tells of real spaces, before anything is trained."""

import json
from pathlib import Path
from typing import Any

import pytest

from search.costs import macs, params
from search.planning.plan import planned
from search.planning.tables import tables
from search.readings import FILE
from spaces import Architecture, InputError, build
from tests.search.command import archsearch, space_file
from tests.spaces.space_files import QUICKSTART


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("plan")
    result = archsearch(folder, "plan", QUICKSTART, "--json")
    assert result.returncode == 0, result.stderr
    assert not list(folder.iterdir()), "a plan leaves nothing behind"
    found: dict[str, Any] = json.loads(result.stdout)
    return found


class TestQuickstart:
    def test_says_what_is_in_the_space(self, quickstart: dict[str, Any]) -> None:
        costs, feasible = quickstart["costs"], quickstart["feasibility"]
        assert (costs["size"], costs["exact"]) == (84, True)
        assert (feasible["looked"], feasible["feasible"], feasible["whole"]) == (84, 78, True)
        assert feasible["limits"][0] == {"limit": "params max 3e+06", "violated": 6, "alone": 6}
        assert set(costs["extents"]) == {"all", "resnet10t", "vit_tiny_patch16_224", "convnext_atto"}
        for extents in costs["extents"].values():
            assert set(extents) == {"params", "macs"}
            assert all(one["min"] <= one["median"] <= one["max"] for one in extents.values())

    def test_names_the_smallest_and_the_largest(self, quickstart: dict[str, Any]) -> None:
        costs = quickstart["costs"]
        for model in (costs["smallest"], costs["largest"]):
            extreme = costs["extents"]["all"]["macs"]["min" if model is costs["smallest"] else "max"]
            assert model["costs"]["macs"] == extreme

    def test_runs_one_of_each_backbone(self, quickstart: dict[str, Any]) -> None:
        proofs = {proof["label"]: proof for proof in quickstart["backbones"]}
        assert len(proofs) == 4  # the transformer in two depths
        assert all(proof["shape"] == [64, 10] for proof in proofs.values())

    def test_measures_three_sizes_of_each_backbone(self, quickstart: dict[str, Any]) -> None:
        steps = quickstart["steps"]
        by_backbone = [step["backbone"] for step in steps]
        assert {name: by_backbone.count(name) for name in by_backbone} == {
            "resnet10t": 3,
            "convnext_atto": 3,
            "vit_tiny_patch16_224": 3,
        }
        assert all(step["seconds"] > 0 for step in steps)

    def test_tells_what_each_dimension_does(self, quickstart: dict[str, Any]) -> None:
        effects = {(effect["parameter"], effect["choice"]): effect for effect in quickstart["costs"]["effects"]}
        assert effects["sharing", "stage"]["ratios"]["macs"] == 1
        assert effects["sharing", "stage"]["ratios"]["params"] < 1
        assert effects["width", 0.5]["ratios"]["macs"] == pytest.approx(0.25, rel=0.1)

    def test_estimates_the_search_and_the_confirmation(self, quickstart: dict[str, Any]) -> None:
        estimate = quickstart["estimate"]
        assert estimate["ends"] == "trials"
        assert estimate["trials"]["middle"] == 30
        assert 30 * 4 <= estimate["epochs"]["middle"] <= 30 * 12
        assert estimate["confirmation_device_hours"]["middle"] > 0
        assert estimate["device_hours"]["low"] <= estimate["device_hours"]["middle"] <= estimate["device_hours"]["high"]


def test_measured_costs_are_predicted_from_a_few_dozen_and_kept(tmp_path: Path) -> None:
    path = space_file(
        tmp_path,
        backbones=["resnet10t"],
        dimensions={"width": {"choices": [0.125, 0.25, 0.5], "per": "stage"}},
        objectives={"accuracy": "maximize", "latency_ms": "minimize"},
        constraints={"latency_ms": {"max": 1000}},
        costs={"latency_ms": {"limit_s": 0.1}},
    )
    found = planned(path, runs=tmp_path / "runs")
    times = found.times["latency_ms"]
    assert (times.measured.count, times.refused, found.forecast.size) == (24, 0, 81)
    assert found.forecast.extents["resnet10t"]["latency_ms"].count == 81
    assert times.kendall is not None
    assert -1 <= times.kendall <= 1
    assert times.share == 1
    assert any("latency_ms" in effect.ratios for effect in found.forecast.effects)
    lines = (tmp_path / "runs" / FILE).read_text().splitlines()
    assert len({json.loads(line)["architecture"] for line in lines}) == 24
    assert any("as predicted" in str(table.title) for table in tables(found))


def test_the_counts_are_those_of_the_networks(tmp_path: Path) -> None:
    path = space_file(tmp_path, backbones=["resnet10t"], dimensions={"width": [0.125, 1.0]})
    found = planned(path, runs=tmp_path / "runs")
    for model in (found.forecast.smallest, found.forecast.largest):
        network = build(Architecture.from_dict(model.architecture), 10, 1)
        assert model.costs == {"params": params(network), "macs": macs(network, (1, 16, 16))}


@pytest.mark.parametrize("command", ["plan", "run"])
def test_a_space_of_which_nothing_is_feasible_is_refused(tmp_path: Path, command: str) -> None:
    path = space_file(tmp_path, constraints={"params": {"max": 100}})
    result = archsearch(tmp_path, command, path.name)
    assert result.returncode == 2
    message = " ".join(result.stderr.split())
    assert "no architecture of the space meets the constraints (12 looked at, all there are); closest is" in message
    assert "max is 100" in message
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())


def test_a_space_of_another_kind_has_no_plan(tmp_path: Path) -> None:
    plain = {
        "name": "plain",
        "dimensions": {"a": [1, 2]},
        "objectives": {"b": "minimize"},
        "search": {"trials": 1},
    }
    with pytest.raises(InputError, match="a space of plain choices needs an evaluator of your own"):
        planned(plain, runs=tmp_path)


def test_a_space_that_the_clock_rules_out_is_refused_with_what_comes_closest(tmp_path: Path) -> None:
    path = space_file(
        tmp_path,
        backbones=["resnet10t"],
        dimensions={"width": [0.125, 0.25]},
        constraints={"latency_ms": {"max": 1e-6}},
        costs={"latency_ms": {"limit_s": 0.1}},
    )
    found = planned(path, runs=tmp_path / "runs")
    assert (found.times["latency_ms"].share, found.estimate) == (0, None)
    assert found.refusal.startswith("none of 2 architectures meets the constraints on what is measured")
    assert "max is 1e-06" in found.refusal
