"""Checkpoints in a store: a real S3 server, a real Ray, workers that die, uploads that were cut short."""

import json
import os
import pickle
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from search.checkpoints import checkpoints
from search.checkpoints.checkpoints import Checkpoints, Local, OutOfReach, Remote, checkpoints_of, settle
from search.checkpoints.mirror import MANIFEST, Damaged, read_manifest
from search.checkpoints.places import Places
from search.checkpoints.scratch import scratch
from search.evaluator import Measurement
from search.study.work import Assignment, carry_out
from spaces import Architecture, InputError
from tests.search.plain import Table
from tests.search.s3 import BUCKET, S3

URL = f"s3://{BUCKET}/checkpoints"


@pytest.fixture
def kept(s3: S3) -> Remote:
    """A place in the store that no other test has."""
    return Remote(url=f"{URL}/{uuid.uuid4().hex}")


def assignment(*rungs: int) -> Assignment:
    architecture = Architecture(choices={"a": 1, "b": 2, "c": 0, "stem": 1})
    return Assignment(number=3, architecture=architecture, seed=0, rungs=rungs, measured=("accuracy",))


def train(place: Checkpoints, *rungs: int, most: int = 99) -> list[int]:
    """A worker's life: trains from rung to rung and is gone after so many measurements; which epochs it measured."""
    work, found = assignment(*rungs), []
    training = place.trained(work.number, partial(carry_out, Table(), work))
    for measurement in training:
        found.append(measurement.fidelity)
        if len(found) == most:
            break
    del training
    return found


def log(place: Checkpoints) -> list[int]:
    """The epochs trained, as the evaluator wrote them down in the checkpoint."""
    with place.fetched(3) as directory:
        return [int(line) for line in (directory / "log").read_text().split()] if directory.exists() else []


@pytest.mark.parametrize("kind", ["local", "store"])
def test_a_training_goes_on_on_another_node_from_the_last_measurement(
    kind: str,
    kept: Remote,
    s3: S3,
    tmp_path: Path,
) -> None:
    place = kept if kind == "store" else Local(directory=tmp_path / "trials")
    assert train(place, 2) == [1, 2]
    assert train(pickle.loads(pickle.dumps(place)), 6, most=2) == [3, 4]  # another process has it so
    assert train(place, 6) == [5, 6]
    assert log(place) == [1, 2, 3, 4, 5, 6]
    assert place.held() == {3}
    place.drop(3)
    assert place.held() == set()
    assert s3.keys(_prefix(kept)) == []
    place.drop(3)  # again is no fault


def test_only_what_changed_is_put_and_nothing_old_is_left(kept: Remote, s3: S3, tmp_path: Path) -> None:
    stamps = {}

    def big(directory: Path) -> Iterator[Measurement]:
        (directory / "deep").mkdir()
        (directory / "deep" / "weights").write_bytes(b"w" * 1000)
        for epoch in (1, 2, 3):
            (directory / "epoch").write_text(str(epoch))
            yield Measurement(fidelity=epoch, values={"accuracy": 1.0})
            stamps[epoch] = s3.get(_manifest(kept))
        yield Measurement(fidelity=4, values={"accuracy": 1.0})
        stamps[4] = s3.get(_manifest(kept))

    assert len(list(kept.trained(3, big))) == 4
    assert len({*stamps.values()}) == 3  # the last measurement had nothing new
    files = json.loads(stamps[4])["files"]
    assert set(files) == {"deep/weights", "epoch"}
    assert len(s3.keys(_prefix(kept))) == 3  # a manifest, two objects; none of epochs 1 and 2
    with kept.fetched(3, only={"epoch"}) as directory:
        assert [path.name for path in directory.rglob("*")] == ["epoch"]
    with kept.fetched(3) as directory:
        assert (directory / "deep" / "weights").read_bytes() == b"w" * 1000


def _prefix(kept: Remote) -> str:
    return kept.place(3).removeprefix(f"s3://{BUCKET}/")


def _manifest(kept: Remote) -> str:
    return f"{_prefix(kept)}/{MANIFEST}"


def _tear(kept: Remote, s3: S3, how: str) -> None:
    key, text = _manifest(kept), s3.get(_manifest(kept))
    files = json.loads(text)["files"]
    content = f"{_prefix(kept)}/objects/{files['log']['sha256']}"
    if how == "no manifest":
        s3.delete(key)
    elif how == "half a manifest":
        s3.put(key, text[: len(text) // 2])
    elif how == "other content":
        s3.put(content, b"9\n" * (files["log"]["size"] // 2))
    elif how == "half a file":
        s3.put(content, s3.get(content)[:-1])
    else:
        s3.delete(content)


@pytest.mark.parametrize("how", ["no manifest", "half a manifest", "other content", "half a file", "no file"])
def test_half_an_upload_is_no_checkpoint(how: str, kept: Remote, s3: S3) -> None:
    train(kept, 2)
    _tear(kept, s3, how)
    if how == "no manifest":
        with kept.fetched(3) as directory:
            assert list(directory.iterdir()) == []
    else:
        with pytest.raises(InputError, match=rf"the checkpoint in {kept.place(3)} is damaged: "), kept.fetched(3):
            pass
    assert train(kept, 2) == [1, 2]  # from the start
    assert log(kept) == [1, 2]
    assert len(s3.keys(_prefix(kept))) == 1 + len(json.loads(s3.get(_manifest(kept)))["files"])


@pytest.mark.parametrize("name", ["../out", "/etc/out", "a/../../out", "a//b", "a\\b", "", ".", "..", "a\0b", "log/x"])
def test_a_manifest_leads_nowhere_else(name: str, kept: Remote, s3: S3) -> None:
    train(kept, 2)
    manifest = json.loads(s3.get(_manifest(kept)))
    manifest["files"][name] = manifest["files"]["epoch"]
    s3.put(_manifest(kept), json.dumps(manifest).encode())
    with pytest.raises(InputError, match="is damaged: its manifest names a file"), kept.fetched(3):
        pass


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{}",
        b'{"files": []}',
        b'{"files": {"a": 1}}',
        b'{"files": {"a": {"size": 1, "sha256": "../../x"}}}',
        b'{"files": {"a": {"size": 1, "sha256": 7}}}',
        b"[" * 100_000,
    ],
)
def test_a_manifest_that_is_none_is_damaged(text: bytes) -> None:
    with pytest.raises(Damaged):
        read_manifest(text)


def test_a_store_that_is_away_is_waited_for(kept: Remote, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    work, seen = assignment(2, 6), []
    back = threading.Timer(2, s3.start)
    for measurement in kept.trained(3, partial(carry_out, Table(), work)):
        seen.append(measurement.fidelity)
        if seen == [1, 2, 3]:
            s3.stop()
        if seen == [1, 2, 3, 4, 5]:  # two could not be put, and training went on
            back.start()
    assert seen == log(kept) == [1, 2, 3, 4, 5, 6]
    monkeypatch.setattr(checkpoints, "AWAY_S", 1.0)
    s3.stop()
    try:
        with pytest.raises(OutOfReach, match=rf"the checkpoint in {kept.place(3)} is out of reach: EndpointConnection"):
            train(kept, 6)
    finally:
        s3.start()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://not-there/x", "--checkpoints s3://not-there/x cannot be used: .*bucket does not exist"),
        ("foo://x", "--checkpoints foo://x: .*foo"),
        ("gs://bucket/x", "--checkpoints gs://bucket/x needs a package that is not installed"),
        ("memory://x", "--checkpoints memory://x: allowed is a path, or the URL of a store that every node"),
        ("simplecache::s3://bucket/x", "--checkpoints simplecache::.*: allowed is a path, or the URL"),
        ("s3://bucket/*", r"--checkpoints s3://bucket/\*: allowed is a path, or the URL"),
        ("sftp://me:secret@host/x", "--checkpoints must not have a password in it"),
        ("/dev/null/x", "--checkpoints /dev/null/x cannot be used: NotADirectoryError"),
        ("http://127.0.0.1:9/x", "--checkpoints http://127.0.0.1:9/x cannot be used: "),
    ],
)
@pytest.mark.usefixtures("s3")
def test_a_store_that_cannot_be_used_is_said_before_anything_starts(url: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message) as refused:
        settle(tmp_path / "s", Places(checkpoints=url), resume=False)
    assert "secret" not in str(refused.value)


@pytest.mark.usefixtures("s3")
@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("s3fs", f"--checkpoints {URL} needs a package that is not installed: pip install 'archsearch[s3]' ("),
        ("none", f"--checkpoints {URL} cannot be used: NoCredentialsError: Unable to locate credentials"),
    ],
)
def test_a_missing_package_and_missing_credentials_are_said(missing: str, message: str) -> None:
    code = (
        "import pathlib, sys\n"
        "sys.modules[sys.argv[2]] = None\n"
        "from search.checkpoints.checkpoints import settle\n"
        "from search.checkpoints.places import Places\n"
        "from spaces import InputError\n"
        "try: settle(pathlib.Path('s'), Places(checkpoints=sys.argv[1]), resume=False)\n"
        "except InputError as error: print(error)\n"
    )
    bare = {name: value for name, value in os.environ.items() if not name.startswith("AWS_") or "DISABLED" in name}
    bare |= {"AWS_ENDPOINT_URL": os.environ["AWS_ENDPOINT_URL"], "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
    command = [sys.executable, "-c", code, URL, missing]
    assert subprocess.run(command, env=bare, stdout=subprocess.PIPE, text=True, timeout=100).stdout.startswith(message)


def test_a_search_finds_its_place_again_and_no_other_takes_it(tmp_path: Path, kept: Remote) -> None:
    name = kept.url.rpartition("/")[2]
    here, there = tmp_path / "here" / name, tmp_path / "there" / name
    for directory in (here, there):
        directory.mkdir(parents=True)
    assert checkpoints_of(here) == Local(directory=here / "trials")
    places = settle(here, Places(checkpoints=f"{URL}/"), resume=False)
    places.write(here)
    assert checkpoints_of(here) == kept
    train(checkpoints_of(here), 2)
    with pytest.raises(InputError, match=rf"there are checkpoints in {name}/ already; choose another --name"):
        settle(there, places, resume=False)
    assert settle(here, Places(), resume=True) == places
    assert settle(here, Places(checkpoints=URL), resume=True) == places
    with pytest.raises(InputError, match=rf"has its own in {URL}; leave the flag out"):
        settle(here, Places(checkpoints=str(tmp_path)), resume=True)
    (there / "trials").mkdir()
    with pytest.raises(InputError, match=r"has its own in .*trials; leave the flag out"):
        settle(there, Places(checkpoints=str(tmp_path)), resume=True)


def test_a_shared_path_is_used_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    directory = tmp_path / "runs" / "s"
    directory.mkdir(parents=True)
    settle(directory, Places(checkpoints="shared"), resume=False).write(directory)
    monkeypatch.chdir("/")
    place = checkpoints_of(directory)
    assert place == Local(directory=tmp_path / "shared" / "s")
    train(place, 2)
    assert (tmp_path / "shared" / "s" / "3" / "log").read_text() == "1\n2\n"


def test_the_scratch_of_a_killed_process_does_not_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    code = (
        "import sys\n"
        "from search.checkpoints.scratch import scratch\n"
        "with scratch() as directory:\n"
        "    (directory / 'weights').touch()\n"
        "    print(directory, flush=True)\n"
        "    sys.stdin.read()\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    killed, alive = (subprocess.Popen([sys.executable, "-c", code], **pipes) for _ in range(2))
    places = [Path(process.stdout.readline().strip()) for process in (killed, alive)]
    killed.kill()
    killed.wait()
    assert all((place / "weights").exists() for place in places)
    with scratch() as mine:
        assert mine.is_dir()
        assert [(place / "weights").exists() for place in places] == [False, True]
    alive.communicate("")
    assert sorted(path.name for path in places[0].parent.iterdir()) == ["lock"]
    assert not mine.exists()
