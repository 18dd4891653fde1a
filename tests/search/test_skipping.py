"""What layer attention skips in a real search: in the study whatever happens, in MLflow, and with a picked model."""

import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from search import results
from search.cli import main
from search.data import Dataset, load_data
from search.evaluator import Measurement
from search.model import measured, read_model
from search.record import State, TrialRecord
from search.report.labels import label_of
from search.report.skipping import skipping_figure
from search.skipping import Skipping, metrics_of, skipped_blocks
from search.study import studies
from search.tracking.mlflow import MlflowTracker
from search.trial import TimmEvaluator
from spaces import Architecture, SpaceFile, build, load
from tests.search.command import archsearch, kill, space_file, start, trained, wait_for
from tests.search.pictures import data_of
from tests.search.plain import drive
from tests.search.told import client, logged, open_tracker, reconciled, record, trials
from tests.search.told import search as runs_where

pytestmark = pytest.mark.usefixtures("one_thread")

DEEP: dict[str, Any] = {"layers": [1, 5, 1], "channels": [8, 8, 8]}  # the middle stage has three gates
GATED = ("layer2.2", "layer2.3", "layer2.4")
DATA: dict[str, Any] = {"source": "digits", "image_size": 16}
EPOCHS = 4
WORST = {"accuracy": 0.0, "macs": 1e9}
SPACE: dict[str, Any] = {
    "name": "digits",
    "data": DATA,
    "backbones": [{"name": "cifar_resnet20", "kwargs": {name: [value] for name, value in DEEP.items()}}],
    "dimensions": {"layer_attention": {"kind": ["ela"], "skip_threshold": [0.3, 0.6, 0.9]}},
    "constraints": {},
    "objectives": {"accuracy": "maximize", "macs": "minimize"},
    "search": {"trials": 3, "sampler": "random", "seed": 0, "fidelity": {"rungs": [1, 2, EPOCHS], "reduction": 2}},
    "train": {"lr": 2e-3},
}
ELA = Architecture(
    backbone="cifar_resnet20", kwargs=DEEP, choices={"layer_attention": {"kind": "ela", "skip_threshold": 0.6}}
)


def space(**changes: Any) -> SpaceFile:
    return load({**SPACE, **changes})


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_data(data_of(**DATA))


def said(measurement: Measurement) -> dict[str, float]:
    return {name: value for name, value in measurement.metrics.items() if name.startswith("layer_attention/")}


def course(records: list[TrialRecord]) -> dict[int, tuple[str, list[tuple[int, dict[str, float]]]]]:
    return {r.number: (str(r.state), [(m.fidelity, said(m)) for m in r.history]) for r in records}


class TestOfOneTraining:
    def test_an_epoch_says_all_that_the_controller_does(self, digits: Dataset, tmp_path: Path) -> None:
        evaluator = TimmEvaluator(space(), digits)
        history = list(evaluator.evaluate(ELA, EPOCHS, 0, tmp_path))
        assert evaluator._live is not None
        model: Any = evaluator._live[1].model
        found = Skipping.of(history)
        assert found is not None
        assert found.epochs == (1, 2, 3, 4)
        assert found.blocks == model.skip_controller.blocks == GATED
        assert found.skipped[-1] == model.skip_controller.skipped
        assert found.kl_nats[-1] == pytest.approx(model.skip_controller.divergences)
        assert found.skipped_share[-1] == model.skip_controller.skipped_share > 0
        assert found.last == skipped_blocks(model) != ()
        assert all(kl is not None and kl >= 0 for row in found.kl_nats for kl in row)
        assert len({row[-1] for row in found.kl_nats}) > 1, "it is measured anew each epoch"

    def test_it_is_the_same_whether_or_not_it_was_paused(self, digits: Dataset, tmp_path: Path) -> None:
        evaluator = TimmEvaluator(space(), digits)
        straight = list(evaluator.evaluate(ELA, EPOCHS, 0, tmp_path / "a"))
        in_memory = [m for rung in (1, 2, EPOCHS) for m in evaluator.evaluate(ELA, rung, 0, tmp_path / "b")]
        from_disk = [
            measurement
            for rung in (1, 2, EPOCHS)
            for measurement in pickle.loads(pickle.dumps(evaluator)).evaluate(ELA, rung, 0, tmp_path / "c")
        ]
        told = [said(measurement) for measurement in straight]
        assert any(told[-1][f"layer_attention/skipped/{block}"] for block in GATED)
        assert [said(measurement) for measurement in in_memory] == told
        assert [said(measurement) for measurement in from_disk] == told

    def test_a_rung_that_is_only_validated_again_says_it_too(self, digits: Dataset, tmp_path: Path) -> None:
        evaluator = TimmEvaluator(space(), digits)
        for rung in (2, EPOCHS):
            last = list(evaluator.evaluate(ELA, rung, 0, tmp_path))[-1]
            (again,) = pickle.loads(pickle.dumps(evaluator)).evaluate(ELA, rung, 0, tmp_path)
            assert said(again) == said(last) != {}

    def test_a_network_without_gates_says_nothing(self) -> None:
        model = build(
            Architecture(backbone="cifar_resnet20", kwargs=DEEP, choices={"layer_attention": "mrla_base"}), 10
        )
        assert metrics_of(model) == {}
        assert skipped_blocks(model) == ()


@pytest.fixture(scope="module")
def whole(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> list[TrialRecord]:
    """The trials of a search that nothing has happened to."""
    directory, evaluator = tmp_path_factory.mktemp("whole") / "s", TimmEvaluator(space(), digits)
    study = studies.begin(directory, space(), evaluator, reference_point=WORST)
    drive(study, evaluator)
    study.close()
    return studies.read(directory).records()


def test_trials_pause_at_rungs_and_all_their_epochs_are_known(whole: list[TrialRecord]) -> None:
    over = [each for each in whole if each.state.counts]
    assert {each.state for each in over} == {State.COMPLETE, State.STOPPED}
    for each in over:
        found = Skipping.of(each.history)
        assert found is not None
        assert found.epochs == tuple(range(1, each.fidelity + 1))
    assert any(found.last for each in whole if (found := Skipping.of(each.history)))


@pytest.mark.parametrize("measurements", [3, 5])  # between two rungs; at one, another trial being complete
def test_after_a_crash_a_study_knows_the_same(
    measurements: int, whole: list[TrialRecord], digits: Dataset, tmp_path: Path
) -> None:
    evaluator = TimmEvaluator(space(), digits)
    study = studies.begin(tmp_path / "s", space(), evaluator, reference_point=WORST)
    drive(study, evaluator, measurements=measurements)
    shutil.copytree(tmp_path / "s", tmp_path / "crashed" / "s")  # what was to be written within a second is not there
    study.close()
    other = TimmEvaluator(space(), digits)
    resumed = studies.resume(tmp_path / "crashed" / "s", space(), other)
    drive(resumed, other)
    resumed.close()
    assert course(studies.read(tmp_path / "crashed" / "s").records()) == course(whole)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a search has run whose driver was killed, and which was then gone on with."""
    folder = tmp_path_factory.mktemp("searched")
    space_file(folder, **SPACE)
    process = start(folder, "run", "digits.yaml")
    wait_for(lambda: trained(folder, "digits") >= 2, process)
    kill(process)
    result = archsearch(folder, "run", "digits.yaml", "--resume")
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


def picture(run_id: str, runs: Path, into: Path) -> np.ndarray:
    with Image.open(client(runs).download_artifacts(run_id, "layer_attention.png", str(into))) as image:
        return np.asarray(image.convert("RGB"))


def shown(run_id: str, runs: Path) -> dict[str, list[tuple[int, float]]]:
    """The curves of a run."""
    store = client(runs)
    names = [name for name in store.get_run(run_id).data.metrics if name.startswith("layer_attention/")]
    return {name: [(m.step, m.value) for m in store.get_metric_history(run_id, name)] for name in names}


def check_what_mlflow_has(each: TrialRecord, run_id: str, runs: Path, into: Path, *, again: bool = False) -> None:
    """Curves, numbers, picture and tag are those of the record.

    Args:
        again: a driver was killed: a rung that was validated again may have been told twice, and the same.
    """
    found = Skipping.of(each.history)
    assert found is not None
    into.mkdir()
    expected: dict[str, list[tuple[int, float]]] = {}
    for measurement in each.history:
        for name, value in said(measurement).items():
            expected.setdefault(name, []).append((measurement.fidelity, value))
    curves = shown(run_id, runs)
    assert ({name: list(dict.fromkeys(curve)) for name, curve in curves.items()} if again else curves) == expected
    assert expected["layer_attention/skipped_share"][-1] == (each.fidelity, found.skipped_share[-1])
    path = client(runs).download_artifacts(run_id, "layer_attention.json", str(into))
    assert json.loads(Path(path).read_text()) == found.to_dict()
    skipping_figure(found, title=label_of(each.architecture)).savefig(into / "expected.png")
    with Image.open(into / "expected.png") as image:
        np.testing.assert_array_equal(picture(run_id, runs, into), np.asarray(image.convert("RGB")))
    assert client(runs).get_run(run_id).data.tags.get("skipped_layers", "") == ",".join(found.last)


class TestOfASearch:
    def test_after_kill_9_every_epoch_is_known_once(self, searched: Path) -> None:
        records = [r for r in results.opened(searched / "runs", "digits").records() if r.state.counts]
        assert len(records) == 3
        for each in records:
            found = Skipping.of(each.history)
            assert found is not None
            assert found.epochs == tuple(range(1, each.fidelity + 1))
            assert found.blocks == GATED
        assert any(found.last for each in records if (found := Skipping.of(each.history)))

    def test_mlflow_shows_curves_numbers_picture_and_tag(self, searched: Path, tmp_path: Path) -> None:
        runs = searched / "runs"
        for each in results.opened(runs, "digits").records():
            if each.state.counts:
                assert each.mlflow_run_id is not None
                check_what_mlflow_has(each, each.mlflow_run_id, runs, tmp_path / str(each.number), again=True)

    def test_a_person_can_filter_by_what_is_skipped(self, searched: Path) -> None:
        records = results.opened(searched / "runs", "digits").records()
        block = next(found.last[0] for each in records if (found := Skipping.of(each.history)) and found.last)
        with_it = {
            each.mlflow_run_id
            for each in records
            if (found := Skipping.of(each.history)) and each.state.counts and block in found.last
        }
        for query in (f"tags.skipped_layers LIKE '%{block}%'", f"metrics.`layer_attention/skipped/{block}` = 1"):
            assert {run.info.run_id for run in runs_where(client(searched / "runs"), query)} == with_it, query

    def test_a_fresh_mlflow_is_given_all_of_it_and_draws_it_once(self, searched: Path, tmp_path: Path) -> None:
        records = [r for r in results.opened(searched / "runs", "digits").records() if r.state.counts]
        tracker = reconciled(tmp_path, records)
        for each in records:
            run_id = tracker.run_of(each.number)
            assert run_id is not None
            check_what_mlflow_has(each, run_id, tmp_path, tmp_path / str(each.number))
        drawn = {path: path.stat().st_mtime_ns for path in tmp_path.glob("mlartifacts/**/layer_attention.*")}
        assert len(drawn) == 2 * len(records)
        again = reconciled(tmp_path, records)
        logged(again, *records)
        again.finish("FINISHED")
        assert {path: path.stat().st_mtime_ns for path in drawn} == drawn

    def test_the_picked_model_says_what_it_skips(self, searched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(searched)
        monkeypatch.setattr("sys.argv", ["archsearch", "pick", "digits", "--output", "picked"])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
        model = read_model(searched / "picked")
        chosen = next(
            each
            for each in results.opened(searched / "runs", "digits").front.members
            if each.network == model.architecture
        )
        found = Skipping.of(chosen.history)
        assert found is not None
        assert skipped_blocks(model.module) == found.last != ()
        assert f"| skipped layers | {', '.join(found.last)} |" in measured(searched / "picked")


def test_only_a_model_that_skips_layers_says_so(digits: Dataset, tmp_path: Path) -> None:
    file = space(
        dimensions={"layer_attention": {"kind": ["mrla_base", "ela"], "skip_threshold": [0.9]}},
        search={"trials": 2, "sampler": "random", "fidelity": {"rungs": [2]}},
    )
    evaluator = TimmEvaluator(file, digits)
    study = studies.begin(tmp_path / "s", file, evaluator, reference_point=WORST)
    drive(study, evaluator)
    results.Inputs.of(digits).write(study.directory)
    rows = {}
    for each in study.records():
        if each.state is State.COMPLETE:
            results.write(study, each, tmp_path / str(each.number))
            rows[Skipping.of(each.history) is None] = [
                row for row in measured(tmp_path / str(each.number)) if "skipped" in row
            ]
    study.close()
    assert rows.keys() == {True, False}
    assert rows[True] == []
    assert len(rows[False]) == 1
    assert rows[False][0].startswith("| skipped layers | layer2.")


def with_skipping(number: int, state: State, epochs: int) -> TrialRecord:
    """As a training of two gated layers has it, of which the second is skipped from the third epoch on."""
    plain = record(number, state, epochs)
    history = tuple(
        replace(
            measurement,
            metrics={
                **measurement.metrics,
                "layer_attention/skipped_share": 0.25 * (measurement.fidelity > 2),
                "layer_attention/skipped/a": 0.0,
                "layer_attention/skipped/b": float(measurement.fidelity > 2),
                "layer_attention/kl/b": 0.01 * measurement.fidelity,
            },
        )
        for measurement in plain.history
    )
    return replace(plain, history=history)


@pytest.mark.parametrize("state", [State.COMPLETE, State.STOPPED, State.FAILED])
def test_a_training_is_drawn_when_it_is_over_and_told_before(state: State, tmp_path: Path) -> None:
    tracker = open_tracker(tmp_path)
    for going_on in (with_skipping(0, State.RUNNING, 2), with_skipping(0, State.PAUSED, 3)):
        (run_id,) = logged(tracker, going_on)
        assert run_id is not None
        assert len(shown(run_id, tmp_path)["layer_attention/kl/b"]) == going_on.fidelity
        assert client(tmp_path).list_artifacts(run_id) == []
        assert "skipped_layers" not in client(tmp_path).get_run(run_id).data.tags
    over = with_skipping(0, state, 5)
    logged(tracker, over)
    check_what_mlflow_has(over, run_id, tmp_path, tmp_path / "found")
    assert client(tmp_path).get_run(run_id).data.tags["skipped_layers"] == "b"


def test_what_could_not_be_drawn_is_drawn_at_the_next_start(tmp_path: Path) -> None:
    over = [with_skipping(0, State.COMPLETE, 9), record(1), with_skipping(2, State.INFEASIBLE, 0)]
    tracker: MlflowTracker = reconciled(tmp_path, over)
    first = tracker.run_of(0)
    assert first is not None
    store = client(tmp_path)
    shutil.rmtree(next(tmp_path.glob(f"mlartifacts/**/{first}")))
    store.delete_tag(first, "archsearch.drawn")  # killed before the picture was there
    reconciled(tmp_path, over)
    check_what_mlflow_has(over[0], first, tmp_path, tmp_path / "found")
    others = [run.info.run_id for run in trials(store) if run.info.run_id != first]
    assert len(others) == 2
    assert [store.list_artifacts(run_id) for run_id in others] == [[], []]
