"""A study in a real PostgreSQL that restarts, loses answers, wants a password, or is not there."""

import json
import os
import sys
import threading
import time
from contextlib import suppress
from urllib.parse import quote

import optuna
import pytest

from search import results
from search.checkpoints.places import PLACES
from search.run import run
from search.study import patience, storages, studies
from search.study.storages import Database, address, storage_of
from search.study.work import Idle
from search.workers.cluster import cluster
from spaces import InputError
from tests.search.drivers import Driver, assert_exact, ended
from tests.search.plain import REFERENCE, Table, drive, plain_space, summary
from tests.search.postgres import PASSWORD, Wire


def begun(directory, url=None, **options):
    return studies.begin(directory, plain_space(**options), Table(), reference_point=REFERENCE, storage=url)


def on_journal(folder, **options):
    """What the same search is without a database."""
    study = begun(folder / "journal" / "s", **options)
    drive(study, Table())
    study.close()
    return summary(study)


def trials(postgres, database):
    """Number of trials by Optuna's state, as they lie in the tables."""
    return dict(postgres.sql("SELECT state::text, count(*) FROM trials GROUP BY state", database))


def test_a_search_is_the_same_on_the_journal_and_on_postgresql(postgres, tmp_path):
    options, url = {"trials": 12, "sampler": "tpe"}, postgres.url("same")
    study = begun(tmp_path / "s", url, **options)
    drive(study, Table())
    assert summary(study) == on_journal(tmp_path, **options)
    assert json.loads((tmp_path / "s" / PLACES).read_text()) == {"storage": address(url)}
    assert not (tmp_path / "s" / storages.JOURNAL).exists()
    assert summary(studies.read(tmp_path / "s")) == summary(study)
    seen = optuna.load_study(study_name="s", storage=address(url))
    assert {t.number for t in seen.best_trials} == {r.number for r in study.front.members}
    study.close()


def test_an_answer_that_is_lost_is_no_trial_lost_and_none_double(postgres, tmp_path):
    """Every third commit succeeds without anyone hearing of it, in every kind of call."""
    wire = Wire(postgres.port)
    storage = Database(address(postgres.url("lost", port=wire.port)))
    study = optuna.create_study(storage=storage, study_name="s", directions=["minimize", "maximize"])
    storage.hold(study._study_id)
    wire.every = 3
    for number in range(8):
        if number % 2:
            study.enqueue_trial({"x": number}, user_attrs={"drawn": True})
        trial = study.ask()
        x = trial.suggest_categorical("x", list(range(8)))
        trial.set_user_attr("said", number)
        study.set_user_attr("last", number)
        trial.set_constraint("limit", 1.0)
        study.tell(trial, [x, -x])
    assert wire.losses > 8
    wire.every = sys.maxsize
    found = study.get_trials()
    assert [t.number for t in found] == [t.user_attrs["said"] for t in found] == list(range(8))
    assert [t.params["x"] for t in found[1::2]] == list(range(1, 8, 2))
    assert all(t.values == [t.params["x"], -t.params["x"]] for t in found)
    assert study.user_attrs["last"] == 7
    assert trials(postgres, "lost") == {"COMPLETE": 8}
    storage.close()
    wire.close()


def test_a_search_over_a_bad_line_is_the_same(postgres, tmp_path):
    wire, options = Wire(postgres.port), {"trials": 5, "sampler": "random"}
    study = begun(tmp_path / "s", postgres.url("line", port=wire.port), **options)
    wire.every = 7
    drive(study, Table())
    assert wire.losses > 5
    wire.every = sys.maxsize
    study.close()
    assert summary(study) == on_journal(tmp_path, **options)
    wire.close()


class Restarting(Table):
    """Stops the database at one of its measurements; it is away for a while."""

    def evaluate(self, architecture, fidelity, seed, checkpoint):
        for measurement in super().evaluate(architecture, fidelity, seed, checkpoint):
            yield measurement
            if architecture.id in self.moments:
                self.moments.remove(architecture.id)
                self.postgres.stop()
                threading.Timer(0.5, self.postgres.start).start()


def test_a_database_that_restarts_is_waited_for(postgres, tmp_path):
    options = {"trials": 9, "sampler": "random"}
    expected = on_journal(tmp_path, **options)
    study, evaluator = begun(tmp_path / "s", postgres.url("restarts"), **options), Restarting()
    trained = [identity for _, identity, _, _, _, history in expected if history]
    object.__setattr__(evaluator, "postgres", postgres)
    object.__setattr__(evaluator, "moments", [trained[1], trained[4]])
    drive(study, evaluator)
    study.close()
    assert evaluator.moments == []
    assert summary(study) == expected == summary(studies.read(tmp_path / "s"))


def test_a_database_that_is_gone_for_good_ends_the_search_and_loses_nothing(postgres, tmp_path, monkeypatch):
    monkeypatch.setattr(patience, "PATIENCE_S", 1.0)
    study = begun(tmp_path / "s", postgres.url("gone"), trials=6)
    drive(study, Table(), measurements=9)
    before = summary(study)
    postgres.stop()
    try:
        with pytest.raises(InputError, match=r"gone has not answered for \d s: .*refused.*resume the search .--resume"):
            drive(study, Table())
        with suppress(InputError):
            study.close()
    finally:
        postgres.start()
    resumed = studies.resume(tmp_path / "s", plain_space(trials=6), Table())
    assert summary(resumed)[: len(before) - 1] == before[:-1]
    drive(resumed, Table())
    resumed.close()
    assert_exact(resumed, 6, gaps=True)


def test_one_driver_is_refused_one_is_killed_and_the_database_restarts_meanwhile(postgres, tmp_path):
    """On Ray, in processes of their own, as a user has it."""
    url, options = postgres.url("ray"), {"trials": 14, "sampler": "tpe"}
    place = tmp_path / "s"
    driver = Driver(place, storage=url, epoch_s=0.1, **options)
    wait(driver, lambda: len(ended(place)) >= 2)
    refusal = f"is being written by another run .process {driver.process.pid} on"
    with pytest.raises(InputError, match=f"s {refusal}"):
        studies.resume(place, plain_space(**options), Table())
    with pytest.raises(InputError, match=rf"s in \S+ray {refusal} .*the study is free in"):
        studies.resume(tmp_path / "elsewhere" / "s", plain_space(**options), Table(), storage=url)
    postgres.stop()
    time.sleep(1)
    postgres.start()
    before = len(ended(place))
    wait(driver, lambda: len(ended(place)) >= before + 2)
    driver.kill()
    kept = ended(place)
    assert len(kept) < 14
    assert Driver(place, **options).end().splitlines()[-1] == "budget"
    study = studies.read(place)
    assert_exact(study, 14, gaps=True)
    assert {number: ended(place)[number] for number in kept} == kept
    assert sum(trials(postgres, "ray").values()) == len(study.records())
    assert "RUNNING" not in trials(postgres, "ray")
    seen = optuna.load_study(study_name="s", storage=address(url))
    assert {t.number for t in seen.best_trials} == {r.number for r in study.front.members}


def wait(driver, condition):
    deadline = time.monotonic() + 120
    while True:
        with suppress(InputError):
            if condition():
                return
        assert driver.process.poll() is None, driver.process.stdout.read()
        assert time.monotonic() < deadline, "it does not come so far"
        time.sleep(0.1)


def test_run_keeps_the_address_but_not_the_password(postgres, tmp_path, monkeypatch):
    plain = postgres.url("run", user=f"anna:{quote(PASSWORD, safe='')}").replace("postgresql", "postgres", 1)
    space = plain_space(trials=3, reference_point=REFERENCE).to_dict()
    longer = {**space, "search": {**space["search"], "trials": 5}}
    with cluster():
        first = run(space, evaluator=Table(), runs=tmp_path, storage=plain)
        monkeypatch.setenv("PGPASSWORD", PASSWORD)
        again = run(longer, evaluator=Table(), runs=tmp_path, resume=True)
    assert sum(count for state, count in first.counts.items() if state.counts) == 3
    assert sum(count for state, count in again.counts.items() if state.counts) == 5
    content = "".join(path.read_text(errors="replace") for path in tmp_path.rglob("*.json"))
    assert "s3c" not in content
    assert f"postgresql+psycopg://anna@127.0.0.1:{postgres.port}/run" in content
    assert len(results.opened(tmp_path, "plain").records()) == sum(again.counts.values())
    monkeypatch.delenv("PGPASSWORD")
    with pytest.raises(InputError, match=r"password.*comes from --storage, PGPASSWORD or"):
        results.opened(tmp_path, "plain")
    with pytest.raises(InputError, match=r"'other'.*plain"):
        results.opened(tmp_path, "other")


def test_a_name_is_taken_in_the_whole_database_and_free_again_where_nothing_was_begun(postgres, tmp_path):
    url = postgres.url("names")
    begun(tmp_path / "a" / "s", url, trials=2).close()
    with pytest.raises(InputError, match=r"s in postgresql\S+names holds a search already; resume it, or choose anoth"):
        begun(tmp_path / "b" / "s", url, trials=2)
    assert not (tmp_path / "b").exists()
    studies.discard(tmp_path / "a" / "s")
    assert not (tmp_path / "a" / "s").exists()
    study = begun(tmp_path / "b" / "s", url, trials=2)
    assert drive(study, Table()) is Idle.BUDGET
    study.close()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nonsense", "--storage: this is no address of a database; write postgresql://USER"),
        ("redis://localhost/0", "--storage: a study cannot be kept in redis; write postgresql://USER"),
        ("sqlite://", "a database in memory is gone with its process; write sqlite:///FILE"),
        ("sqlite:////nowhere/at/all.db", "unable to open database file"),
        ("postgresql+nodriver://anna:s3cret@localhost/db", "nodriver"),
        ("postgresql://anna:s3cret@127.0.0.1:1/db", "cannot be used: .*refused"),
    ],
)
def test_an_address_that_cannot_be_is_one_message(tmp_path, monkeypatch, url, message):
    monkeypatch.setattr(storages, "START_S", 0.0)
    with pytest.raises(InputError, match=message) as caught:
        begun(tmp_path / "s", url, trials=2)
    assert "s3cret" not in str(caught.value)
    assert not (tmp_path / "s").exists()


def test_a_wrong_password_a_database_that_is_not_there_and_a_missing_driver(postgres, tmp_path, monkeypatch):
    monkeypatch.delenv("PGPASSWORD", raising=False)
    monkeypatch.setattr(storages, "START_S", 0.0)
    url = postgres.url("errors", user="anna:wr0ng")
    with pytest.raises(InputError, match=r"password authentication failed.*comes from --storage, PGPASSW") as caught:
        storage_of(tmp_path, url)
    assert "wr0ng" not in str(caught.value)
    with pytest.raises(InputError, match='database "nothere" does not exist'):
        storage_of(tmp_path, postgres.url("errors").replace("errors", "nothere"))
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(InputError, match=r"psycopg is missing; pip install 'archsearch\[postgresql\]'"):
        storage_of(tmp_path, url)


def test_sqlite_is_found_from_any_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = begun(tmp_path / "s", "sqlite:///studies.db", trials=2)
    drive(study, Table())
    study.close()
    monkeypatch.chdir(os.sep)
    assert summary(studies.read(tmp_path / "s")) == summary(study)
