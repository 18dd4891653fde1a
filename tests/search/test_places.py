"""Searches that keep everything elsewhere: checkpoints and models on S3, MLflow on PostgreSQL or a server."""

import os
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest
from mlflow import MlflowClient

from search import results
from search.checkpoints.checkpoints import checkpoints_of, settle
from search.checkpoints.places import Places, public
from search.checkpoints.scratch import scratch
from search.model import read_model
from search.record import State
from search.run import run
from search.study import studies
from search.workers.cluster import cluster
from search.workers.executor import execute, test_front
from search.workers.pools import Resources
from spaces import InputError
from tests.search.command import archsearch, space_file
from tests.search.drivers import assert_exact, epochs_trained
from tests.search.plain import REFERENCE, Table, plain_space
from tests.search.postgres import PASSWORD, Postgres
from tests.search.s3 import BUCKET, S3

URL = f"s3://{BUCKET}/checkpoints"
QUOTED = quote(PASSWORD, safe="")


def test_what_is_remembered_has_no_password(tmp_path: Path) -> None:
    given = Places(
        storage="postgresql://me:p/w@d@host:5/db?sslpassword=hush&connect_timeout=3", tracking="http://you:pw@host/"
    )
    given.write(tmp_path)
    assert Places.read(tmp_path) == Places(
        storage="postgresql://me@host:5/db?sslpassword=...&connect_timeout=3", tracking="http://you@host/"
    )
    assert public("s3://bucket/a:b") == "s3://bucket/a:b"
    for damaged in ("[]", "{", '{"tracking": 3}'):
        (tmp_path / "places.json").write_text(damaged)
        with pytest.raises(InputError, match=r"places\.json cannot be read"):
            Places.read(tmp_path)


@dataclass(frozen=True, kw_only=True)
class Mortal(Table):
    """Its process is killed once, in the middle of a training, as that of a spot machine is."""

    marks: Path

    def _break(self, fault: str, epoch: int, checkpoint: Path) -> None:
        if fault == "killed" and epoch == 4 and not (self.marks / "killed").exists():
            (self.marks / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def ray_cluster(s3: S3) -> Iterator[Path]:
    """With a directory of its own for temporary files, which it returns; a short one, as sockets are in it."""
    with tempfile.TemporaryDirectory(prefix="s3-") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", folder)
        with cluster():
            yield Path(folder)


def test_a_search_keeps_its_checkpoints_in_a_store(
    ray_cluster: Path,
    s3: S3,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    evaluator, directory = Mortal(marks=tmp_path), tmp_path / "searched"
    file = plain_space(
        trials=10, sampler="random", dimensions={**{name: [0, 1, 2, 3] for name in "abc"}, "fault": ["killed", "slow"]}
    )
    study = studies.begin(directory, file, evaluator, reference_point=REFERENCE)
    settle(directory, Places(checkpoints=URL), resume=False).write(directory)
    execute(study, evaluator, resources=Resources.asked(cpus=1))
    assert (tmp_path / "killed").exists()
    assert_exact(study, 10)
    counts = study.counts()
    assert counts[State.FAILED] == 0
    assert counts[State.STOPPED] >= 1
    for record in study.records():
        assert len(epochs_trained(study, record)) == record.fidelity  # none twice, though they were paused, or killed
    assert not (directory / "trials").exists()
    place = checkpoints_of(directory)
    assert place.held() == {record.number for record in study.records() if record.state.counts}
    accuracies, faults = test_front(
        evaluator, study.front.members, place, resources=Resources.asked(cpus=1), meter=None
    )
    assert faults == {}
    assert accuracies == {m.number: pytest.approx(m.values["accuracy"] - 0.01) for m in study.front.members}
    study.close()
    monkeypatch.setattr(tempfile, "tempdir", str(ray_cluster))
    deadline = time.monotonic() + 60
    while True:
        with scratch() as mine:  # removes what the killed one left
            left = [path for path in mine.parent.iterdir() if path.is_dir() and path != mine]
        if not left or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    assert left == []
    for number in place.held():
        place.drop(number)
    assert s3.keys("checkpoints/searched") == []


def test_models_and_tracking_elsewhere_are_found_again(
    s3: S3,
    postgres: Postgres,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The command line, with images, weights on S3, and MLflow on a PostgreSQL that asks for a password."""
    space_file(tmp_path, search__trials=3, backbones=["resnet10t"])
    tracking = postgres.url("mlflow", user=f"anna:{QUOTED}")
    places = ["--checkpoints", URL, "--tracking", tracking, "--artifacts", f"s3://{BUCKET}/models"]
    ran = archsearch(tmp_path, "run", "tiny.yaml", *places)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    directory = tmp_path / "runs" / "tiny"
    secrets = (PASSWORD, QUOTED, "secret-of-s3")
    written = [path.read_bytes() for path in directory.rglob("*") if path.is_file()]
    for secret in secrets:
        assert secret not in ran.stdout + ran.stderr
        assert not any(secret.encode() in content for content in written)
    study = results.opened(tmp_path / "runs", "tiny")
    front = study.front.members
    assert checkpoints_of(directory).held() == {record.number for record in front}  # the others' weights are gone
    picked = archsearch(tmp_path, "pick", "tiny", "--output", "picked")
    assert picked.returncode == 0, picked.stderr
    assert read_model(tmp_path / "picked").architecture == results.choose(study.front).network

    client = MlflowClient(tracking)
    experiment = client.get_experiment_by_name("tiny")
    assert experiment.artifact_location == f"s3://{BUCKET}/models/tiny"
    trials = client.search_runs([experiment.experiment_id], "tags.`archsearch.role` = 'trial'")
    assert len(trials) == len(study.records())
    on_front = {trial.info.run_id for trial in trials if trial.data.tags["on_front"] == "true"}
    assert on_front == {record.mlflow_run_id for record in front}
    models = client.search_logged_models([experiment.experiment_id])
    assert [model.status for model in models] == ["READY"] * len(front)
    assert any(key.endswith("model.safetensors") for key in s3.keys("models/tiny/"))
    assert not (tmp_path / "runs" / "mlflow.db").exists()
    assert not (directory / "trials").exists()

    refused = archsearch(tmp_path, "run", "tiny.yaml", "--resume")
    assert refused.returncode == 2
    assert "MLflow at postgresql://anna@127.0.0.1" in refused.stderr
    assert "password" in refused.stderr
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    resumed = archsearch(tmp_path, "run", "tiny.yaml", "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert f"--tracking postgresql://anna@127.0.0.1:{postgres.port}/mlflow" in resumed.stdout


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ({"tracking": "postgresql://me:hush@127.0.0.1:9/mlflow"}, r"MLflow at postgresql://me@127\.0\.0\.1:9/mlflow"),
        ({"artifacts": "s3://not-there/models"}, r"MLflow at sqlite:.* cannot be used: .*bucket does not exist"),
    ],
)
@pytest.mark.usefixtures("ray_cluster")
def test_what_cannot_be_used_is_said_and_leaves_nothing(place: dict[str, str], message: str, tmp_path: Path) -> None:
    space = plain_space(trials=3).to_dict()
    space["search"]["reference_point"] = REFERENCE
    with pytest.raises(InputError, match=message) as refused:
        run(space, evaluator=Table(), runs=tmp_path, **place)
    assert "hush" not in str(refused.value)
    assert not (tmp_path / "plain").exists()
