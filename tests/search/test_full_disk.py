"""The driver's disk is full in mid-search: one message, and the search goes on once there is room."""

import subprocess
import sys

from search.record import State
from search.study import studies
from tests.search.drivers import ROOT

# A limit on the size of files does to this process what a full disk does: a file cannot grow. Set when the search
# runs, so that Ray's own processes are without.
DRIVER = """
import resource, sys, threading, time
from pathlib import Path
from search import cli, run as searches
from search.study import studies
from tests.search.plain import REFERENCE, Table, plain_space

def fill():
    journal = runs / "s" / studies.JOURNAL
    while not journal.exists() or journal.read_bytes().count(b'"history/') < 6:
        time.sleep(0.05)
    resource.setrlimit(resource.RLIMIT_FSIZE, (journal.stat().st_size, resource.RLIM_INFINITY))

def search(*given):
    searches.run(space, runs=runs, evaluator=Table(epoch_s=0.2), cpus_per_trial=1, resume=resume)

runs, resume = Path(sys.argv[1]), sys.argv[2] == "resume"
space = {**plain_space(trials=8, sampler="random").to_dict(), "name": "s"}
space["search"]["reference_point"] = REFERENCE
cli.app = search
if not resume:
    threading.Thread(target=fill, daemon=True).start()
cli.main()
"""


def drive(runs, how):
    command = [sys.executable, "-c", DRIVER, str(runs), how]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def test_a_full_disk_ends_the_search_with_one_message_and_loses_nothing(tmp_path):
    full = drive(tmp_path, "begin")
    assert full.returncode == 2, full.stderr
    (message,) = [line for line in full.stderr.splitlines() if line.startswith("error: ")]
    assert message.startswith(f"error: the search in {tmp_path / 's'} cannot go on: OSError: [Errno 27] File too large")
    assert message.endswith("then go on with --resume")
    assert "Traceback" not in full.stderr
    before = {r.number: r for r in studies.read(tmp_path / "s").records() if r.state.counts}
    done = drive(tmp_path, "resume")
    assert done.returncode == 0, done.stderr
    study = studies.read(tmp_path / "s")
    assert sum(record.state.counts for record in study.records()) == 8
    assert study.counts()[State.FAILED] == 0
    after = study.records()
    for number, record in before.items():
        assert (after[number].state, after[number].values) == (record.state, record.values)
