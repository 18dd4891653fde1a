"""The benchmark of layer attention: its naive form is ours, it runs on tiny images, and its goals add up."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.benchmarks.layer_attention.__main__ import main
from tests.benchmarks.layer_attention.accuracy import paired
from tests.benchmarks.layer_attention.arms import (
    NAIVE,
    NaiveAttention,
    architecture,
    attending,
    close,
    naively,
    network,
)
from tests.benchmarks.layer_attention.goals import OPEN, REACHED, SHORT, goals, summary
from tests.benchmarks.layer_attention.steps import interleaved
from tests.spaces.attended import awake, images_for
from tests.spaces.attended import network as small

pytestmark = pytest.mark.usefixtures("one_thread")

DEPTH, SHALLOW = 38, 29  # four and three blocks a stage


@pytest.mark.parametrize("choice", ["mrla_base", {"kind": "ela", "skip_threshold": 0.5}], ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_the_naive_form_gives_the_same_outputs_and_gradients(choice: object, training: bool) -> None:
    ours = awake(small("resnet", layer_attention=choice)).train(training)
    theirs = naively(ours)
    assert attending(ours) == 7
    assert attending(theirs) == 0
    images = images_for("resnet")
    outputs = [model(images) for model in (ours, theirs)]
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-5)
    for output in outputs:
        output.square().mean().backward()
    gradients = [{name: p.grad for name, p in model.named_parameters()} for model in (ours, theirs)]
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        if gradient is None:  # a query that only ever sees one layer
            assert "query" in name
            continue
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-4, atol=1e-5, msg=name)


def test_the_naive_form_keeps_nothing_between_passes() -> None:
    model = naively(small("resnet", layer_attention="mrla_base")).eval()
    images = images_for("resnet")
    with torch.no_grad():
        before, _, after = (model(batch) for batch in (images, images[:1], images))
    assert torch.equal(before, after)
    assert all(module.stack.values is None for module in model.modules() if isinstance(module, NaiveAttention))


def test_all_arms_of_a_seed_start_from_the_same_trunk() -> None:
    plain, attended = (network(architecture(DEPTH, arm), 4, seed=3) for arm in ("plain", "mrla_base"))
    weights = attended.state_dict()
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, weights[name]), name


@pytest.mark.parametrize(("share", "closed"), [(0.0, 0), (0.25, 3), (0.5, 6), (0.75, 6)])
def test_gates_are_closed_up_to_a_share_of_all_layers(share: float, closed: int) -> None:
    """12 layers, of which the third and fourth of each stage can be skipped."""
    model = network(architecture(DEPTH, "ela"), 4, seed=0)
    assert close(model, share) == closed / 12
    assert sum(model.skip_controller.skipped) == closed
    close(model, 0.0)
    assert not any(model.skip_controller.skipped)


def test_depths_are_of_the_form_9n_plus_2() -> None:
    with pytest.raises(SystemExit, match=r"depth 30 is not of the form 9n \+ 2, as 20, 56, 110 and 38 are"):
        architecture(30, "plain")


def test_runs_take_turns() -> None:
    calls: list[str] = []
    runs = {name: lambda name=name: calls.append(name) for name in "abc"}
    times = interleaved(runs, 2, lambda: None)
    assert "".join(calls) == "abc" * 3  # once before it counts
    assert {name: len(each) for name, each in times.items()} == {"a": 2, "b": 2, "c": 2}


def step(overhead: float, **more: Any) -> dict[str, Any]:
    return {"train_step_ms": 10 + overhead, "overhead_ms": [overhead] * 3, "skipped_share": 0.0, **more}


def training(arm: str, seed: int, accuracy: float, seconds: float = 1.0, share: float = 0.0) -> dict[str, Any]:
    return {
        "depth": 56,
        "arm": arm,
        "seed": seed,
        "accuracy": accuracy,
        "train_seconds": seconds,
        "skipped_share": share,
    }


def steps_of(base: float, naive: float, ela: float) -> dict[str, Any]:
    difference = {"max_abs_difference": 2e-6, "max_abs_differences": {"double": 1e-15}, "largest_logit": 3.0}
    by_share = {"0.5": step(ela) | {"skipped_share": 0.5}}
    return {
        "plain": step(0.0),
        NAIVE: step(naive),
        "mrla_base": step(base, **difference),
        "ela": step(ela, by_share=by_share),
    }


def verdicts(steps: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for goal in goals(summary(steps, rows), rows, 1000):
        if goal["depth"] == 56:
            found.setdefault(goal["goal"].partition(" at ")[0], []).append(goal["verdict"])
    return found


def test_what_was_not_measured_is_said_so() -> None:
    assert {word for words in verdicts({}, []).values() for word in words} == {OPEN}


@pytest.mark.parametrize(("base", "ela", "expected"), [(3.0, 1.8, (REACHED, REACHED)), (3.1, 1.9, (SHORT, SHORT))])
def test_overheads_are_held_against_the_naive_form_and_the_skipped_share(
    base: float, ela: float, expected: tuple[str, str]
) -> None:
    """A third of 9 is 3; with half of the layers skipped 0.6 of 3 and of 3.1 are 1.8 and 1.86."""
    found = verdicts({"56": steps_of(base, 9.0, ela)}, [])
    assert found["overhead of mrla_base"] == [expected[0]]
    assert found["overhead of ela"] == [expected[1]]
    assert found["outputs equal to 1e-05"] == [REACHED]
    assert found["ela's step"] == [REACHED]  # 11.8 and 11.9 of 19 ms


@pytest.mark.parametrize(
    ("seconds", "accuracy", "seeds", "expected"),
    [(0.7, 0.496, 5, REACHED), (0.71, 0.5, 5, SHORT), (0.7, 0.494, 5, SHORT), (0.7, 0.5, 4, OPEN)],
)
def test_trainings_are_held_against_time_and_accuracy(
    seconds: float, accuracy: float, seeds: int, expected: str
) -> None:
    rows = [training("ela", seed, accuracy, seconds, 0.5) for seed in range(seeds)]
    rows += [training(arm, seed, 0.5) for arm in ("mrla_base", NAIVE, "random") for seed in range(seeds)]
    assert verdicts({}, rows)["ela's training"] == [expected]
    better = REACHED if accuracy >= 0.5 else SHORT
    rules = verdicts({}, rows)["the beta quantile"]
    assert rules == [OPEN, better if seeds >= 5 else OPEN]  # percentile was not trained


def test_what_diverged_is_not_fast_and_what_was_copied_is_no_comparison() -> None:
    rows = [training("ela", seed, 0.5, 0.6, 0.5) for seed in range(5)]
    rows += [training(arm, seed, 0.5) for arm in ("mrla_base", NAIVE) for seed in range(5)]
    rows += [training("random", seed, 0.4) | {"same_network_as": "ela"} for seed in range(5)]
    assert verdicts({}, rows) | {"ela's training": [REACHED]} == verdicts({}, rows)
    assert verdicts({}, rows)["the beta quantile"] == [OPEN, OPEN]
    rows[:5] = [row | {"diverged": "at once", "train_seconds": 0.0} for row in rows[:5]]
    assert verdicts({}, rows)["ela's training"] == [OPEN]


def test_differences_are_of_the_seeds_that_both_have() -> None:
    rows = [training("ela", seed, accuracy) for seed, accuracy in ((0, 0.50), (1, 0.52), (7, 0.9))]
    rows += [training("mrla_base", seed, 0.5) for seed in (0, 1, 2)]
    found = paired(rows, "ela", "mrla_base", 1000)
    assert found is not None
    assert found["n"] == 2
    assert found["points"] == pytest.approx(1.0)
    assert found["low"] < 0 < found["high"]
    assert paired(rows, "ela", "plain", 1000) is None


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    draw = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("images") / "tiny.npz"
    parts = {}
    for name, count in (("train", 40), ("test", 8)):
        parts[f"{name}_images"] = draw.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        parts[f"{name}_labels"] = np.arange(count) % 4
    np.savez(path, **parts)
    return path


def benchmark(tiny: Path, out: Path, *more: str) -> dict[str, Any]:
    sizes = ["--images", "16", "--test-images", "8", "--epochs", "3", "--batch", "8", "--rounds", "1"]
    depths = ["--depths", str(SHALLOW), "--accuracy-depths", str(SHALLOW)]
    machine = ["--step-batch", "8", "--threads", "1", "--device", "cpu"]
    main(["--quick", "--data", str(tiny), *sizes, *depths, *machine, "--json", str(out), *more])
    content: dict[str, Any] = json.loads(out.read_text())
    return content


def test_it_measures_everything_and_goes_on_from_what_is_there(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arms = ["plain", NAIVE, "mrla_base", "ela", "percentile", "random"]
    first = benchmark(tiny, tmp_path / "out.json", "--seeds", "0", "--arms", *arms)
    assert [row["arm"] for row in first["trainings"]] == arms
    rows = first["depths"][str(SHALLOW)]
    assert rows["mrla_base"]["max_abs_difference"] < 1e-5
    assert rows["ela"]["max_abs_difference"] < 1e-5
    assert rows["plain"]["overhead_ms"] == [0.0, 0.0, 0.0]
    assert rows["plain"]["peak_bytes"] < rows["mrla_base"]["peak_bytes"] < rows[NAIVE]["peak_bytes"]
    for name in ("train_step_ms", "train_seconds", "accuracy", "peak_bytes", "skipped_share"):
        assert all(name in rows[arm] for arm in ("plain", NAIVE, "mrla_base", "ela")), name
    assert first["seeds"] == [0]
    assert {goal["verdict"] for goal in first["goals"]} <= {REACHED, SHORT, OPEN}
    assert set(first["versions"]) >= {"torch", "timm", "python"}
    capsys.readouterr()

    second = benchmark(tiny, tmp_path / "out.json", "--resume", "--seeds", "0", "1", "--arms", "plain", "mrla_base")
    assert second["trainings"][: len(arms)] == first["trainings"]
    assert [(row["arm"], row["seed"]) for row in second["trainings"][len(arms) :]] == [("mrla_base", 1), ("plain", 1)]
    assert second["steps"] == first["steps"]
    assert "not measured" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"was made with --lr 0\.02, not 0\.5; write another file"):
        benchmark(tiny, tmp_path / "out.json", "--resume", "--lr", "0.5")


def test_data_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"nowhere\.npz is not there: CIFAR-10 images as \.npz are needed; say --data"):
        main(["--data", str(tmp_path / "nowhere.npz"), "--json", str(tmp_path / "out.json")])
