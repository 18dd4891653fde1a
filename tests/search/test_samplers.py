"""What each sampler makes of what it is told: of every kind that is no use, it proposes fewer and fewer."""

import os
import subprocess
import sys
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import optuna
import pytest

import spaces
from search.evaluator import Measurement
from search.record import State
from search.samplers import SAMPLERS, make, note, plans
from search.samplers.dialogue import Dialogue
from search.samplers.seeded import derive
from search.samplers.telling import Telling
from search.study import studies
from search.study.study import Study
from search.study.work import Assignment, Idle
from tests.search.plain import Table, drive, plain_space, summary

ROOT = Path(__file__).resolve().parents[2]
ASKS = {"tpe": 120, "nsga2": 240, "gp": 24}  # until a sampler has had time to learn
SEEDS = {"tpe": 3, "nsga2": 2, "gp": 1}


@dataclass(frozen=True, kw_only=True)
class Slope:
    """The better, the dearer; the best lie beyond a bound, or among what fails, or among what is bad.

    Attributes:
        kind: what a proposal of the wrong half of the space comes to.
    """

    kind: State

    def costs(self, architecture):
        return {"macs": sum(architecture.choices.values()) / 18 + 0.01}

    def wrong(self, architecture):
        return architecture.choices["x0"] >= 2

    def accuracy(self, architecture):
        weights = [1.0, 1.4, 1.8, 2.2, 2.6, 3.0]
        size = sum(w * x for w, x in zip(weights, architecture.choices.values(), strict=False)) / 36
        bad = self.kind is State.STOPPED and self.wrong(architecture)
        return size**0.5 * (0.3 if bad else 1.0)


def proposals(sampler, kind, seed, telling=None, asks=None, dimensions=6):
    """The first proposals of a search in one process, on a study in memory."""
    asks, slope = asks or ASKS[sampler], Slope(kind=kind)
    early = kind is State.STOPPED
    file = spaces.load(
        {
            "name": "slope",
            "dimensions": {f"x{i}": [0, 1, 2, 3] for i in range(dimensions)},
            "objectives": {"accuracy": "maximize", "macs": "minimize"},
            "constraints": {"macs": {"max": 0.4}} if kind is State.INFEASIBLE else {},
            "search": {
                "trials": 10_000,
                "sampler": sampler,
                "seed": seed,
                "scheduler": "pareto" if early else "none",
                "fidelity": {"rungs": [3, 9] if early else [9]},
            },
        }
    )
    study = Study(
        Dialogue(
            optuna.create_study(directions=["maximize", "minimize"]),
            sampler=sampler,
            seed=seed,
            trials=asks,
            table=None if telling is None else {**SAMPLERS[sampler].telling, kind: telling},
        ),
        file,
        reference_point={"accuracy": 0.0, "macs": 1.01},
        key="slope",
        data={},
        directory=Path(),
        evaluator=slope,
    )
    while len(study.records()) < asks:
        work = study.next(patience_s=0.0)
        if not isinstance(work, Assignment):
            assert work is Idle.LATER
        elif kind is State.FAILED and slope.wrong(work.architecture):
            study.fail(work.number, "out of memory")
        else:
            train(study, work, slope)
    return list(islice(study.records(), asks))


def train(study, work, slope):
    for rung in work.rungs:
        accuracy = slope.accuracy(work.architecture) * (1 - 0.5 / rung)
        if not study.report(work.number, Measurement(fidelity=rung, values={"accuracy": accuracy})):
            return


def share(records, kind):
    """Of one kind among the last third."""
    last = records[-(len(records) // 3) :]
    if kind is State.STOPPED:  # a rung stops its share whatever is proposed; what is bad shows in the choices
        return sum(record.architecture.choices["x0"] >= 2 for record in last) / len(last)
    return sum(record.state is kind for record in last) / len(last)


def mean_share(sampler, kind, **options):
    seeds = SEEDS[sampler]
    return sum(share(proposals(sampler, kind, seed, **options), kind) for seed in range(seeds)) / seeds


@pytest.fixture(scope="module")
def by_chance():
    """The share of each kind where nothing is learnt."""
    kinds = (State.INFEASIBLE, State.FAILED, State.STOPPED)
    return {kind: share(proposals("random", kind, seed=0, asks=300), kind) for kind in kinds}


@pytest.mark.parametrize("kind", [State.INFEASIBLE, State.FAILED, State.STOPPED])
@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "gp"])
def test_what_is_no_use_is_proposed_less_and_less(sampler, kind, by_chance):
    assert by_chance[kind] > 0.4
    assert mean_share(sampler, kind) < 0.6 * by_chance[kind]


def test_told_fail_duplicates_starve_tpe():
    """256 architectures, of which a third is proposed; the table's own way against the one it replaces."""
    options = {"asks": 90, "dimensions": 4}
    fail = Telling(state=optuna.trial.TrialState.FAIL)
    starved = mean_share("tpe", State.DUPLICATE, telling=fail, **options)
    assert starved > 0.6
    assert mean_share("tpe", State.DUPLICATE, **options) < 0.5 * starved


def test_told_pruned_infeasible_ones_mislead_gp(by_chance):
    pruned = Telling(state=optuna.trial.TrialState.PRUNED, violated=True)
    misled = mean_share("gp", State.INFEASIBLE, telling=pruned)
    assert misled > 0.8 * by_chance[State.INFEASIBLE]


def test_auto_is_one_of_the_samplers():
    sampler, telling, _ = make("auto", seed=0, trials=10)
    assert telling is SAMPLERS["ehvi"].telling
    assert plans("auto") is plans("ehvi") is not plans("tpe")
    assert isinstance(sampler, optuna.samplers.BaseSampler)
    for name, described in SAMPLERS.items():
        assert set(described.telling) == {state for state in State if not state.open}, name
        assert described.about


def test_a_budget_that_is_too_large_for_a_sampler_is_told():
    assert note("gp", 201) == note("gp", None) != ""
    assert "gp may take more than a second a proposal after some 200 trials" in note("gp", 201)
    assert note("gp", 200) == note("tpe", None) == note("auto", 10_000) == ""


def test_derived_seeds_differ_and_do_not_depend_on_the_process():
    assert derive(0, 1, "a") == derive(0, 1, "a") == 1658739381
    assert len({derive(seed, number) for seed in range(20) for number in range(50)}) == 1000


CONDITIONAL = {
    "name": "conditional",
    "data": {"source": "digits"},
    "backbones": [
        "resnet10t",
        {"name": "vit_tiny_patch16_224", "kwargs": {"img_size": 32, "patch_size": 8, "depth": [2, 4]}},
    ],
    "dimensions": {"scaling": ["none", "rezero"], "width": [0.5, 1.0], "sharing": ["none", "stage"]},
    "objectives": {"accuracy": "maximize", "macs": "minimize"},
    "search": {"trials": 13, "seed": 3, "fidelity": {"max": 1}},
}


class Hash(Table):
    """Any architecture of timm's has a cost and an accuracy, without being built."""

    def costs(self, architecture):
        return {"macs": 1.0 + int(architecture.id[:4], 16) % 100}

    def accuracy(self, architecture, epoch):
        return int(architecture.id[4:8], 16) / 16**4


def conditional_search(directory, sampler):
    file = spaces.load({**CONDITIONAL, "search": {**CONDITIONAL["search"], "sampler": sampler}})
    study = studies.begin(directory, file, Hash(), reference_point={"accuracy": 0.0, "macs": 101.0})
    drive(study, Hash())
    study.close()
    return study


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_only_what_there_is_to_choose_reaches_the_sampler(tmp_path, sampler):
    study = conditional_search(tmp_path / "s", sampler)
    depth = "vit_tiny_patch16_224.depth"
    trials = study._dialogue.trials()
    assert {(t.params["backbone"], depth in t.params) for t in trials} == {
        ("resnet10t", False),
        ("vit_tiny_patch16_224", True),
    }
    for trial, record in zip(trials, study.records(), strict=True):
        assert record.architecture.backbone == trial.params["backbone"]
        assert record.architecture.kwargs.get("depth") == trial.params.get(depth)


def test_the_same_seed_proposes_the_same_in_a_fresh_process(tmp_path):
    """A process with another order of its sets, since Python shuffles them by a seed of its own."""
    here = summary(conditional_search(tmp_path / "here", "tpe"))
    code = (
        "import sys, pathlib\n"
        "from tests.search.plain import summary\n"
        "from tests.search.test_samplers import conditional_search\n"
        "print(summary(conditional_search(pathlib.Path(sys.argv[1]), 'tpe')))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "there")],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str(here)


def test_another_seed_proposes_something_else(tmp_path):
    found = []
    for seed in (0, 1):
        study = studies.begin(
            tmp_path / str(seed),
            plain_space(trials=8, seed=seed),
            Table(),
            reference_point={"accuracy": 0.0, "macs": 3.1},
        )
        drive(study, Table())
        found.append([record.architecture.id for record in study.records()])
        study.close()
    assert found[0] != found[1]
