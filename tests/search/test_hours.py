"""Hours of a search from seconds of a step: cases with a closed form, and rungs played through against a real study."""

import json
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from search.pareto import Objectives
from search.planning import tables
from search.planning.game import Candidate, Game
from search.planning.hours import Estimate, Pace, Range, Terms, estimate, validation_share
from search.record import State
from search.study import studies
from spaces import InputError
from spaces.schema import Search
from tests.search.plain import REFERENCE, Table, drive, plain_space

BOTH = Objectives(directions={"accuracy": "maximize", "macs": "minimize"})
ALIKE = [Candidate(costs={"macs": 1e6}, epoch_s=2.0)]
SPREAD = [Candidate(costs={"macs": 1e6 * size}, epoch_s=float(size)) for size in range(1, 41)]


def search(**given: Any) -> Search:
    return Search.model_validate({"fidelity": {"rungs": [3, 9], "reduction": 3}, **given})


def flat(value: float) -> Range:
    return Range(low=value, middle=value, high=value)


def pace(measured: Mapping[float, float]) -> Pace:
    return Pace({"b": measured})


def test_a_pace_goes_through_what_was_measured() -> None:
    found = pace({1.6e7: 0.8, 1e6: 0.1, 4e6: 0.2})
    for macs, seconds in {1e6: 0.1, 2e6: 0.1 * math.sqrt(2), 4e6: 0.2, 8e6: 0.4, 1.6e7: 0.8}.items():
        assert found.seconds("b", macs) == pytest.approx(seconds)


def test_a_pace_beyond_what_was_measured() -> None:
    found = pace({1e6: 0.1, 1e7: 0.2})
    assert found.seconds("b", 1e3) == pytest.approx(0.1)
    assert found.seconds("b", 0) == pytest.approx(0.1)
    assert found.seconds("b", 3e7) == pytest.approx(0.6)
    assert pace({1e6: 0.1}).seconds("b", 2e6) == pytest.approx(0.2)


def test_a_larger_network_never_takes_less() -> None:
    found = pace({1e6: 0.4, 4e6: 0.1, 1.6e7: 0.8})
    assert found.seconds("b", 1e6) == found.seconds("b", 4e6) == pytest.approx(0.2)  # the mean of the logarithms
    assert found.seconds("b", 1.6e7) == pytest.approx(0.8)


def test_each_backbone_has_its_own_pace() -> None:
    found = Pace({"a": {1: 1, 9: 9}, "b": {1: 4, 9: 36}})
    assert found.seconds("a", 3) == pytest.approx(3)
    assert found.seconds("b", 3) == pytest.approx(12)
    assert found.seconds("c", 1) == pytest.approx(2)  # between a and b


@pytest.mark.parametrize("measured", [{}, {0.0: 1.0}, {1e6: 0.0}, {1e6: math.nan}])
def test_what_is_no_pace(measured: dict[float, float]) -> None:
    with pytest.raises(InputError, match="a pace needs macs and seconds above 0"):
        pace(measured)


def test_where_nobody_is_stopped_all_is_known() -> None:
    """10 trials of 9 epochs of 2 s, each validated twice for a tenth of an epoch and started once in 0.5 s."""
    terms = Terms(validation=0.1, start_s=0.5, devices=4)
    found = estimate(search(trials=10, scheduler="none"), BOTH, ALIKE, terms)
    device_s = 10 * (9 * 2 + 2 * 0.1 * 2 + 0.5)
    assert (found.ends, found.trials, found.complete, found.epochs) == ("trials", flat(10), flat(10), flat(90))
    assert found.device_hours.middle == pytest.approx(device_s / 3600)
    assert found.hours.high == pytest.approx(device_s / 3600 / 4)


def test_the_confirmation_trains_the_front() -> None:
    """Of networks that cost the same the most accurate one is the front."""
    found = estimate(search(trials=10), BOTH, ALIKE, Terms(validation=0.5, start_s=1.0, seeds=3))
    assert (found.front, found.seeds) == (flat(1), 3)
    assert found.confirmation_device_hours.middle == pytest.approx(3 * ((9 + 0.5) * 2 + 1) / 3600)


@pytest.mark.parametrize("scheduler", ["pareto", "asha"])
@pytest.mark.parametrize("trials", [1, 2, 9, 30])
def test_one_in_so_many_goes_on(scheduler: str, trials: int) -> None:
    """As many as the rule keeps, and at most as many again, who went on before better ones came."""
    found = estimate(search(trials=trials, scheduler=scheduler), BOTH, SPREAD, Terms())
    kept = math.ceil(trials / 3)
    for complete in (found.complete.low, found.complete.middle, found.complete.high):
        assert kept <= complete <= min(trials, 2 * kept)
    assert found.epochs.middle == pytest.approx(3 * trials + 6 * found.complete.middle)


def test_more_trials_than_are_played_train_in_the_same_proportions() -> None:
    few, many = (estimate(search(trials=trials), BOTH, SPREAD, Terms()) for trials in (100, 1000))
    assert many.epochs.middle == pytest.approx(10 * few.epochs.middle)
    assert many.device_hours.high == pytest.approx(10 * few.device_hours.high)


def test_the_range_is_of_a_search_that_keeps_to_one_half() -> None:
    found = estimate(search(trials=40, scheduler="none"), BOTH, SPREAD, Terms())
    low, middle, high = (
        3600 * hours / (40 * 9)
        for hours in (found.device_hours.low, found.device_hours.middle, found.device_hours.high)
    )
    assert low == pytest.approx(10.5, abs=2.5)  # the mean of 1 to 20, from 200 draws
    assert middle == pytest.approx(20.5, abs=4)
    assert high == pytest.approx(30.5, abs=2.5)


def test_hours_say_how_many_trials_fit() -> None:
    """A trial takes 18 s: 200 of them fit into an hour, 800 into one of four devices."""
    found = estimate(search(device_hours=1, scheduler="none"), BOTH, ALIKE, Terms())
    assert (found.ends, found.trials, found.device_hours) == ("device_hours", flat(200), flat(1.0))
    found = estimate(search(hours=1, scheduler="none"), BOTH, ALIKE, Terms(devices=4))
    assert (found.ends, found.trials, found.hours) == ("hours", flat(800), flat(1.0))
    found = estimate(search(hours=1, trials=100, scheduler="none"), BOTH, ALIKE, Terms(devices=4))
    assert (found.ends, found.trials, found.hours.middle) == ("trials", flat(100), pytest.approx(100 * 18 / 3600 / 4))
    found = estimate(search(device_hours=0.02, scheduler="none"), BOTH, ALIKE, Terms())
    assert (found.trials, found.device_hours) == (flat(4), flat(0.02))


def test_there_are_no_more_trials_than_architectures() -> None:
    found = estimate(search(trials=50, scheduler="none"), BOTH, ALIKE, Terms(architectures=7))
    assert (found.ends, found.trials) == ("architectures", flat(7))


def test_nothing_to_estimate_from() -> None:
    with pytest.raises(InputError, match="at least one architecture that may be trained"):
        estimate(search(trials=5), BOTH, [], Terms())


def test_a_validation_is_one_way_of_three() -> None:
    assert validation_share(900, 300) == pytest.approx(1 / 9)
    assert validation_share(900, 300, recalibrated=2048) == pytest.approx((300 + 900) / 900 / 3)


@pytest.mark.parametrize(("trials", "reduction", "scheduler"), [(40, 2, "pareto"), (40, 3, "pareto"), (30, 3, "asha")])
def test_as_many_epochs_as_a_study_trains(tmp_path: Path, trials: int, reduction: int, scheduler: str) -> None:
    file = plain_space(
        trials=trials, sampler="random", scheduler=scheduler, fidelity={"rungs": [2, 6], "reduction": reduction}
    )
    study = studies.begin(tmp_path / "study", file, Table(), reference_point=REFERENCE)
    drive(study, Table())
    trained = sum(record.fidelity for record in study.records() if record.state.counts)
    complete = study.counts()[State.COMPLETE]
    pool = [
        Candidate(costs=record.costs, epoch_s=1 + record.costs["macs"])
        for record in study.records()
        if record.state.counts
    ]
    study.close()
    games = [Game(file.search, study.objectives, pool, trials, random.Random(seed)) for seed in range(20)]
    assert mean([sum(game.epochs) for game in games]) == pytest.approx(trained, rel=0.15)
    assert mean([game.complete for game in games]) == pytest.approx(complete, rel=0.3)


@pytest.mark.parametrize("rungs", [[1, 9], [1, 3, 9, 27]])
def test_as_many_epochs_as_a_sampler_that_plans_trains_at_most(tmp_path: Path, rungs: list[int]) -> None:
    file = plain_space(trials=27, sampler="ehvi", fidelity={"rungs": rungs, "reduction": 3})
    study = studies.begin(tmp_path / "study", file, Table(), reference_point=REFERENCE)
    drive(study, Table())
    trained = sum(record.fidelity for record in study.records() if record.state.counts)
    pool = [Candidate(costs=r.costs, epoch_s=1 + r.costs["macs"]) for r in study.records() if r.state.counts]
    study.close()
    games = [Game(file.search, study.objectives, pool, 27, random.Random(seed)) for seed in range(20)]
    assert 0.6 < trained / mean([sum(game.epochs) for game in games]) <= 1.0


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def test_as_data_and_as_a_table() -> None:
    found: Estimate = estimate(search(device_hours=1), BOTH, SPREAD, Terms())
    again = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert again["trials"]["low"] <= again["trials"]["middle"] <= again["trials"]["high"]
    console = Console(width=100)
    with console.capture() as capture:
        console.print(tables.hours_table(found))
    assert "the search ends by device hours" in capture.get()
    assert "device hours of 5 more trainings of each member" in capture.get()
