"""`archsearch backbones` as a user has it: a table, JSON, mistakes and Ctrl-C."""

import io
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
import typer
from rich.console import Console

from search.commands.plan import backbones
from search.findings import show
from spaces.survey import Finding
from spaces.techniques import TECHNIQUES
from tests.search.command import archsearch, start


def test_one_model_is_told_in_full(tmp_path: Path) -> None:
    done = archsearch(tmp_path, "backbones", "test_vit")
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    assert all(dimension in done.stdout for dimension in TECHNIQUES)
    assert "sandwich" in done.stdout
    assert not list(tmp_path.iterdir())


def test_json_holds_every_dimension_of_every_model(tmp_path: Path) -> None:
    done = archsearch(tmp_path, "backbones", "test_resne*", "--json")
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    told = json.loads(done.stdout)
    assert "test_resnet" in told
    for findings in told.values():
        assert list(findings) == list(TECHNIQUES)
        for dimension, finding in findings.items():
            assert set(finding) == {"applies", "reason", "choices"}
            assert finding["choices"][0] == TECHNIQUES[dimension].default
            assert finding["applies"] == (len(finding["choices"]) > 1)


def test_an_unknown_pattern_is_one_message(tmp_path: Path) -> None:
    done = archsearch(tmp_path, "backbones", "resnet19", "--json")
    assert done.returncode == 2
    assert not done.stdout
    assert "unknown backbone 'resnet19'; did you mean 'resnet1" in done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_leaves_valid_json_and_no_process(tmp_path: Path) -> None:
    process = start(tmp_path, "backbones", "resnet*", "--json")
    assert process.stdout is not None
    first = process.stdout.readline() + process.stdout.readline()  # "{" and a model
    os.killpg(process.pid, signal.SIGINT)
    told = json.loads(first + process.stdout.read())
    assert process.wait(60) == 130
    assert told
    deadline = time.monotonic() + 20
    while True:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            break
        assert time.monotonic() < deadline, "a process is left over"
        time.sleep(0.1)


def test_ctrl_c_while_a_row_is_written_waits_for_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(io.StringIO):
        def flush(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)

    out, before = Interrupted(), set(multiprocessing.active_children())
    monkeypatch.setattr("sys.stdout", out)
    with pytest.raises(typer.Exit) as ended:
        backbones("resnet*", as_json=True)  # all of them would take minutes
    assert ended.value.exit_code == 130
    assert len(json.loads(out.getvalue())) == 1
    deadline = time.monotonic() + 20
    while not set(multiprocessing.active_children()) <= before:  # a thread of the pool may be about to notice
        assert time.monotonic() < deadline, "a process is left over"
        time.sleep(0.1)


@pytest.mark.parametrize("width", [80, 160])
def test_a_table_has_one_line_a_model(width: int) -> None:
    findings = {
        "norm": Finding(choices=("keep", "rms", "dyt"), reason=""),
        "scaling": Finding(choices=("keep",), reason="it has no residual branches " * 8),
    }
    console = Console(width=width, record=True, force_terminal=True, file=open(os.devnull, "w"))  # noqa: SIM115
    show(
        [("resnet18", findings), ("vgg11_with_a_long_name", findings)], ["resnet18", "vgg11_with_a_long_name"], console
    )
    lines = console.export_text().splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["backbone", "resnet18", "vgg11_with_a_long_name"]
    assert lines[1].split()[1] == "2"
    assert "it has no residual" in lines[1]
    assert all(len(line) <= width for line in lines[:3])
