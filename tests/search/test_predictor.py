"""A time predicted from what a network does: exact where times are sums, and against latencies that were measured.

`latencies.json` has 60 networks of catalog spaces, measured one by one on an idle machine; what it was is said there.
"""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import nn

from search.costs import macs
from search.costs.predictor import ENOUGH, Predictor, features
from spaces import Architecture, InputError, build

MEASURED = json.loads(Path(__file__).with_name("latencies.json").read_text())["networks"]


@cache
def measured() -> tuple[tuple[dict[str, float], ...], tuple[float, ...]]:
    found = []
    for row in MEASURED:
        with torch.device("meta"):
            model = build(Architecture.from_dict(row["architecture"]), 10, 1)
        found.append(features(model, (1, row["side"], row["side"])))
    return tuple(found), tuple(row["latency_ms"] for row in MEASURED)


def test_features_of_one_layer_each() -> None:
    model = nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=2), nn.Conv2d(8, 8, 1, groups=8), nn.ReLU()
    )
    assert features(model, (4, 5, 6)) == {
        "params": 8 * 4 * 9 + 8 + 8 * 4 * 9 + 8 + 8 + 8,
        "convolution_calls": 1,
        "convolution_numbers": 8 * 30,
        "convolution_macs": 30 * 8 * 4 * 9,
        "grouped_calls": 1,
        "grouped_numbers": 8 * 30,
        "grouped_macs": 30 * 8 * 4 * 9,
        "depthwise_calls": 1,
        "depthwise_numbers": 8 * 30,
        "depthwise_macs": 30 * 8,
        "relu_calls": 1,
        "relu_numbers": 8 * 30,
    }


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "vit_tiny_patch16_224"])
def test_features_have_all_the_work_and_need_no_weights(name: str) -> None:
    with torch.device("meta"):
        empty = timm.create_model(name)
    model = timm.create_model(name).train()
    found = features(model, (3, 224, 224))
    assert found == features(empty, (3, 224, 224))
    assert sum(value for key, value in found.items() if key.endswith("_macs")) == macs(model, (3, 224, 224))
    assert model.training
    assert next(model.parameters()).device.type == "cpu"


def test_a_sum_of_operations_is_found_again() -> None:
    rng = np.random.default_rng(0)
    seen = [{"relu_calls": float(a), "mm_macs": float(b)} for a, b in rng.integers(1, 100, (60, 2))]
    times = [0.5 + 0.02 * each["relu_calls"] + 0.003 * each["mm_macs"] for each in seen]
    predictor = Predictor.fit(seen[:40], times[:40])
    np.testing.assert_allclose(predictor.predict(seen[40:]), times[40:], rtol=0.02)
    assert predictor.kendall > 0.97
    assert predictor.error < 0.01
    assert str(predictor).startswith("predicted from 40 measured networks; held out, rank correlation (Kendall) ")


def test_what_has_nothing_to_do_with_it_is_not_learnt() -> None:
    """The error that is printed is of networks held out: one that is fitted would look better."""
    rng = np.random.default_rng(0)
    seen = [{f"kind{index}_calls": float(value) for index, value in enumerate(row)} for row in rng.random((30, 40))]
    predictor = Predictor.fit(seen, list(rng.uniform(1, 10, 30)))
    assert abs(predictor.kendall) < 0.5
    assert predictor.error > 0.2


def test_measured_latencies_are_ranked() -> None:
    seen, times = measured()
    predictor = Predictor.fit(seen, times)
    assert predictor.kendall > 0.85
    assert predictor.error < 0.06


def test_from_so_many_as_are_enough_others_are_ranked_better_than_by_macs() -> None:
    seen, times = measured()
    order = np.random.default_rng(0).permutation(len(times)).tolist()
    fitted, others = order[:ENOUGH], order[ENOUGH:]
    predictor = Predictor.fit([seen[index] for index in fitted], [times[index] for index in fitted])
    work = [sum(value for key, value in seen[index].items() if key.endswith("_macs")) for index in others]
    truth = np.array([times[index] for index in others])
    assert concordant(predictor.predict([seen[index] for index in others]), truth) > 0.9
    assert concordant(np.array(work), truth) < 0.75


def concordant(one: np.ndarray, two: np.ndarray) -> float:
    """The share of pairs in the same order."""
    upper = np.triu_indices(len(one), 1)
    same = np.sign(one[:, None] - one)[upper] == np.sign(two[:, None] - two)[upper]
    return float(same.mean())


def test_an_operation_that_a_network_does_not_have_takes_nothing() -> None:
    seen, times = measured()
    predictor = Predictor.fit(seen, times)
    padded = {**seen[0], "never_seen_calls": 5.0}
    assert predictor.predict([padded]) == predictor.predict([seen[0]])


@pytest.mark.parametrize(
    ("count", "value", "message"),
    [
        (ENOUGH - 1, 1.0, f"{ENOUGH} at least"),
        (ENOUGH, float("nan"), "a finite number above 0"),
        (ENOUGH, 0.0, "a finite number above 0"),
    ],
)
def test_what_cannot_be_predicted_from(count: int, value: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Predictor.fit([{"relu_calls": float(index)} for index in range(count)], [value] * count)
