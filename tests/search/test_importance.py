"""Importance of decisions: what an objective really depends on comes first, under a user's name for it."""

import random
from pathlib import Path

import pytest

import spaces
from search.evaluator import Measurement
from search.study import studies
from search.study.importance import LEAST, importance
from search.study.study import Study
from search.study.work import Assignment
from spaces import Architecture
from tests.search.plain import REFERENCE, Table, drive, plain_space


class Peak(Table):
    """Accuracy is decided by `a` alone, best at 3; `b` only spoils it, at 0."""

    def costs(self, architecture: Architecture) -> dict[str, float]:
        return {"macs": 1.0 + float(architecture.choices["stem"])}

    def accuracy(self, architecture: Architecture, epoch: int) -> float:
        return 0.5 + 0.4 * (architecture.choices["a"] == 3) - 0.4 * (architecture.choices["b"] == 0)


def searched(folder: Path, trials: int) -> Study:
    file, evaluator = plain_space(trials=trials, sampler="random", fidelity={"rungs": [6]}), Peak()
    study = studies.begin(folder / "plain", file, evaluator, reference_point={"accuracy": 0.0, "macs": 4.0})
    drive(study, evaluator)
    study.close()
    return studies.read(folder / "plain")


def test_the_decision_that_an_objective_depends_on_comes_first(tmp_path: Path) -> None:
    found = importance(searched(tmp_path, 80))
    assert list(found) == ["accuracy", "macs"]
    assert next(iter(found["accuracy"])) == "a"  # `b` would be first if the worst were taken for the best
    assert found["accuracy"]["a"] > 0.6
    assert next(iter(found["macs"])) == "stem"
    assert found["macs"]["stem"] > 0.9
    for shares in found.values():
        assert sum(shares.values()) == pytest.approx(1)


def test_nothing_is_said_of_few_trials(tmp_path: Path) -> None:
    assert importance(searched(tmp_path, LEAST - 1)) == {}


def test_names_are_a_users_and_a_cost_counts_of_stopped_trials_too(tmp_path: Path) -> None:
    file = spaces.load(
        {
            "name": "named",
            "data": {"source": "digits"},
            "backbones": ["resnet10t", {"name": "vit_tiny_patch16_224", "kwargs": {"depth": [1, 2]}}],
            "dimensions": {"norm": {"choices": ["keep", "group"], "per": "stage"}, "width": [0.5, 1.0]},
            "objectives": {"accuracy": "maximize", "macs": "minimize"},
            "search": {"trials": 40, "seed": 0, "sampler": "random", "fidelity": {"rungs": [2, 6]}},
        }
    )
    rng = random.Random(0)

    class Wide(Table):
        def costs(self, architecture: Architecture) -> dict[str, float]:
            return {"macs": float(architecture.choices["width"])}

    study = studies.begin(tmp_path / "named", file, Wide(), reference_point=REFERENCE)
    while isinstance(work := study.next(), Assignment):
        for rung in work.rungs:
            if not study.report(work.number, Measurement(fidelity=rung, values={"accuracy": rng.random()})):
                break
    found = importance(study)
    counts = study.counts()
    study.close()
    assert counts["stopped"] > 0
    assert next(iter(found["macs"])) == "width"
    assert {"backbone", "width", "norm.1", "norm.4"} <= set(found["macs"])
    assert set(found["macs"]) <= {"backbone", "width", "kwargs.depth", *(f"norm.{stage}" for stage in (1, 2, 3, 4))}
