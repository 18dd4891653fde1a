"""One driver writes a study in a database, from whichever machine: a second is refused, a dead one is succeeded."""

import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import optuna
import pytest

from search.study import heartbeat, studies
from search.study.storages import Database, address
from spaces import InputError
from tests.search.drivers import ROOT
from tests.search.plain import REFERENCE, Table, drive, plain_space, summary

QUICK = {"BEAT_S": 0.5, "STALE_S": 4.0}
OPTIONS = {"trials": 8, "sampler": "random"}
DRIVER = """
import sys
from pathlib import Path
from search.study import heartbeat, studies
from spaces import InputError
from tests.search.plain import REFERENCE, Table, drive, plain_space
heartbeat.BEAT_S, heartbeat.STALE_S = 0.5, 4.0
study = studies.begin(
    Path(sys.argv[1]), plain_space(trials=8, sampler="random"), Table(epoch_s=0.2), reference_point=REFERENCE,
    storage=sys.argv[2],
)
print("begun", flush=True)
try:
    print(drive(study, Table(epoch_s=0.2)))
except InputError as error:
    print(error)
"""


@pytest.fixture
def url(postgres, request):
    return postgres.url(request.node.name[:60])


@pytest.fixture
def quick(monkeypatch):
    for name, value in QUICK.items():
        monkeypatch.setattr(heartbeat, name, value)


def opened(url):
    storage = Database(address(url))
    study = optuna.create_study(storage=storage, study_name="s", load_if_exists=True)
    return storage, study


def row(postgres, url):
    database = url.rpartition("/")[2]
    found = postgres.sql(f"SELECT value_json FROM study_system_attributes WHERE key = '{heartbeat.KEY}'", database)
    return [json.loads(text) for (text,) in found]


def test_of_drivers_that_start_at_the_same_moment_exactly_one_wins(postgres, url):
    drivers = [opened(url) for _ in range(4)]

    def hold(driver):
        storage, study = driver
        together.wait()
        try:
            return storage.hold(study._study_id)
        except InputError as error:
            return str(error)

    for _ in range(5):
        together = threading.Barrier(len(drivers))
        with ThreadPoolExecutor(len(drivers)) as pool:
            found = sorted(pool.map(hold, drivers), key=lambda result: isinstance(result, str))
        assert len(row(postgres, url)) == 1
        refusal = f"is being written by another run (process {os.getpid()} on "
        assert [refusal in str(result) for result in found] == [False, True, True, True]
        found[0].release()
        assert row(postgres, url) == []
    for storage, _ in drivers:
        storage.close()


def test_a_holder_that_died_here_is_succeeded_at_once_one_elsewhere_is_not(postgres, url):
    """Also where its process id has gone to another since."""
    storage, study = opened(url)
    held = storage.hold(study._study_id)
    (mine,) = row(postgres, url)
    held.release()
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    for change, refused in (
        ({"pid": ended.pid}, False),
        ({"pid": os.getppid(), "born": "1"}, False),
        ({"pid": os.getppid(), "born": heartbeat._born(os.getppid())}, True),
        ({"pid": ended.pid, "machine": "another of the same name"}, True),
        ({"pid": ended.pid, "host": "elsewhere"}, True),
    ):
        other, _ = opened(url)
        other.set_study_system_attr(study._study_id, heartbeat.KEY, {**mine, "token": "another", **change})
        if refused:
            with pytest.raises(InputError, match=r"If it is dead, the study is free in \d+ s"):
                other.hold(study._study_id)
        else:
            other.hold(study._study_id).release()
        other.close()
    storage.close()


@pytest.mark.usefixtures("quick")
def test_a_living_driver_keeps_the_study_for_longer_than_a_beat_is_fresh(postgres, url):
    storage, study = opened(url)
    held = storage.hold(study._study_id)
    (first,) = row(postgres, url)
    other, _ = opened(url)
    beats = {first["beat"]}
    while max(beats) - first["beat"] < 1.2 * heartbeat.STALE_S:
        with pytest.raises(InputError, match="is being written by another run"):
            other.hold(study._study_id)
        beats.add(row(postgres, url)[0]["beat"])
    assert row(postgres, url)[0] == {**first, "beat": max(beats)}
    study.set_user_attr("still", "mine")
    held.release()
    storage.close()
    other.close()


@pytest.mark.usefixtures("quick")
def test_a_driver_that_was_suspended_while_another_took_over_writes_nothing_more(tmp_path, url):
    expected = studies.begin(tmp_path / "journal" / "s", plain_space(**OPTIONS), Table(), reference_point=REFERENCE)
    drive(expected, Table())
    command = [sys.executable, "-c", DRIVER, str(tmp_path / "s"), url]
    with subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE) as suspended:
        try:
            assert suspended.stdout.readline() == "begun\n"
            while True:
                with suppress(InputError):
                    if len(studies.read(tmp_path / "s").records()) >= 2:
                        break
            os.kill(suspended.pid, signal.SIGSTOP)
            elsewhere = tmp_path / "elsewhere" / "s"
            study = wait_for_it(elsewhere, url)
            drive(study, Table())
            os.kill(suspended.pid, signal.SIGCONT)
            said = suspended.stdout.read()
        finally:
            suspended.kill()
    assert f"has lost the study; process {os.getpid()} on " in said
    assert summary(study) == summary(expected) == summary(studies.read(elsewhere))
    study.close()
    expected.close()


def wait_for_it(directory, url):
    """Refused as long as the other might live."""
    refusals = 0
    while True:
        try:
            study = studies.resume(directory, plain_space(**OPTIONS), Table(), storage=url)
        except InputError as error:
            refusals += "is being written by another run" in str(error)
        else:
            assert refusals
            return study
