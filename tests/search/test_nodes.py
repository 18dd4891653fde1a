"""A search on several nodes: raylets on this machine, of which some die, some come, and some are bad."""

import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import ray
from ray.cluster_utils import Cluster

from search.record import State
from search.run import run
from search.study import studies
from search.study.work import Idle
from search.workers.cluster import cluster
from search.workers.executor import execute
from search.workers.pools import Resources
from tests.search.drivers import assert_exact, epochs_trained
from tests.search.plain import REFERENCE, Table, checkpoint, plain_space

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"object_store_memory": 100 * 2**20}
ONE = Resources(cpus=1)


@pytest.fixture
def nodes(monkeypatch):
    """A head without room for trials; `add_node` and `remove_node` do the rest."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_health_check_period_ms", "500")  # a lost node is known to be lost after two seconds
    monkeypatch.setenv("RAY_health_check_failure_threshold", "4")
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **SMALL})
    yield made
    ray.shutdown()
    made.shutdown()


@dataclass(frozen=True, kw_only=True)
class Where(Table):
    """Writes down on which node each epoch is trained, and which nodes are bad for it: there its process dies.

    Attributes:
        bad: names of resources that bad nodes have.
        data: what every node needs once.
    """

    bad: tuple[str, ...] = ()
    data: np.ndarray = field(default_factory=lambda: np.zeros(1))

    def evaluate(self, architecture, fidelity, seed, checkpoint):
        here = ray.get_runtime_context().get_node_id()
        mine = next(node["Resources"] for node in ray.nodes() if node["NodeID"] == here)
        held = "private" if self.data.flags.writeable or self.data.flags.owndata else "shared"
        bad = any(name in mine for name in self.bad)
        for measurement in [None] if bad else super().evaluate(architecture, fidelity, seed, checkpoint):
            with (checkpoint / "where").open("a") as where:
                where.write(f"{here} {os.getpid()} {held}\n")
            if bad:
                os._exit(9)
            yield measurement


def where(study):
    """The node, process and way of holding data of each epoch, by trial number."""
    files = {r.number: checkpoint(study, r.number) / "where" for r in study.records()}
    return {n: [line.split() for line in f.read_text().splitlines()] for n, f in files.items() if f.exists()}


def search(directory, address, evaluator, resources=ONE, said=None, observer=None, **options):
    """A search through an address, as `search.run` makes it, whose trials' folders are left as they are."""
    study = studies.begin(directory, plain_space(**options), evaluator, reference_point=REFERENCE)
    study.observers += [observer] if observer else []
    with cluster(address):
        over = execute(study, evaluator, resources=resources, say=[].append if said is None else said.append)
    study.close()
    return study, over


def test_a_node_lost_in_mid_search_costs_nothing_and_a_new_one_is_used(nodes, tmp_path):
    lost, kept = nodes.add_node(num_cpus=1, **SMALL), nodes.add_node(num_cpus=1, **SMALL)
    came = []

    class Disturber:
        """Kills and adds a node once trials run on both."""

        def started(self, record): ...

        def measured(self, record):
            if record.number >= 3 and not came:
                nodes.remove_node(lost, allow_graceful=False)
                came.append(nodes.add_node(num_cpus=1, **SMALL))

        def ended(self, record): ...

    study, over = search(
        tmp_path / "s", nodes.address, Where(epoch_s=0.4), observer=Disturber(), trials=16, sampler="random"
    )
    assert over is Idle.BUDGET
    assert_exact(study, 16)
    assert study.counts()[State.FAILED] == 0
    used = Counter(node for lines in where(study).values() for node, *_ in lines)
    assert used.keys() == {lost.node_id, kept.node_id, came[0].node_id}


def test_data_goes_to_each_node_once_and_workers_read_it_in_place(nodes, tmp_path):
    for _ in range(2):
        nodes.add_node(num_cpus=2, **SMALL)
    evaluator = Where(epoch_s=0.3, data=np.arange(2 * 2**20, dtype=np.float64))  # 16 MiB of a store of 100
    study, _ = search(tmp_path / "s", nodes.address, evaluator, trials=8, sampler="random", scheduler="none")
    lines = [line for lines in where(study).values() for line in lines]
    assert len({node for node, *_ in lines}) == 2
    assert len({process for _, process, _ in lines}) == 4
    assert {held for *_, held in lines} == {"shared"}


def test_trials_go_to_the_pool_that_has_room_and_workers_are_used_again(nodes, tmp_path):
    big, plain = nodes.add_node(num_cpus=2, resources={"fast": 1}, **SMALL), nodes.add_node(num_cpus=1, **SMALL)
    pools = Resources.asked(pools=["fast=1,cpu=2", "cpu=1,memory=0.5"])
    study, over = search(tmp_path / "s", nodes.address, Where(epoch_s=0.3), pools, trials=12, sampler="random")
    assert over is Idle.BUDGET
    assert_exact(study, 12)
    lines = [line for lines in where(study).values() for line in lines]
    processes = Counter(node for node, _ in {(node, process) for node, process, _ in lines})
    assert processes.keys() == {big.node_id, plain.node_id}
    assert max(processes.values()) <= 2  # of six trials each: Tune may give up one while the other pool starts


def test_a_bad_node_condemns_no_architecture_and_is_avoided(nodes, tmp_path):
    bad, good = nodes.add_node(num_cpus=1, resources={"bad": 1}, **SMALL), nodes.add_node(num_cpus=1, **SMALL)
    said = []
    study, over = search(
        tmp_path / "s", nodes.address, Where(epoch_s=0.2, bad=("bad",)), said=said, trials=10, scheduler="none"
    )
    assert over is Idle.BUDGET
    assert_exact(study, 10)
    assert study.counts()[State.FAILED] == 0
    places = {number: [node for node, *_ in lines] for number, lines in where(study).items()}
    died = [nodes for nodes in places.values() if bad.node_id in nodes]
    assert 1 <= len(died) <= 3
    for nodes_of_one in died:
        assert nodes_of_one.count(bad.node_id) == 1  # and from then on elsewhere
        assert set(nodes_of_one[1:]) == {good.node_id}
    notes = [f"node {bad.node_id[:12]} gets no more trials while there are others: its worker process"]
    assert [note[: len(notes[0])] for note in said] == (notes if len(died) == 3 else [])


def test_faults_of_a_machine_are_tried_again_elsewhere(nodes, tmp_path):
    for _ in range(2):
        nodes.add_node(num_cpus=1, **SMALL)
    faults = ["cuda", "cuda_once", "enospc_once"]
    study, over = search(
        tmp_path / "s",
        nodes.address,
        Table(),
        trials=3,
        dimensions={"a": [1], "fault": faults},
        sampler="random",
        scheduler="none",
    )
    assert over in (Idle.BUDGET, Idle.EXHAUSTED)
    ended = {r.architecture.choices["fault"]: r for r in study.records() if r.state.counts}
    assert {fault: ended[fault].state for fault in faults} == {
        "cuda": State.FAILED,
        "cuda_once": State.COMPLETE,
        "enospc_once": State.COMPLETE,
    }
    reason = "AcceleratorError: CUDA error: an illegal memory access was encountered"
    assert ended["cuda"].reason == f"{reason}; tried 3 times"
    for fault, tries in (("cuda", 3), ("cuda_once", 2), ("enospc_once", 2)):
        lines = (checkpoint(study, ended[fault].number) / "broke").read_text().splitlines()
        processes, places = zip(*(line.split() for line in lines), strict=True)
        assert len(set(processes)) == tries  # never again in a process that is broken
        assert places[0] != places[1]  # elsewhere first
    for fault in ("cuda_once", "enospc_once"):
        assert epochs_trained(study, ended[fault]) == [1, 2, 3, 4, 5, 6]  # on from its checkpoint


def test_code_that_only_the_driver_has_reaches_the_workers(nodes, tmp_path, monkeypatch):
    nodes.add_node(num_cpus=1, **SMALL)
    code = tmp_path / "code"
    code.mkdir()
    (code / "only_here.py").write_text(
        "import os\nfrom pathlib import Path\nimport search\nfrom tests.search.plain import Table\n"
        "class Task(Table):\n"
        "    def evaluate(self, *given):\n"
        "        for m in super().evaluate(*given):\n"
        "            Path(os.environ['WITNESS']).write_text(search.__file__ + '\\n' + __file__)\n"
        "            yield m\n"
    )
    witness = tmp_path / "witness"
    (tmp_path / "env.yaml").write_text(f"working_dir: code\nenv_vars: {{WITNESS: {witness}}}\n")
    monkeypatch.syspath_prepend(code)
    import only_here  # noqa: PLC0415  # it is there only now

    space = {**plain_space(trials=3).to_dict(), "name": "s"}
    space["search"]["reference_point"] = REFERENCE
    result = run(
        space,
        runs=tmp_path / "runs",
        evaluator=only_here.Task(),
        address=nodes.address,
        cpus_per_trial=1,
        runtime_env=tmp_path / "env.yaml",
    )
    assert result.counts[State.FAILED] == 0
    ours, task = map(Path, witness.read_text().splitlines())
    assert "runtime_resources" in ours.parts  # shipped, not found where it is installed
    assert task.name == "only_here.py"
    assert "runtime_resources" in task.parts


def test_a_cluster_that_can_grow_is_not_refused_but_waited_for(tmp_path, monkeypatch):
    """The autoscaler itself is not run: its wheel has no provider that is complete."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_enable_autoscaler_v2", "1")
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **SMALL})
    said = []

    class Autoscaler:
        def append(self, note):
            said.append(note)
            made.add_node(num_cpus=1, **SMALL)

    try:
        study, over = search(tmp_path / "s", made.address, Where(), said=Autoscaler(), trials=3, sampler="random")
        assert over is Idle.BUDGET
        assert_exact(study, 3)
        assert said == ["no node that is up has what a trial needs; waiting for one to come"]
    finally:
        ray.shutdown()
        made.shutdown()


def test_a_process_may_search_on_this_machine_and_then_on_a_cluster_without_tokens(nodes, tmp_path):
    """Ray keeps how it was let into the first; with that it is let into the second, but starts no worker there."""
    code = (
        "import sys\n"
        "from search.workers.cluster import cluster\n"
        "from tests.search.plain import main\n"
        "with cluster(): pass\n"
        'main(sys.argv[1], \'{"trials": 2, "cpus": 1, "address": "\' + sys.argv[2] + \'"}\')\n'
    )
    nodes.add_node(num_cpus=1, **SMALL)
    command = [sys.executable, "-c", code, str(tmp_path / "s"), nodes.address]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "begun\nbudget\n"
    assert studies.read(tmp_path / "s").counts()[State.FAILED] == 0
