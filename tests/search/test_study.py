"""The truth of a search on a real Optuna journal: what is counted, what is told, and that no crash changes it."""

import json
import math
import os
import random
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter

import optuna
import pytest

from search.evaluator import Measurement
from search.record import State
from search.samplers import SAMPLERS as TABLE
from search.study import studies
from search.study.work import Assignment, Idle, carry_out
from spaces import InputError
from tests.search.plain import REFERENCE, RUNGS, Table, checkpoint, drive, plain_space, summary

SAMPLERS = ["random", "nsga2", "tpe", "gp"]
SAMPLERS_TOLD = {name: TABLE[name].telling for name in SAMPLERS}


@pytest.fixture
def begin(tmp_path):
    """Begins a study of the plain space; closes it at the end."""
    opened = []

    def begin(directory="s", evaluator=None, storage=None, **options):
        study = studies.begin(
            tmp_path / directory,
            plain_space(**options),
            evaluator or Table(),
            reference_point=REFERENCE,
            storage=storage,
        )
        opened.append(study)
        return study

    yield begin
    for study in opened:
        study.close()


def one_trial(study, *measurements):
    work = study.next()
    assert isinstance(work, Assignment)
    went_on = [study.report(work.number, measurement) for measurement in measurements]
    return study.records()[work.number], went_on


def at(fidelity, **values):
    return Measurement(fidelity=fidelity, values=values)


def faults(*kinds):
    return {"a": [0, 1, 2, 3], "fault": list(kinds)}


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_states_add_up_and_only_full_fidelity_makes_the_front(begin, sampler):
    study = begin(trials=40, sampler=sampler)
    assert drive(study, Table()) is Idle.BUDGET
    counts, records = study.counts(), study.records()
    assert counts == {state: sum(r.state is state for r in records) for state in State}
    assert counts[State.COMPLETE] + counts[State.STOPPED] + counts[State.FAILED] == 40
    assert counts[State.RUNNING] == 0
    assert counts[State.INFEASIBLE] > 0
    assert [record.number for record in records] == list(range(len(records)))
    for record in records:
        assert (record.state is State.COMPLETE) == (record.fidelity == RUNGS[-1]) == bool(record.values)
        assert (record.state is State.STOPPED) == (record.fidelity == RUNGS[0])
        assert bool(record.reason) == (record.state is not State.COMPLETE)
    assert study.front.members
    assert all(member.state is State.COMPLETE for member in study.front.members)
    trained = Counter(r.architecture.id for r in records if r.state.counts)
    assert set(trained.values()) == {1}


@pytest.mark.parametrize("sampler", ["random", "nsga2", "tpe"])
def test_optuna_shows_the_same_front(begin, sampler):
    study = begin(trials=30, sampler=sampler)
    drive(study, Table())
    seen = optuna.load_study(study_name="s", storage=study._dialogue.study._storage)
    assert {t.number for t in seen.best_trials} == {r.number for r in study.front.members}
    assert {t.user_attrs["state"] for t in seen.trials} <= {state.value for state in State}


def test_reasons_say_what_happened(begin):
    study = begin(trials=40)
    drive(study, Table())
    reasons = {
        state: next(r.reason for r in study.records() if r.state is state)
        for state in study.counts()
        if state not in (State.COMPLETE, State.RUNNING, State.FAILED) and study.counts()[state]
    }
    assert reasons[State.STOPPED].startswith("not in the best 1/2 of ")
    assert reasons[State.STOPPED].endswith(" trials at epoch 2")
    assert reasons[State.INFEASIBLE].endswith(" is above max 2.4")
    duplicate = next(r for r in study.records() if r.state is State.DUPLICATE)
    assert duplicate.reason == f"the same as trial {duplicate.duplicate_of}"
    assert study.records()[duplicate.duplicate_of].architecture.id == duplicate.architecture.id


def test_what_cannot_be_built_is_infeasible_and_free(begin):
    study = begin(trials=4, dimensions=faults("none", "unbuildable"))
    assert drive(study, Table()) is Idle.BUDGET
    broken = [r for r in study.records() if r.architecture.choices["fault"] == "unbuildable"]
    assert {(r.state, r.reason) for r in broken} == {
        (State.INFEASIBLE, "cannot be built: its layers do not fit together")
    }
    assert study.counts()[State.COMPLETE] + study.counts()[State.STOPPED] == 4


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_fails_the_trial_and_is_never_a_value(begin, value):
    study = begin(trials=3)
    record, went_on = one_trial(study, at(1), at(2, accuracy=value))
    assert went_on == [True, False]
    assert (record.state, record.reason) == (State.FAILED, f"accuracy is {value} at epoch 2")
    assert record.values == {}
    assert len(record.history) == 2
    assert not study.report(record.number, at(3))  # a late word from its worker changes nothing
    assert study.records()[record.number] == record
    assert study.front.members == ()


def test_a_rung_is_closed_only_by_what_is_to_be_measured(begin):
    study = begin(trials=1)
    record, went_on = one_trial(study, at(2), at(2, precision=1.0), at(2, accuracy=0.5), at(6, accuracy=0.6))
    assert went_on == [True, True, True, False]
    assert record.values == {"accuracy": 0.6, "macs": record.costs["macs"]}
    assert [dict(m.values) for m in record.history] == [{"precision": 1.0, "accuracy": 0.5}, {"accuracy": 0.6}]


def test_what_is_measured_again_after_a_crash_of_the_worker_replaces_what_was_seen(begin):
    study = begin(trials=1)
    record, _ = one_trial(study, at(2, accuracy=0.5), at(3), at(4), at(3), at(6, accuracy=0.7))
    assert [m.fidelity for m in record.history] == [2, 3, 6]
    study.close()
    assert studies.read(study.directory).records() == [record]


def test_after_fifty_free_proposals_in_a_row_the_driver_draws_until_the_space_is_exhausted(begin):
    """Eight architectures: long before the last of them the sampler has only duplicates to propose."""
    study = begin(trials=100, dimensions={"a": [0, 1], "b": [0, 1], "c": [0, 1]}, scheduler="none")
    assert drive(study, Table()) is Idle.EXHAUSTED
    counts = study.counts()
    assert counts[State.COMPLETE] == 8
    assert counts[State.INFEASIBLE] + counts[State.DUPLICATE] >= 50
    assert study.next() is Idle.EXHAUSTED


def test_rejection_finds_the_rare_feasible_ones_of_a_large_space(begin):
    wide = {name: list(range(10)) for name in "abcdef"}

    class Needle(Table):
        def costs(self, architecture):
            return {"macs": sum(architecture.choices.values()) / 3}  # about 1 in 5,000 is below 2.4

    study = begin(trials=3, dimensions=wide, evaluator=Needle(), sampler="random")
    assert drive(study, Needle()) is Idle.BUDGET
    assert 50 <= study.counts()[State.INFEASIBLE] <= 52  # fifty, then one more before each further draw


def test_patience_bounds_the_search_for_a_proposal(begin):
    class Nothing(Table):
        def costs(self, architecture):
            return {"macs": 99.0}

    study = begin(trials=3, evaluator=Nothing())
    assert study.next(patience_s=0.0) is Idle.LATER
    assert study.counts()[State.INFEASIBLE] == 1
    assert study.next() is Idle.EXHAUSTED


def test_observers_hear_of_every_trial_once_it_is_stored(begin):
    heard = []

    class Ear:
        def started(self, record):
            heard.append(("started", record.number, record.state))

        def measured(self, record):
            heard.append(("measured", record.number, record.fidelity))

        def ended(self, record):
            assert studies.read(study.directory).records()[record.number].state is record.state
            heard.append(("ended", record.number, record.state))

    study = begin(trials=6)
    study.observers.append(Ear())
    drive(study, Table())
    records = study.records()
    assert sorted(n for what, n, _ in heard if what == "ended") == [r.number for r in records]
    assert {n for what, n, _ in heard if what == "started"} == {r.number for r in records if r.history}
    paused = [(n, epoch) for what, n, epoch in heard if what == "measured" and epoch == RUNGS[0]]
    ended = sum(r.state is State.COMPLETE for r in records)  # the last word of the others was that they pause
    assert len(paused) == len(set(paused)) == sum(r.state.counts for r in records)
    assert sum(what == "measured" for what, _, _ in heard) == sum(len(r.history) for r in records) - ended


def test_one_objective_that_is_measured_and_one_that_is_a_cost(begin):
    for name, objectives in (("m", {"accuracy": "maximize"}), ("c", {"macs": "minimize"})):
        for sampler in ("tpe", "nsga2"):
            file = plain_space(trials=12, sampler=sampler).model_copy(update={"objectives": objectives})
            reference = {objective: REFERENCE[objective] for objective in objectives}
            place = begin(f"unused-{name}-{sampler}", trials=1).directory.with_name(f"{name}-{sampler}")
            study = studies.begin(place, file, Table(), reference_point=reference)
            assert drive(study, Table()) is Idle.BUDGET
            best = study.front.members[0].values
            assert list(best) == list(objectives)
            study.close()


def test_who_waits_at_a_rung_goes_on_later_from_there_or_is_stopped_in_the_end(begin):
    seen = []

    class Ear:
        def started(self, record):
            seen.append(("started", record.number))

        def measured(self, record):
            if record.state is State.PAUSED:
                assert record.reason.startswith("not in the best 1/2 of ")
                assert studies.read(study.directory).records()[record.number] == record
                frozen = study._dialogue.trials()[record.number]
                assert frozen.state is optuna.trial.TrialState.RUNNING
                seen.append(("paused", record.number))

        def ended(self, record):
            seen.append((record.state.value, record.number))

    study = begin(trials=30, sampler="random")
    study.observers.append(Ear())
    drive(study, Table())
    waited = {number for what, number in seen if what == "paused"}
    went_on = {number for what, number in seen if what == "complete"}
    stopped = {number for what, number in seen if what == "stopped"}
    assert len(waited & went_on) >= 2
    assert len(stopped) >= 5
    assert stopped <= waited
    for number in waited & went_on:
        story = [what for what, other in seen if other == number]
        assert story == ["started", "paused", "started", "complete"]
    last_training = max(place for place, (what, _) in enumerate(seen) if what == "complete")
    assert all(seen.index(("stopped", number)) > last_training for number in stopped)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_sampler_learns_from_what_waits(begin, sampler):
    """As it would if that had been stopped; and from its full training, once there is one."""
    study = begin(trials=14, sampler=sampler)
    told = SAMPLERS_TOLD[sampler][State.STOPPED]
    seeded = study._dialogue.study.sampler
    looked = 0
    while isinstance(work := study.next(), Assignment):
        for measurement in carry_out(Table(), work, checkpoint(study, work.number)):
            if not study.report(work.number, measurement):
                break
        view = seeded._view(study._dialogue.study)
        for record in study.records():
            shown = view.get_trials(deepcopy=False)[record.number]
            assert shown.number == record.number
            if record.state.open:
                looked += 1
                assert shown.state is told.state
                assert (max(shown.constraints.values(), default=0) > 0) == told.violated
                if shown.values:
                    assert shown.values == [record.history[-1].values["accuracy"], record.costs["macs"]]
            if record.state is State.COMPLETE:
                assert shown.values == list(record.values.values())
        assert [t.number for t in view.get_trials(states=(told.state,))] == [
            t.number for t in view.get_trials() if t.state is told.state
        ]
    assert looked
    assert not seeded.shown


def interleaved(study, evaluator, seed, workers=4):
    """Several workers, whose next measurement is drawn."""
    draw, live = random.Random(seed), {}
    while True:
        while len(live) < workers and isinstance(work := study.next(), Assignment):
            live[work.number] = carry_out(evaluator, work, checkpoint(study, work.number))
        if not live:
            return
        number = draw.choice(sorted(live))
        if not study.report(number, next(live[number])):
            del live[number]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_many_workers_get_the_same_proposals_for_the_same_told_history(begin, sampler):
    options = {"trials": 16, "sampler": sampler}
    found = [begin(name, **options) for name in ("once", "again")]
    for study in found:
        interleaved(study, Table(), seed=3)
    assert summary(found[0]) == summary(found[1])
    if sampler == "tpe":  # which learns from what it is told
        other = begin("other", **options)
        interleaved(other, Table(), seed=4)
        assert summary(other) != summary(found[0])


def test_nsga2_breeds_from_parents_that_train_on_meanwhile(begin):
    """A parent that was chosen while it waited at a rung, and runs again, still has what it was chosen for."""
    dimensions = {name: [0, 1, 2, 3, 4] for name in ("stem", *"abcd")}
    study = begin(trials=120, sampler="nsga2", dimensions=dimensions, fidelity={"rungs": [1, 6], "reduction": 3})
    interleaved(study, Table(), seed=1, workers=8)
    assert sum(record.state.counts for record in study.records()) == 120


# After a crash


def crashed(study, lines, tmp_path, torn=b""):
    """The directory of a search whose driver died after so many lines of its journal."""
    place = tmp_path / f"after-{lines}" / "s"
    place.mkdir(parents=True)
    journal = (study.directory / studies.JOURNAL).read_bytes().splitlines(keepends=True)
    (place / studies.JOURNAL).write_bytes(b"".join(journal[:lines]) + torn)
    (place / (studies.JOURNAL + ".lock")).symlink_to(studies.JOURNAL)  # as a kill -9 leaves it
    return place


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_crash_between_any_two_writes_changes_nothing(begin, tmp_path, sampler):
    """The driver dies after some line of its journal, half a line more; resumed, the search is the same."""
    options = {"trials": 14, "sampler": sampler, "dimensions": {"a": [0, 1, 2, 3], "b": [0, 2], "c": [0, 2]}}
    study = begin(**options)
    drive(study, Table())
    expected = summary(study)
    lines = (study.directory / studies.JOURNAL).read_bytes().count(b"\n")
    moments = random.Random(sampler).sample(range(5, lines), 2 if sampler == "gp" else 20)
    for moment in [*moments, lines]:
        place = crashed(study, moment, tmp_path, torn=b'{"op_code": 5, "wor')
        resumed = studies.resume(place, plain_space(**options), Table())
        for record, then, in_the_end in zip(resumed.records(), summary(resumed), expected, strict=False):
            assert record.state.open or then == in_the_end
        drive(resumed, Table())
        assert summary(resumed) == expected, f"died after line {moment}"
        assert resumed.front.hypervolume == study.front.hypervolume
        resumed.close()


def test_a_trial_goes_on_from_its_last_rung(begin, tmp_path):
    study = begin(trials=4, scheduler="none")
    drive(study, Table(), measurements=3)  # two epochs to the rung, one beyond
    study.close()
    resumed = studies.resume(study.directory, plain_space(trials=4, scheduler="none"), Table())
    assert resumed.remaining == 4
    work = resumed.next()
    assert (work.number, work.rungs) == (0, (6,))
    assert resumed.remaining == 3
    resumed.give_back(0)  # its worker is gone
    assert resumed.next() == work
    resumed.close()


def test_a_search_can_be_given_more_trials_but_not_another_space(begin):
    study = begin(trials=5)
    drive(study, Table())
    study.close()
    another = r"searches another space: search\.sampler was .*tpe.* and is now .*random"
    with pytest.raises(InputError, match=another):
        studies.check_resumable(study.directory, plain_space(trials=5, sampler="random"))
    studies.check_resumable(study.directory, plain_space(trials=8))
    with pytest.raises(InputError, match=another):
        studies.resume(study.directory, plain_space(trials=5, sampler="random"), Table())
    resumed = studies.resume(study.directory, plain_space(trials=8), Table())
    assert resumed.remaining == 3
    assert drive(resumed, Table()) is Idle.BUDGET
    assert sum(r.state.counts for r in resumed.records()) == 8
    resumed.close()


def test_a_second_driver_is_refused_and_a_reader_is_not(begin):
    study = begin(trials=5)
    drive(study, Table(), measurements=20)
    who = f"process {os.getpid()} on {socket.gethostname()}"
    with pytest.raises(InputError, match=f"is being written by another run .{who}, since"):
        studies.resume(study.directory, plain_space(trials=5), Table())
    seen = [line[:5] for line in summary(studies.read(study.directory))]
    assert seen == [line[:5] for line in summary(study)]
    study.close()
    studies.resume(study.directory, plain_space(trials=5), Table()).close()


def test_a_search_begins_once_and_is_read_only_where_it_is(begin, tmp_path):
    begin(trials=5).close()
    with pytest.raises(InputError, match="holds a search already; resume it, or choose another name"):
        begin(trials=5)
    with pytest.raises(InputError, match="holds no search that could be resumed"):
        studies.resume(tmp_path / "nowhere", plain_space(trials=5), Table())
    with pytest.raises(InputError, match="holds no search"):
        studies.read(tmp_path / "nowhere")


def test_a_driver_that_died_before_the_search_began_leaves_nothing_in_the_way(begin, tmp_path):
    study = begin(trials=2)
    place = crashed(study, 1, tmp_path)
    (place / (studies.JOURNAL + ".lock")).unlink()
    assert not studies.exists(place)
    again = studies.begin(place, plain_space(trials=2), Table(), reference_point=REFERENCE)
    assert drive(again, Table()) is Idle.BUDGET
    again.close()


def test_what_is_found_out_later_stays_with_the_trial(begin):
    study = begin(trials=3, scheduler="none")
    drive(study, Table())
    best = study.front.members[0].number
    study.annotate(best, test_accuracy=0.5)
    study.annotate(best, mlflow_run_id="abc")
    study.close()
    member = next(m for m in studies.read(study.directory).front.members if m.number == best)
    assert (member.test_accuracy, member.mlflow_run_id) == (0.5, "abc")
    assert study.front.members[0].test_accuracy == 0.5


def test_the_study_can_be_kept_in_a_database(begin, tmp_path):
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    study = begin(trials=4, storage=url)
    drive(study, Table(), measurements=9)
    before = summary(study)
    study.close()
    resumed = studies.resume(study.directory, plain_space(trials=4), Table(), storage=url)
    assert summary(resumed) == before
    assert drive(resumed, Table()) is Idle.BUDGET
    resumed.close()


def test_the_journal_is_plain_json_lines(begin):
    study = begin(trials=2)
    drive(study, Table())
    for line in (study.directory / studies.JOURNAL).read_text().splitlines():
        json.loads(line)
    shutil.rmtree(study.directory / "trials")
    assert studies.read(study.directory).records() == study.records()


def test_optuna_dashboard_shows_the_same_front(begin):
    study = begin(trials=20)
    drive(study, Table())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    serve = "from optuna_dashboard._cli import main; main()"
    journal = str(study.directory / studies.JOURNAL)
    command = [sys.executable, "-c", serve, journal, "--host", "127.0.0.1", "--port", str(port), "--server", "wsgiref"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as dashboard:
        try:
            shown = fetched(f"http://127.0.0.1:{port}/api/studies/0?after=0", dashboard)
        finally:
            dashboard.terminate()
    assert {t["number"] for t in shown["best_trials"]} == {m.number for m in study.front.members}
    assert shown["objective_names"] == ["accuracy", "macs"]
    states = [next(a["value"] for a in t["user_attrs"] if a["key"] == "state") for t in shown["trials"]]
    assert Counter(states) == {state.value: n for state, n in study.counts().items() if n}


def fetched(url, server):
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return json.load(answer)
        except OSError:
            assert server.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)
