"""The section `costs`: what may be written, what it means, and every mistake in it."""

from pathlib import Path

import pytest

from spaces.schema import KINDS, CostEntry, load
from tests.spaces.space_files import PLAIN, refused, written


def with_costs(folder: Path, costs: str) -> Path:
    return written(folder, "  params: {max: 3.0e6}\n", f"  params: {{max: 3.0e6}}\ncosts:\n  {costs}\n")


def test_settings_come_under_the_name_of_a_cost_or_under_another(tmp_path: Path) -> None:
    text = "latency_ms: {batch: 8}\n  gpu: {cost: latency_ms, device: cuda}\n  flash_kb: mine.flash:estimate"
    file = load(with_costs(tmp_path, text))
    assert file.costs == {
        "latency_ms": CostEntry(cost="latency_ms", batch=8),
        "gpu": CostEntry(cost="latency_ms", device="cuda"),
        "flash_kb": CostEntry(function="mine.flash:estimate"),
    }
    assert load(file.to_dict()) == file


@pytest.mark.parametrize("kind", KINDS)
def test_every_cost_may_be_named_and_is_read_back(tmp_path: Path, kind: str) -> None:
    file = load(with_costs(tmp_path, f"{kind}: {{}}"))
    assert load(file.to_dict()) == file
    plain = file.to_dict()["costs"][kind]
    assert set(plain) <= {"cost", *KINDS[kind]}


MISTAKES = [
    # what stands there, key, message
    ("latency: {}", "costs.latency.cost", "unknown cost 'latency'; did you mean 'latency_ms'?"),
    ("x: {cost: mac}", "costs.x.cost", "unknown cost 'mac'; did you mean 'macs'?"),
    (
        "latency_ms: {bach: 3}",
        "costs.latency_ms.bach",
        "did you mean 'batch'? (allowed: batch, cost, device, dtype, image",
    ),
    ("latency_ms: {kinds: [jpeg]}", "costs.latency_ms.kinds", "kinds is no setting of latency_ms; allowed: device, "),
    ("params: {batch: 3}", "costs.params.batch", "batch is no setting of params; allowed: nothing"),
    ("train_seconds: {runtime: compile}", "costs.train_seconds.runtime", "runtime is no setting of train_seconds"),
    ("latency_ms: {device: gpu}", "costs.latency_ms.device", "unknown value 'gpu'; did you mean 'cpu'?"),
    ("latency_ms: {threads: 0}", "costs.latency_ms.threads", "0 is not a whole number of at least 1"),
    ("latency_ms: {spread: 0}", "costs.latency_ms.spread", "0 is not a number above 0"),
    ("x: {cost: [1]}", "costs.x.cost", "is not text"),
    ("latency_ms: 3", "costs.latency_ms", "3 is neither settings such as {batch: 8} nor a function"),
    (
        "latency_ms: {runtime: onnxruntime, dtype: float16}",
        "costs.latency_ms.dtype",
        "float16 is not run by onnxruntime; allowed is float32",
    ),
    ("macs: mine:count", "costs.macs", "macs has its meaning already"),
    ("accuracy: mine:count", "costs.accuracy", "accuracy has its meaning already"),
    ("macs: {cost: params}", "costs.macs", "macs has its meaning already"),
    ("flash_kb: mine.flash", "costs.flash_kb", "'mine.flash' does not name a function"),
    ("flash_kb: __import__('os')", "costs.flash_kb", "does not name a function; for example mypackage"),
    ("flash_kb: {function: os:getcwd}", "costs.flash_kb.function", "a function is written alone"),
    ("flash-kb: mine:estimate", "costs.flash-kb", "'flash-kb' is not a name"),
    (
        "corruption_accuracy: {kinds: [jpg]}",
        "costs.corruption_accuracy.kinds[0]",
        "unknown value 'jpg'; did you mean 'jpeg'?",
    ),
    ("corruption_accuracy: {kinds: []}", "costs.corruption_accuracy.kinds", "an empty list; give at least one"),
    (
        "corruption_accuracy: {severities: [6]}",
        "costs.corruption_accuracy.severities[0]",
        "6 is not a whole number of at least 1 and at most 5",
    ),
]


@pytest.mark.parametrize(("costs", "key", "message"), MISTAKES, ids=[row[0] for row in MISTAKES])
def test_a_mistake_is_told_with_its_place_and_what_is_allowed(
    tmp_path: Path, costs: str, key: str, message: str
) -> None:
    error = refused(with_costs(tmp_path, costs))
    assert (error.key, error.line) == (key, 22)
    assert message in error.reason


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        ("macs: maximize", "macs is better the lower it is; allowed is minimize"),
        ("throughput: minimize", "throughput is better the higher it is; allowed is maximize"),
        ("calibration_error: maximize", "calibration_error is better the lower it is; allowed is minimize"),
    ],
)
def test_nobody_wants_a_dear_network(tmp_path: Path, objective: str, message: str) -> None:
    error = refused(written(tmp_path, "macs: minimize", objective))
    assert (error.key, error.reason) == ("objectives." + objective.partition(":")[0], message)


def test_a_space_without_networks_has_no_costs_of_networks() -> None:
    assert refused({**PLAIN, "costs": {"latency_ms": {}}}).key == "costs"
    assert load({**PLAIN, "objectives": {"macs": "maximize"}}).objectives == {"macs": "maximize"}
