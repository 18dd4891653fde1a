"""What a search takes over from an earlier one: its values where they hold, its order where they do not."""

from collections import Counter

import pytest

import spaces
from search.record import State
from search.run import run
from search.study import studies
from search.study.study import Study
from search.study.warm_start import leading_to, warm_start
from spaces import InputError, SearchSpace
from tests.search.command import TINY
from tests.search.plain import REFERENCE, RUNGS, Table, checkpoint, drive, plain_space, summary

SMALL = {"stem": [0, 1, 2], "a": [0, 1, 2, 3], "b": [0, 1, 2, 3], "c": [0, 1]}
DATA = {"hash of the images": "1"}


@pytest.fixture
def begin(tmp_path):
    opened = []

    def begin(name, *, earlier=None, data=DATA, **options):
        file = plain_space(**options)
        start = None if earlier is None else warm_start(earlier, SearchSpace(file), data)
        study = studies.begin(tmp_path / name, file, Table(), reference_point=REFERENCE, data=data, start=start)
        opened.append(study)
        return study, start

    yield begin
    for study in opened:
        study.close()


@pytest.fixture
def earlier(begin):
    study, _ = begin("earlier", trials=20, dimensions=SMALL)
    drive(study, Table())
    study.close()
    return study


def known(study):
    return {r.architecture.id: r for r in study.records() if r.state in (State.COMPLETE, State.STOPPED)}


def test_known_values_are_taken_over_and_cost_nothing(begin, earlier):
    study, start = begin("s", earlier=earlier, trials=6, dimensions={**SMALL, "c": [0, 1, 2]})
    before = known(earlier)
    assert len(start.known) == 20
    assert start.note == "from earlier: 20 trials whose values hold here; 0 of its 20 are not in this space"
    inherited = known(study)
    assert inherited.keys() == before.keys()
    for identity, record in inherited.items():
        old = before[identity]
        assert record.origin == f"earlier/{old.number}"
        assert (record.state, record.values, record.costs, record.history, record.seed) == (
            old.state,
            old.values,
            old.costs,
            old.history,
            old.seed,
        )
        assert record.device_s == 0
    assert study.front.hypervolume == earlier.front.hypervolume
    assert study.spent == {"trials": 0.0}
    assert study.remaining == 6
    drive(study, Table())
    assert sum(r.state.counts and r.origin is None for r in study.records()) == 6
    assert max(Counter(r.architecture.id for r in study.records() if r.state.counts).values()) == 1
    assert study.front.hypervolume >= earlier.front.hypervolume


def test_what_is_inherited_is_judged_with_at_the_rungs(begin, earlier):
    study, _ = begin("s", earlier=earlier, trials=6, dimensions=SMALL)
    drive(study, Table())
    stopped = [r for r in study.records() if r.state is State.STOPPED and r.origin is None]
    assert stopped
    assert {r.reason for r in stopped} == {f"not in the best 1/2 of 26 trials at epoch {RUNGS[0]}"}


def test_the_sampler_begins_where_the_earlier_one_ended(begin, earlier):
    """Not with ten random proposals: 16 of 96 are within reach of the best, and half of the first six are."""
    study, _ = begin("s", earlier=earlier, trials=6, dimensions=SMALL, sampler="tpe")
    cold, _ = begin("cold", trials=6, dimensions=SMALL, sampler="tpe")
    asked = []
    for searched in (study, cold):
        drive(searched, Table())
        asked.append([r.architecture.id for r in searched.records() if r.state.counts and r.origin is None])
    assert asked[0] != asked[1]
    assert not set(asked[0]) & {r.architecture.id for r in earlier.records()}


def test_a_crash_on_the_way_is_made_good(begin, earlier, tmp_path, monkeypatch):
    inherit, count = Study.inherit, [0]

    def dies(self, *given):
        count[0] += 1
        if count[0] == 8:
            raise KeyboardInterrupt
        return inherit(self, *given)

    monkeypatch.setattr(Study, "inherit", dies)
    with pytest.raises(KeyboardInterrupt):
        begin("s", earlier=earlier, trials=6, dimensions=SMALL)
    monkeypatch.setattr(Study, "inherit", inherit)
    assert not studies.exists(tmp_path / "s")
    study, _ = begin("s", earlier=earlier, trials=6, dimensions=SMALL)
    other, _ = begin("other", earlier=earlier, trials=6, dimensions=SMALL)
    assert summary(study) == summary(other)
    assert [r.origin for r in study.records()] == [r.origin for r in other.records()]
    study.close()
    resumed = studies.resume(tmp_path / "s", plain_space(trials=6, dimensions=SMALL), Table(), data=DATA)
    for searched in (resumed, other):
        drive(searched, Table())
    assert summary(resumed) == summary(other)
    resumed.close()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"data": {"hash of the images": "2"}}, "other data"),
        ({"fidelity": {"rungs": [2, 8], "reduction": 2}}, "other rungs"),
    ],
)
def test_elsewhere_only_the_order_is_taken_over(begin, earlier, options, why):
    study, start = begin("s", earlier=earlier, trials=12, dimensions=SMALL, **options)
    assert start.note.startswith(f"from earlier: its values do not hold here ({why}), its 3 best are tried first")
    assert study.records() == []
    drive(study, Table())
    first = [r.architecture.id for r in study.records()[:3]]
    front = [r.architecture.id for r in earlier.front.members]
    assert first[0] == front[0]
    assert set(first) <= set(front)
    assert sum(r.state.counts for r in study.records()) == 12


def test_what_the_new_space_does_not_have_or_allow_stays_behind(begin, earlier):
    study, start = begin("s", earlier=earlier, trials=3, dimensions={**SMALL, "a": [0, 1]})
    kept = known(study)
    assert kept
    assert all(r.architecture.choices["a"] < 2 for r in kept.values())
    assert len(start.known) == sum(r.architecture.choices["a"] < 2 for r in known(earlier).values())


def test_weights_that_are_gone_are_trained_again(begin, earlier, tmp_path):
    member = earlier.front.members[0]
    for path in (checkpoint(earlier, member.number)).iterdir():
        path.unlink()
    checkpoint(earlier, member.number).rmdir()
    study, start = begin("s", earlier=earlier, trials=3, dimensions=SMALL)
    assert member.architecture.id not in known(study)
    assert len(start.first) == 1
    drive(study, Table())
    assert study.records()[len(start.known)].architecture.id == member.architecture.id


def test_an_architecture_is_found_in_a_space_that_asks_otherwise():
    common = {"data": {"source": "digits"}, "objectives": {"accuracy": "maximize"}}
    common["search"] = {"trials": 3, "fidelity": {"max": 1}}
    old = spaces.load(
        {"name": "old", **common, "backbones": ["resnet10t"], "dimensions": {"width": [0.5, 1.0], "norm": ["keep"]}}
    )
    new = spaces.load(
        {
            "name": "new",
            **common,
            "backbones": ["convnext_atto", "resnet10t"],
            "dimensions": {"width": [0.25, 0.5], "norm": ["keep", "group"], "sharing": ["none", "stage"]},
        }
    )
    before, after = SearchSpace(old), SearchSpace(new)
    for width, there in ((0.5, True), (1.0, False)):
        wanted = before.decide(lambda parameter, width=width: width)
        found = leading_to(after, wanted, {"width": width})
        assert (found is not None) is there
        if found is not None:
            assert after.decide(lambda parameter, found=found: found[parameter.name]).id == wanted.id


def test_from_the_command_line_with_weights_and_all(tmp_path):
    space = plain_space(trials=8).to_dict()
    space["search"]["reference_point"] = REFERENCE
    run(space, evaluator=Table(), runs=tmp_path, name="one")
    two = run(space, evaluator=Table(), runs=tmp_path, name="two", earlier="one", trials=4)
    old = [m for m in two.front.members if m.origin is not None]
    assert old
    for member in old:
        assert (two.directory / "trials" / str(member.number) / "epoch").read_text() == str(RUNGS[-1])
        assert member.mlflow_run_id
    with pytest.raises(InputError, match=r"unknown search in .* 'on'; .*one"):
        run(space, evaluator=Table(), runs=tmp_path, name="three", earlier="on")
    with pytest.raises(InputError, match="--from one is for a new search; two goes on with what it began with"):
        run(space, evaluator=Table(), runs=tmp_path, name="two", earlier="one", resume=True)


@pytest.mark.parametrize(
    ("before", "now", "holds"),
    [
        ({}, {}, True),
        ({"latency_ms": {"batch": 1}}, {"latency_ms": {"batch": 1}}, True),
        ({"latency_ms": {"batch": 1}}, {}, True),
        ({"latency_ms": {"batch": 1}}, {"latency_ms": {"batch": 8}}, False),
        ({}, {"model_bytes": {}}, False),
        ({"own": "mine:one"}, {"own": "mine:two"}, False),
    ],
)
def test_costs_that_were_measured_otherwise_do_not_hold(tmp_path, before, now, holds):
    earlier_file, file = (spaces.load({**TINY, "costs": costs}) for costs in (before, now))
    study = studies.begin(tmp_path / "earlier", earlier_file, Table(), reference_point={"accuracy": 0.0, "macs": 1.0})
    study.close()
    note = warm_start(study, SearchSpace(file), {}).note
    assert ("other costs" not in note) == holds, note


def test_values_of_another_machine_do_not_hold_where_a_clock_is_used(begin, earlier):
    assert begin("here", earlier=earlier, trials=1, dimensions=SMALL)[1].known
    _, start = begin("there", earlier=earlier, trials=1, dimensions=SMALL, data={**DATA, "machine": "another"})
    assert "other data" in start.note
