"""A real search confirmed: killed and gone on with, done again elsewhere, on more data; and what comes of it."""

import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from search import results
from search.cli import main
from search.confirm import Asked, confirm, confirmable
from search.confirmation import store
from search.confirmation.journal import FILE as JOURNAL
from search.confirmation.record import Confirmation
from search.data import load_data
from search.model import read_model
from search.study.lease import Lease
from search.task import opened
from search.training import finished
from search.workers.cluster import cluster
from spaces import InputError
from tests.search.command import archsearch, kill, space_file, start, wait_for
from tests.search.pictures import data_of

SMALL = {"layers": [[1, 1, 1, 1]], "channels": [[8, 16, 24, 32]]}
SPACE: dict[str, Any] = {
    "name": "gates",
    "backbones": [{"name": "resnet18", "kwargs": SMALL}],
    "dimensions": {"scaling": ["none", {"kind": "adaptive", "penalty": 0.3}]},
    "constraints": {},
    "search": {"trials": 2, "seed": 0, "fidelity": {"rungs": [5]}},
}
SEEDS = (1, 2, 3)
WORDS = ("confirm", "gates", "--seeds", "3")


def lines(folder: Path, kind: str) -> list[dict[str, Any]]:
    path = folder / "runs" / "gates" / JOURNAL
    whole = path.read_text().split("\n")[:-1] if path.exists() else []
    return [line for line in map(json.loads, whole) if kind in line]


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("searched")
    done = archsearch(folder, "run", space_file(folder, **SPACE))
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def up(searched: Path) -> Iterator[None]:
    with cluster():
        yield


@pytest.fixture(scope="module")
def killed(searched: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any], str]:
    """Confirmed by two drivers, the first killed and the second interrupted; what both had done; what it said."""
    folder = tmp_path_factory.mktemp("killed") / "folder"
    shutil.copytree(searched, folder)
    process = start(folder, *WORDS)
    wait_for(lambda: lines(folder, "ended"), process)
    kill(process)
    done = len(lines(folder, "ended"))
    with (folder / "runs" / "gates" / JOURNAL).open("a") as file:
        file.write('{"ended": {"seed": 2, "num')  # what a driver leaves that is killed in the middle of a line
    process = start(folder, *WORDS)
    wait_for(lambda: len(lines(folder, "ended")) > done, process)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=100)
    assert process.returncode == 130, said
    assert store.read(folder / "runs" / "gates") is None
    return folder, lines(folder, "ended"), said


@pytest.fixture(scope="module")
def found(killed: tuple[Path, Any, Any], up: None) -> Confirmation:
    found = confirm("gates", asked=Asked(seeds=3), runs=killed[0] / "runs")
    assert found is not None
    assert store.read(killed[0] / "runs" / "gates") == found
    return found


@pytest.fixture(scope="module")
def again(searched: Path, tmp_path_factory: pytest.TempPathFactory, up: None) -> Path:
    folder = tmp_path_factory.mktemp("again") / "folder"
    shutil.copytree(searched, folder)
    return folder


def test_who_was_killed_goes_on_and_nothing_is_trained_twice(
    killed: tuple[Path, list[dict[str, Any]], str], found: Confirmation
) -> None:
    folder, before, _ = killed
    begun, ended = lines(folder, "begun"), lines(folder, "ended")
    assert before == ended[: len(before)]
    assert len({line["ended"]["number"] for line in ended}) == len(ended) == len(begun)
    assert [line["begun"] for line in begun] == list(range(len(begun)))
    assert len(ended) == len(SEEDS) * len(found.contenders)


def test_everybody_has_the_same_seeds_which_the_search_had_not(found: Confirmation, killed: tuple[Path, Any]) -> None:
    study = results.opened(killed[0] / "runs", "gates")
    assert {record.seed for record in study.records()} == {0}
    assert found.seeds == SEEDS
    assert all(tuple(one.seed for one in contender.retrainings) == SEEDS for contender in found.contenders)


def test_members_come_first_then_the_backbones_that_are_none(found: Confirmation, killed: tuple[Path, Any]) -> None:
    front = results.opened(killed[0] / "runs", "gates").front
    trials = [contender.trial for contender in found.contenders]
    assert [trial for trial in trials if trial is not None] == [record.number for record in front.members]
    assert trials[len(front.members) :] == [None] * (len(trials) - len(front.members))
    assert sum(contender.unmodified for contender in found.contenders) == 1
    assert found.images == 359  # a fifth of 1,797
    assert found.gain.startswith(("At no more cost than resnet18", "The front has no changed network"))


def test_the_network_is_what_each_seed_left(found: Confirmation) -> None:
    """Of a contender with gates some have died, and what is told of it is told of what is left."""
    gated = [one for one in found.contenders if not one.unmodified]
    assert gated
    for one in gated:
        assert one.median.network != one.architecture
        whole = next(other for other in found.contenders if other.unmodified)
        assert one.costs["macs"] < whole.costs["macs"]
        assert one.costs["latency_ms"] > 0


def test_what_is_told_is_of_the_test_split(found: Confirmation, killed: tuple[Path, Any]) -> None:
    folder, dataset = killed[0], load_data(data_of(source="digits", image_size=16))
    for one in found.contenders:
        training = one.median
        assert 0.3 < training.values["test_accuracy"] <= 1
        assert training.values["test_accuracy"] * len(dataset.test) == pytest.approx(
            round(training.values["test_accuracy"] * len(dataset.test)), abs=1e-3
        )
        assert training.values.keys() >= {"val_accuracy", "test_calibration_error", "test_corruption_accuracy"}
        span = one.summary["test_accuracy"]
        assert span.mean == pytest.approx(np.mean([each.values["test_accuracy"] for each in one.retrainings]))
        assert span.low < span.mean < span.high or span.half_width == 0
        assert (
            finished(folder / "runs" / "gates" / "confirmed" / str(training.number)) / "model.safetensors"
        ).is_file()


def test_pick_gives_the_median_by_validation(found: Confirmation, killed: tuple[Path, Any], tmp_path: Path) -> None:
    folder = killed[0]
    study = results.opened(folder / "runs", "gates")
    dataset = load_data(data_of(source="digits", image_size=16))
    for record in study.front.members:
        contender = found.of(record.number)
        assert contender is not None
        results.write(study, record, tmp_path / record.network.id)
        model = read_model(tmp_path / record.network.id)
        assert model.architecture == contender.median.network
        for split, name in ((dataset.val, "val_accuracy"), (dataset.test, "test_accuracy")):
            right = model.predict(list(dataset.images[split])).argmax(1).numpy() == dataset.labels[split]
            assert right.mean() == pytest.approx(contender.median.values[name])
        card = (tmp_path / record.network.id / "README.md").read_text()
        span = contender.summary["test_accuracy"]
        words = f"{span.mean:.6g} (95%: {span.low:.6g} to {span.high:.6g})"
        assert f"| test accuracy, mean of 3 trainings on train | {words} |" in card
        kept = folder / "runs" / "gates" / "models" / record.network.id / "model.safetensors"
        assert kept.read_bytes() == (tmp_path / record.network.id / "model.safetensors").read_bytes()


def test_front_shows_it(
    found: Confirmation, killed: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(killed[0])
    for words in (["--json"], []):
        monkeypatch.setattr("sys.argv", ["archsearch", "front", "gates", *words])
        with pytest.raises(SystemExit):
            main()
        out = " ".join(capsys.readouterr().out.split())
        assert all(one.verdict in out for one in found.contenders)
    monkeypatch.setattr("sys.argv", ["archsearch", "front", "gates", "--json"])
    with pytest.raises(SystemExit):
        main()
    told = json.loads(capsys.readouterr().out)
    for point, one in zip(told["points"], found.contenders, strict=False):
        assert point["confirmed"]["summary"]["test_accuracy"]["mean"] == one.summary["test_accuracy"].mean
    assert told["confirmation"]["gain"] == found.gain


def test_in_a_fresh_folder_the_same_seeds_find_the_same(again: Path, found: Confirmation) -> None:
    fresh = confirm("gates", asked=Asked(seeds=2), runs=again / "runs")
    assert fresh is not None
    values = [[dict(one.values) for one in contender.retrainings] for contender in fresh.contenders]
    assert values == [[dict(one.values) for one in contender.retrainings[:2]] for contender in found.contenders]
    networks = [[one.network for one in contender.retrainings] for contender in fresh.contenders]
    assert networks == [[one.network for one in contender.retrainings[:2]] for contender in found.contenders]


def test_on_train_and_val_all_is_trained_anew_and_validation_says_nothing(again: Path) -> None:
    member = results.opened(again / "runs", "gates").front.members[0]
    before = len(lines(again, "begun"))
    more = confirm(
        "gates", asked=Asked(seeds=1, trained_on="train+val", chosen=(member.network.id,)), runs=again / "runs"
    )
    assert more is not None
    assert more.trained_on == "train+val"
    assert [one.trial for one in more.contenders if one.trial is not None] == [member.number]
    assert all("val_accuracy" not in each.values for one in more.contenders for each in one.retrainings)
    assert all(one.verdict == "one seed: no difference is tested" for one in more.contenders)
    assert len(lines(again, "begun")) == before + len(more.contenders)


def test_ctrl_c_says_how_to_go_on(killed: tuple[Path, list[Any], str]) -> None:
    _, done, said = killed
    assert "Interrupted; nothing is lost. To go on:\n  archsearch confirm gates --seeds 3" in said
    assert f"[{len(done)}/6] " in said
    assert "[1/6] " not in said


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"seeds": 0}, "--seeds 0: each is trained at least once"),
        ({"margin": 1.5}, "--margin 1.5 is no difference of accuracies"),
        ({"trained_on": "trian"}, "--train-on: unknown choice 'trian'"),
        ({"chosen": ("0" * 12,)}, "unknown architecture on the front"),
    ],
)
def test_what_cannot_be_asked_is_refused(searched: Path, asked: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        confirm("gates", asked=Asked(**asked), runs=searched / "runs")


def test_a_search_at_work_is_refused(again: Path) -> None:
    lease = Lease(again / "runs" / "gates")
    try:
        with pytest.raises(InputError, match="is being written by another run"):
            confirm("gates", runs=again / "runs")
    finally:
        lease.release()


def test_what_was_not_trained_by_us_is_refused(again: Path, tmp_path: Path) -> None:
    shutil.copytree(again / "runs" / "gates", tmp_path / "gates")
    (tmp_path / "gates" / results.DATA).unlink()
    with pytest.raises(InputError, match="gates cannot be confirmed: its evaluator is the user's own"):
        confirm("gates", runs=tmp_path)


def test_without_a_test_split_nothing_can_be_confirmed(tmp_path: Path) -> None:
    task = opened(space_file(tmp_path, **SPACE, data__test_fraction=0))
    with pytest.raises(InputError, match=r"its data have no test split .* as data.test_fraction: 0.2"):
        confirmable(task)
