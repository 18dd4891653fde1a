"""Guesses of what a clock would say: to propose by, never to report; and never the last word."""

import random
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from search.costs.predictor import ENOUGH
from search.evaluator import Guess, Measurement, Reading
from search.foresight import Foresight
from search.gate import Gate
from search.record import State
from search.study import studies
from search.study.work import Idle
from search.task import opened
from spaces import Architecture, load
from spaces.schema import Bound
from tests.search.command import space_file


class Proportional:
    """Measures what an architecture's parameters and multiply-accumulates say; counts how often it is asked."""

    def __init__(self, evaluator):
        self.asked, self._evaluator = [], evaluator

    def measure(self, architecture: Architecture) -> Mapping[str, Reading]:
        self.asked.append(architecture.id)
        costs = self._evaluator.costs(architecture)
        time = 1e-6 * costs["macs"] + 1e-7 * costs["params"]
        return {"latency_ms": Reading(value=time), "throughput": Reading(value=1000 / time)}


def test_it_guesses_once_it_has_measured_enough_rates_as_well_as_times(tmp_path: Path) -> None:
    path = space_file(
        tmp_path,
        backbones=["resnet10t"],
        dimensions={"width": {"choices": [0.125, 0.25, 0.5], "per": "stage"}},
        costs={"latency_ms": {}, "throughput": {}},
    )
    task = opened(path)
    assert task.costing is not None
    meter = Proportional(task.evaluator)
    said: list[str] = []
    foresight = Foresight(meter, task.costing, said.append)
    architectures = list(task.space)
    random.Random(0).shuffle(architectures)
    for architecture in architectures[: ENOUGH - 1] * 2:
        foresight.measure(architecture)
    assert foresight.foresee(architectures[-1]) == {}, "the same again teaches nothing"
    for architecture in architectures[ENOUGH - 1 : 50]:
        foresight.measure(architecture)
    asked = len(meter.asked)
    for architecture in architectures[50:]:
        found, truth = foresight.foresee(architecture), Proportional(task.evaluator).measure(architecture)
        assert set(found) == {"latency_ms", "throughput"}
        for name, guess in found.items():
            assert guess.value == pytest.approx(truth[name].value, rel=0.3)
    assert len(meter.asked) == asked, "a guess measures nothing"
    assert len(said) == 2, "once for each cost"
    assert "latency_ms, to propose by: predicted from 50 measured networks; held out, rank correlation" in said[0]


class Guessing:
    """Sizes 0 to 39; latency is the size, guesses are right but for one architecture, which is guessed far too slow."""

    WRONG = 3

    def __init__(self) -> None:
        self.measured: list[int] = []

    def costs(self, architecture: Architecture) -> Mapping[str, float]:
        return {"macs": float(architecture.choices["size"])}

    def measure(self, architecture: Architecture) -> Mapping[str, Reading]:
        self.measured.append(architecture.choices["size"])
        return {"latency_ms": Reading(value=float(architecture.choices["size"]))}

    def foresee(self, architecture: Architecture) -> Mapping[str, Guess]:
        size = architecture.choices["size"]
        return {"latency_ms": Guess(value=1000.0 if size == self.WRONG else float(size), error=0.01)}

    def evaluate(self, architecture: Architecture, fidelity: int, seed: int, checkpoint: Path) -> Iterator[Measurement]:
        yield Measurement(fidelity=fidelity, values={"accuracy": 0.5})


def test_what_is_guessed_to_be_too_slow_is_measured_last(tmp_path: Path) -> None:
    file = load(
        {
            "name": "plain",
            "dimensions": {"size": list(range(200))},
            "objectives": {"accuracy": "maximize", "latency_ms": "minimize"},
            "constraints": {"latency_ms": {"max": 9}},
            "search": {"trials": 200, "sampler": "random", "fidelity": {"max": 1}},
        }
    )
    evaluator = Guessing()
    study = studies.begin(tmp_path, file, evaluator, reference_point={"accuracy": 0.0, "latency_ms": 9.0})
    trained = []
    while not isinstance(work := study.next(), Idle):
        trained.append(work.architecture.choices["size"])
        study.report(work.number, Measurement(fidelity=1, values={"accuracy": 0.5}))
    study.close()
    assert work is Idle.EXHAUSTED
    assert sorted(trained) == list(range(10)), "also the one that was guessed wrong"
    assert all(record.costs["latency_ms"] <= 9 for record in study.records() if record.state is State.COMPLETE)
    hopeful = max(evaluator.measured.index(size) for size in range(10) if size != Guessing.WRONG)
    assert hopeful < 150, "slow ones that the sampler proposed, and none of those that are drawn"
    assert sorted(evaluator.measured) == list(range(200)), "in the end everything is, each once"


def test_the_gate_doubts_only_what_is_far_beyond() -> None:
    gate = Gate(Guessing(), {"latency_ms": Bound(max=9)})
    of_size = {size: Architecture(choices={"size": size}) for size in (8, 9, 10, Guessing.WRONG)}
    assert [gate.promising(of_size[size]) for size in (8, 9, 10)] == [True, True, False]
    assert not gate.promising(of_size[Guessing.WRONG])
    assert gate.check(of_size[Guessing.WRONG]).feasible
    assert gate.promising(of_size[Guessing.WRONG]), "what was measured is known"


def test_what_a_training_leaves_is_counted_and_measured_anew(tmp_path: Path) -> None:
    file = load(
        {
            "name": "plain",
            "dimensions": {"size": [8]},
            "objectives": {"accuracy": "maximize", "latency_ms": "minimize"},
            "search": {"trials": 1, "sampler": "random", "fidelity": {"max": 1}},
        }
    )
    evaluator = Guessing()
    study = studies.begin(tmp_path / "s", file, evaluator, reference_point={"accuracy": 0.0, "latency_ms": 9.0})
    work = study.next()
    assert not isinstance(work, Idle)
    assert study.front.members == ()
    left = Architecture(choices={"size": 5})
    study.report(work.number, Measurement(fidelity=1, values={"accuracy": 0.5}, network=left))
    study.close()
    for found in (study, studies.read(tmp_path / "s")):
        (record,) = found.records()
        assert record.values == {"accuracy": 0.5, "latency_ms": 5.0}
        assert (record.costs["macs"], record.costs["latency_ms"]) == (5.0, 5.0)
        assert record.network == left
    assert evaluator.measured == [8, 5]
