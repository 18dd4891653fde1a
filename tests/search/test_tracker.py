"""The words in which trials are told to a tracker."""

import math
from pathlib import Path

import pytest

from search.evaluator import Measurement
from search.record import State, TrialRecord
from search.report.labels import flat, label_of, params_of
from search.tracking.tracker import SENT, news, store_of, surroundings, tags_of, ui_command
from spaces import Architecture

RESNET = Architecture(backbone="resnet10t", choices={"width": [0.25, 0.5, 0.5, 1.0], "scaling": "rezero"})
IMPOSSIBLE = Architecture(backbone="resnet10t", kwargs={"nonsense": 1}, choices={"width": 0.5})


def record(**changes: object) -> TrialRecord:
    return TrialRecord(**{"number": 7, "architecture": RESNET, "state": State.RUNNING, "seed": 3, **changes})


def test_settings_are_flattened_by_name() -> None:
    given = {"seed": 0, "train": {"lr": 1e-3, "optimizer": "adamw", "mean": None}, "rungs": (3, 9), "on": True}
    assert flat(given) == {
        "seed": "0",
        "train.lr": "0.001",
        "train.optimizer": "adamw",
        "train.mean": "null",
        "rungs": "[3, 9]",
        "on": "true",
    }


def test_choices_become_parameters_one_a_stage_where_stages_differ() -> None:
    architecture = Architecture(
        backbone="vit", kwargs={"depth": 4, "img_size": [32, 32]}, choices={"a": {"kind": "ela"}, "w": [1.0, 0.5]}
    )
    assert params_of(architecture) == {
        "backbone": "vit",
        "a.kind": "ela",
        "w": "0.75",
        "w.1": "1.0",
        "w.2": "0.5",
        "kwargs.depth": "4",
        "kwargs.img_size": "[32, 32]",
    }
    assert params_of(Architecture(choices={"op": "conv"})) == {"op": "conv"}
    mixed = Architecture(choices={"norm": ["keep", "group"], "sharing": ["none", 2], "size": [8, 16, 16]})
    of_all = {name: value for name, value in params_of(mixed).items() if "." not in name}
    assert of_all == {"norm": "keep/group", "sharing": "none/2", "size": "13.3333"}


def test_tags_tell_what_is_known() -> None:
    told = tags_of(record(state=State.DUPLICATE, reason="as trial 2", duplicate_of=2))
    assert told == {
        "status": "duplicate",
        "backbone": "resnet10t",
        "architecture": RESNET.to_json(),
        "seed": "3",
        "reason": "as trial 2",
        "duplicate_of": "2",
        "arch_id": RESNET.id,
    }
    assert label_of(RESNET) == RESNET.label


def test_what_cannot_be_built_has_a_label_and_no_identity() -> None:
    assert label_of(IMPOSSIBLE) == "resnet10t width=0.5 kwargs.nonsense=1"
    assert "arch_id" not in tags_of(record(architecture=IMPOSSIBLE, state=State.INFEASIBLE))


def test_news_are_what_is_not_there_yet() -> None:
    early = Measurement(fidelity=1, metrics={"loss@1": 2.0}, time=10.0)
    rung = Measurement(fidelity=3, values={"accuracy": 0.5}, metrics={"loss@1": math.nan}, time=12.5)
    rows, mark = news(record(history=(early,), costs={"macs": 5.0}, started=5.0), {}, "")
    assert [tuple(row) for row in rows] == [("loss_1", 2.0, 10_000, 1), ("macs", 5.0, 5_000, 0)]
    rows, mark = news(record(history=(early, rung), costs={"macs": 5.0}), {"loss_1": 2.0, "macs": 5.0}, mark)
    assert [(row.key, row.timestamp_ms, row.step) for row in rows] == [("loss_1", 12500, 3), ("accuracy", 12500, 3)]
    finished = record(
        history=(early, rung),
        costs={"macs": 5.0},
        values={"macs": 5.0, "accuracy": 0.5},
        test_accuracy=0.4,
        ended=20.0,
        state=State.COMPLETE,
    )
    rows, mark = news(finished, {"loss_1": math.nan, "accuracy": 0.5, "macs": 5.0}, mark)
    assert [tuple(row) for row in rows] == [("test_accuracy", 0.4, 20_000, 0)]
    assert mark == "3@12500"


def test_an_epoch_measured_again_after_a_crash_is_told_once() -> None:
    again = Measurement(fidelity=2, metrics={"loss": 1.0}, time=99.0)
    assert news(record(history=(again,)), {"loss": 1.1}, "3@12500") == ([], "3@12500")


def test_the_studys_value_wins_over_what_was_told() -> None:
    rung = Measurement(fidelity=3, values={"accuracy": 0.6}, time=12.5)
    rows, _ = news(record(history=(rung,), values={"accuracy": 0.6}, ended=20.0), {"accuracy": 0.5}, "3@12500")
    assert [tuple(row) for row in rows] == [("accuracy", 0.6, 20_000, 3)]


def test_a_search_tells_its_versions_and_the_commit_it_ran_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # no repository
    told = surroundings()
    assert {"version.torch", "version.mlflow", "version.optuna"} <= told.keys()
    assert "mlflow.source.git.commit" not in told
    assert "+" not in told["version.torch"]
    assert SENT not in told


def test_the_store_of_a_folder_is_served_on_this_machine_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert store_of(Path("runs")) == f"sqlite:///{tmp_path}/runs/mlflow.db"
    command, environment = ui_command(Path("runs"), 5001)
    assert environment["MLFLOW_BACKEND_STORE_URI"] == store_of(Path("runs"))
    assert command[-4:] == ["--host", "127.0.0.1", "--port", "5001"]
    command, environment = ui_command(Path("runs"), 5001, tracking="postgresql://me:secret@host/mlflow")
    assert environment["MLFLOW_BACKEND_STORE_URI"] == "postgresql://me:secret@host/mlflow"
    assert "secret" not in " ".join(command)  # which everyone on the machine can read
