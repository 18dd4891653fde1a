"""Drivers of their own, to be killed, and what must be true of a search however often that happens to it."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from search.checkpoints.checkpoints import checkpoints_of
from search.record import State
from search.study import studies
from tests.search.plain import RUNGS

ROOT = Path(__file__).resolve().parents[2]
AGENTS = ("ray::DashboardA", "ray::RuntimeEnv")  # of a node; they see only after a minute that it is gone
WORKER = "ray::ResourceTr"  # what Ray calls a process that trains
AGENTS = ("ray::DashboardA", "ray::RuntimeEnv")  # of a node; they see only after a minute that it is gone


def family(pid):
    """The living descendants of a process: command by (pid, start time)."""
    found = {}
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, _text(children).split()):
            command, _, rest = _text(Path(f"/proc/{child}/stat")).partition(") ")
            if not rest:
                continue
            state, *fields = rest.split()
            if state != "Z":
                found[child, fields[18]] = command.partition("(")[2]
            found |= family(child)
    return found


def assert_gone(processes):
    """Within a minute; a process id that was given to another does not count."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        alive = {}
        for (pid, start), command in processes.items():
            rest = _text(Path(f"/proc/{pid}/stat")).rpartition(") ")[2].split()
            if rest and rest[0] != "Z" and rest[19] == start:
                alive[pid] = command
        if not alive:
            return
        time.sleep(0.1)
    raise AssertionError(f"processes left behind: {alive}")


def _text(file):
    """Empty where the process is gone."""
    try:
        return file.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


class Driver:
    """`python -m tests.search.plain` in a process group of its own; `options` are those of `plain_space`, and more."""

    def __init__(self, directory, **options):
        self.directory = directory
        command = [sys.executable, "-m", "tests.search.plain", str(directory), json.dumps(options)]
        self.process = subprocess.Popen(
            command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
        self.family = {}

    @property
    def measured(self):
        """How many measurements are stored, by whichever driver, in pieces."""
        journal = self.directory / studies.JOURNAL
        return journal.read_bytes().count(b'"history/') if journal.exists() else 0

    def wait_until(self, measured):
        """Until so many pieces of measurements are stored."""
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and self.process.poll() is None:
            time.sleep(0.05)
            if self.measured >= measured:
                break
        assert self.process.poll() is None, self.process.stdout.read()
        self.family = family(self.process.pid)

    def kill(self):
        """kill -9; returns when no worker can write to a checkpoint any more, be the cluster its own or ours."""
        workers = {key for key, name in family(os.getpid()).items() if name == WORKER}
        self.process.kill()
        self.end()
        assert_gone(dict.fromkeys(workers, WORKER))

    def end(self):
        output, _ = self.process.communicate(timeout=120)
        return output


def epochs_trained(study, record):
    """What really ran, as the evaluator wrote it down in the trial's own directory."""
    with checkpoints_of(study.directory).fetched(record.number, only={"log"}) as checkpoint:
        log = checkpoint / "log"
        return [int(line) for line in log.read_text().split()] if log.exists() else []


def ended(directory):
    """What must stay as it is: the records of what has ended, and the epochs trained for each."""
    study = studies.read(directory)
    records = [record for record in study.records() if not record.state.open]
    return {record.number: (record, epochs_trained(study, record)) for record in records}


def assert_exact(study, trials, gaps=False):
    """The states add up; nothing was trained twice, and nothing that was not to be.

    Args:
        gaps: a driver was killed: what was measured between rungs in its last second may be unknown.
    """
    counts = study.counts()
    assert counts[State.COMPLETE] + counts[State.STOPPED] + counts[State.FAILED] == trials
    assert counts[State.RUNNING] == 0
    records = study.records()
    assert [record.number for record in records] == list(range(len(records)))
    assert max(Counter(r.architecture.id for r in records if r.state.counts).values()) == 1
    for record in records:
        expected = {State.COMPLETE: RUNGS[-1], State.STOPPED: RUNGS[0]}.get(record.state, 0)
        epochs, rungs = list(range(1, expected + 1)), {rung for rung in RUNGS if rung <= expected}
        if record.state is not State.FAILED:
            known = [m.fidelity for m in record.history]
            assert known == epochs or (gaps and known == sorted(set(known)) and rungs <= set(known))
            assert sorted(set(epochs_trained(study, record))) == epochs
