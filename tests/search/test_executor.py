"""Real searches on a real Ray Tune: workers that crash, drivers that are killed, and what the study says after."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace

import optuna
import pytest
import ray

from search.checkpoints.checkpoints import checkpoints_of
from search.record import State
from search.study import studies
from search.study.halving import first
from search.study.work import Idle
from search.workers.cluster import cluster
from search.workers.executor import execute, test_front
from search.workers.pools import Resources
from spaces import InputError
from tests.search.drivers import ROOT, Driver, assert_exact, assert_gone, ended, epochs_trained, family
from tests.search.plain import REFERENCE, RUNGS, Table, checkpoint, drive, plain_space, summary

TWO = Resources(cpus=1)


def environment():
    return {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}


@pytest.fixture(scope="module")
def ray_cluster():
    before, others = environment(), family(os.getpid())
    with cluster():
        yield
        children = {child: name for child, name in family(os.getpid()).items() if child not in others}
    assert any("raylet" in command for command in children.values())
    assert environment() == before
    assert_gone(children)


def search(directory, evaluator=None, resources=TWO, **options):
    evaluator = evaluator or Table()
    study = studies.begin(directory, plain_space(**options), evaluator, reference_point=REFERENCE)
    over = execute(study, evaluator, resources=resources)
    study.close()
    return study, over


@pytest.fixture(scope="module")
def searched(ray_cluster, tmp_path_factory):
    study, over = search(tmp_path_factory.mktemp("searched") / "s", trials=24, sampler="tpe")
    assert over is Idle.BUDGET
    return study


def test_a_search_adds_up_and_shows_its_front_in_optuna(searched):
    study = searched
    assert_exact(study, 24)
    reached = [record for record in study.records() if record.fidelity >= RUNGS[0]]
    points = study.objectives.minimised({**r.history[RUNGS[0] - 1].values, **r.costs} for r in reached)
    best = [reached[index].state for index in first(points, len(reached) // 2)]
    assert State.STOPPED not in best  # whoever came first and whatever was proposed
    for record in study.records():
        assert len(epochs_trained(study, record)) == record.fidelity  # no epoch twice
    assert {m.state for m in study.front.members} == {State.COMPLETE}
    storage = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(study.directory / studies.JOURNAL))
    )
    seen = optuna.load_study(study_name="s", storage=storage)
    assert {t.number for t in seen.best_trials} == {r.number for r in study.front.members}
    assert Counter(t.user_attrs["state"] for t in seen.trials) == {
        state.value: count for state, count in study.counts().items() if count
    }


@pytest.mark.usefixtures("ray_cluster")
def test_every_fault_has_its_reason_and_the_search_goes_on(tmp_path):
    faults = ["none", "raises", "dies", "dies_once", "nan", "missing", "unbuildable"]
    study, over = search(
        tmp_path / "s",
        trials=20,
        dimensions={"a": [1], "fault": faults},
        sampler="random",
        scheduler="none",
    )
    assert over is Idle.EXHAUSTED
    ended = {r.architecture.choices["fault"]: r for r in study.records() if r.state is not State.DUPLICATE}
    assert {fault: ended[fault].state for fault in faults} == {
        "none": State.COMPLETE,
        "raises": State.FAILED,
        "dies": State.FAILED,
        "dies_once": State.COMPLETE,
        "nan": State.FAILED,
        "missing": State.FAILED,
        "unbuildable": State.INFEASIBLE,
    }
    assert ended["raises"].reason == "RuntimeError: CUDA out of memory"
    assert epochs_trained(study, ended["raises"]) == [1]  # not tried again: it would fail again
    assert ended["dies"].reason.startswith("its worker process died: ")
    assert ended["dies"].reason.endswith("; tried 3 times")
    assert epochs_trained(study, ended["dies"]) == [1]
    assert epochs_trained(study, ended["dies_once"]) == [1, 2, 3, 4, 5, 6]  # on from its checkpoint
    assert ended["nan"].reason == "accuracy is nan at epoch 2"
    assert ended["missing"].reason == "ValueError: the evaluator ended at 2 of 2 without values for accuracy"
    assert {m.architecture.choices["fault"] for m in study.front.members} == {"none", "dies_once"}


@pytest.mark.usefixtures("ray_cluster")
def test_one_worker_repeats_a_search_trial_by_trial(tmp_path):
    """Here and without Ray: who trains makes no difference to what is proposed, stopped and measured."""
    options = {"trials": 12, "sampler": "tpe"}
    alone = Resources(cpus=os.cpu_count())
    study, _ = search(tmp_path / "ray" / "s", resources=alone, **options)
    plain = studies.begin(tmp_path / "s", plain_space(**options), Table(), reference_point=REFERENCE)
    drive(plain, Table())
    assert summary(study) == summary(plain)
    plain.close()


def test_a_search_that_is_done_starts_nothing(searched):
    resumed = studies.resume(searched.directory, plain_space(trials=24, sampler="tpe"), Table())
    assert execute(resumed, Table(), resources=TWO) is Idle.BUDGET
    assert summary(resumed) == summary(searched)
    resumed.close()


def test_the_front_is_tested_on_the_cluster(searched):
    members = searched.front.members
    (checkpoint(searched, members[0].number) / "epoch").unlink()
    accuracies, faults = test_front(Table(), members, checkpoints_of(searched.directory), resources=TWO, meter=None)
    assert faults == {members[0].number: "FileNotFoundError: no weights"}
    assert accuracies == {m.number: pytest.approx(m.values["accuracy"] - 0.01) for m in members[1:]}


@pytest.mark.usefixtures("ray_cluster")
def test_more_than_a_node_has_is_refused(tmp_path):
    study = studies.begin(tmp_path / "s", plain_space(trials=2), Table(), reference_point=REFERENCE)
    with pytest.raises(InputError, match=r"no node has 99 CPUs and 0 GPUs for a trial; the cluster has \d+ CPUs"):
        execute(study, Table(), resources=Resources(cpus=99))
    with pytest.raises(InputError, match=r"no node has 1 CPUs and 0\.5 GPUs"):
        execute(study, Table(), resources=replace(TWO, gpus=0.5))
    for asked, message in (
        (Resources(cpus=0), "a trial needs more than 0 CPUs, not 0"),
        (Resources(gpus=1.5), "1.5 GPUs for a trial: allowed are a part of one, or a whole number"),
        (Resources(gpus=-1), "-1 GPUs for a trial: allowed are a part of one, or a whole number"),
    ):
        with pytest.raises(InputError, match=message):
            execute(study, Table(), resources=asked)
    assert study.records() == []
    study.close()


class Unloadable(Table):
    """Lives in the driver only, as what was made with a package that the nodes do not have."""

    def __reduce__(self):
        return (_missing, ())


def _missing():
    raise ModuleNotFoundError("No module named 'secret'")


@pytest.mark.usefixtures("ray_cluster")
def test_workers_that_cannot_start_end_the_search_and_condemn_nothing(tmp_path):
    study = studies.begin(tmp_path / "s", plain_space(trials=9), Table(), reference_point=REFERENCE)
    with pytest.raises(InputError, match=r"no worker came as far .* could not start: .*No module named 'secret'"):
        execute(study, Unloadable(), resources=TWO)
    assert study.counts()[State.FAILED] <= 1
    study.close()


# Drivers of their own


@pytest.mark.usefixtures("ray_cluster")
def test_a_driver_killed_at_any_moment_loses_and_repeats_nothing(tmp_path):
    """Once with the Ray that it started, then as one of many on a cluster that stays."""
    place, seed, before = tmp_path / "s", int(time.time()), {}
    moments, ours = random.Random(seed), ray.get_runtime_context().gcs_address
    options = {"trials": 24, "epoch_s": 0.05, "sampler": "tpe", "cpus": 1}
    for address in (None, ours, ours, ours, ours):
        driver = Driver(place, address=address, **options)
        driver.wait_until(measured=driver.measured + moments.randrange(1, 5))
        time.sleep(moments.random() / 4)
        driver.kill()
        before |= ended(place)
    assert Driver(place, address=ours, **options).end() == "begun\nbudget\n", f"seed {seed}"
    assert_exact(studies.read(place), 24, gaps=True)
    after = ended(place)
    assert {number: after[number] for number in before} == before, f"seed {seed}"


def test_ctrl_c_ends_cleanly_and_the_search_can_be_resumed(tmp_path):
    place, options = tmp_path / "s", {"trials": 6, "scheduler": "none"}
    driver = Driver(place, epoch_s=0.6, cpus=1, **options)
    driver.wait_until(measured=2)
    pressed = time.monotonic()
    os.killpg(driver.process.pid, signal.SIGINT)  # as a terminal does: the whole group gets it
    assert driver.end() == "begun\nNone\n"
    assert time.monotonic() - pressed < 10
    assert_gone(driver.family)
    counts = studies.read(place).counts()
    assert counts[State.RUNNING] >= 1
    assert counts[State.FAILED] == 0
    resumed = studies.resume(place, plain_space(**options), Table())
    drive(resumed, Table())
    assert_exact(resumed, 6)
    resumed.close()


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:1", "no Ray cluster can be used at 127.0.0.1:1: ConnectionRefusedError"),
        (None, "Ray could not be started on this machine: OSError: validate_socket_filename failed"),
    ],
)
def test_a_cluster_that_is_not_there_or_cannot_be_is_named(tmp_path, address, said):
    too_long = tmp_path / ("x" * 120)  # for a socket in it
    too_long.mkdir()
    code = (
        "from search.workers.cluster import cluster\n"
        "from spaces import InputError\n"
        "try:\n"
        f"    with cluster({address!r}): pass\n"
        "except InputError as error: print(error)\n"
    )
    environment = {**os.environ, "RAY_TMPDIR": str(too_long)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.startswith(said)
