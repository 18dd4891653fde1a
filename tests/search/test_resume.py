"""A search that was killed or interrupted goes on: nothing is lost, repeated, or counted twice."""

import signal
from pathlib import Path

import numpy as np

from search import results
from search.record import State
from tests.search.command import archsearch, kill, space_file, start, trained, wait_for
from tests.search.sums import check_that_everything_adds_up


def test_kill_9_and_resume_lose_repeat_and_double_nothing(tmp_path: Path) -> None:
    space_file(tmp_path, search__trials=8)
    process = start(tmp_path, "run", "tiny.yaml")
    wait_for(lambda: trained(tmp_path, "tiny") >= 3, process)
    kill(process)
    before = {r.number: r for r in results.opened(tmp_path / "runs", "tiny").records() if r.state is not State.RUNNING}
    result = archsearch(tmp_path, "run", "tiny.yaml", "--resume")
    assert result.returncode == 0, result.stdout + result.stderr
    after = {record.number: record for record in results.opened(tmp_path / "runs", "tiny").records()}
    for number, record in before.items():
        assert after[number].state is record.state or record.state is State.PAUSED
        if record.state is State.PAUSED:
            assert after[number].state in (State.COMPLETE, State.STOPPED)
        seen = [(m.fidelity, m.time) for m in record.history]
        assert [(m.fidelity, m.time) for m in after[number].history][: len(seen)] == seen
    check_that_everything_adds_up(tmp_path, "tiny", 8)


def test_ctrl_c_ends_cleanly_says_how_to_resume_and_resuming_works(tmp_path: Path) -> None:
    space_file(tmp_path)
    process = start(tmp_path, "run", "tiny.yaml")
    wait_for(lambda: trained(tmp_path, "tiny") >= 2, process)
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 130, output
    assert "archsearch run tiny.yaml --name tiny --resume" in output
    assert "Traceback" not in output
    result = archsearch(tmp_path, "run", "tiny.yaml", "--name", "tiny", "--resume")
    assert result.returncode == 0, result.stdout + result.stderr
    check_that_everything_adds_up(tmp_path, "tiny", 6)


def test_a_search_is_resumed_on_the_same_data_only(tmp_path: Path) -> None:
    images, labels = np.random.default_rng(0).integers(0, 256, (60, 16, 16, 3), dtype=np.uint8), np.arange(60) % 3
    np.savez(tmp_path / "mine.npz", images=images, labels=labels)
    data = {"source": "npz", "path": "mine.npz", "image_size": 16}
    space_file(tmp_path, data=data, backbones=["resnet10t"], search__trials=1, search__fidelity={"max": 1})
    assert archsearch(tmp_path, "run", "tiny.yaml").returncode == 0
    before = (tmp_path / "runs/tiny/data.json").read_text()
    np.savez(tmp_path / "mine.npz", images=images, labels=(labels + 1) % 3)
    result = archsearch(tmp_path, "run", "tiny.yaml", "--resume", "--trials", 2)
    assert result.returncode == 2
    assert "was begun on other data: hash of the labels was" in result.stderr
    assert (tmp_path / "runs/tiny/data.json").read_text() == before
