"""The process that measures, on a real Ray: alone on its cores, alone on its GPU, and alive again when it has died."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import ray
import torch

from search.evaluator import Meter
from search.study import studies
from search.study.work import Idle
from search.workers.cluster import Share
from search.workers.executor import execute
from search.workers.meter import ClusterMeter
from search.workers.pools import Resources
from spaces import InputError, SpaceError
from tests.search.drivers import assert_gone, family
from tests.search.metering import Ruler, architecture, started, wait_until
from tests.search.plain import REFERENCE, Table, checkpoint, plain_space

ONE = Resources(cpus=1)
LINUX = hasattr(os, "sched_setaffinity")


@dataclass(frozen=True, kw_only=True)
class Watched(Table):
    """Writes down on which cores it trains, and from when to when."""

    def evaluate(self, architecture, fidelity, seed, checkpoint):
        began = time.monotonic()
        yield from super().evaluate(architecture, fidelity, seed, checkpoint)
        cores = ",".join(map(str, sorted(os.sched_getaffinity(0)))) if LINUX else ""
        with (checkpoint / "watched").open("a") as log:
            log.write(f"{began} {time.monotonic()} {cores}\n")


@pytest.fixture(scope="module")
def two_cores():
    with started(num_cpus=2):
        yield


@pytest.mark.usefixtures("two_cores")
def test_it_measures_one_at_a_time_and_leaves_nothing_behind(tmp_path):
    before = family(os.getpid())
    with ClusterMeter(Ruler(folder=tmp_path), cpus=1, resources=ONE) as meter:
        assert isinstance(meter, Meter)
        with ThreadPoolExecutor(3) as threads:
            readings = list(threads.map(meter.measure, [architecture(a=a) for a in range(3)]))
        (pid,) = {int(reading["pid"].value) for reading in readings}
        assert pid != os.getpid()
        assert {(r["threads"].value, r["gpus"].value) for r in readings} == {(1, 0)}
        spans = sorted((reading["began"].value, reading["ended"].value) for reading in readings)
        assert all(ended <= began for (_, ended), (began, _) in zip(spans, spans[1:], strict=False))
        assert f"torch {torch.__version__}" in meter.machine
        process = {key: name for key, name in family(os.getpid()).items() if key[0] == pid}
        assert process
        assert not process.keys() & before.keys()
        with ClusterMeter(Ruler(folder=tmp_path), cpus=1, resources=ONE) as other:  # of another search
            assert not meter.claim().cores & other.claim().cores or len(os.sched_getaffinity(0)) < 2
    assert meter.claim() is None
    assert_gone(process)
    wait_until(lambda: ray.available_resources().get("CPU") == 2)


@pytest.mark.usefixtures("two_cores")
@pytest.mark.skipif(not LINUX, reason="cores are told apart on Linux only")
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs a machine with two cores")
def test_trainings_are_kept_off_its_cores_and_out_of_its_room(tmp_path):
    evaluator, file = Watched(epoch_s=0.05), plain_space(trials=6, sampler="random", scheduler="none")
    study = studies.begin(tmp_path / "s", file, evaluator, reference_point=REFERENCE)
    with ClusterMeter(Ruler(folder=tmp_path), cpus=1, resources=ONE) as meter:
        assert Share.of(ONE).room() == [2]
        assert Share.of(ONE, meter.claim).room() == [1]
        reading = meter.measure(architecture())
        pid = int(reading["pid"].value)
        may = subprocess.run([sys.executable, "-c", "import os; os.setpriority(0, 0, -20)"], stderr=subprocess.DEVNULL)
        assert reading["priority"].value == (os.getpriority(os.PRIO_PROCESS, 0) if may.returncode else -20)
        own = meter.claim().cores
        assert {frozenset(os.sched_getaffinity(int(t.name))) for t in Path(f"/proc/{pid}/task").iterdir()} == {own}
        assert len(own) == 1
        assert execute(study, evaluator, resources=ONE, meter=meter) is Idle.BUDGET
    study.close()
    lines = [(checkpoint(study, r.number) / "watched").read_text().split() for r in study.records() if r.history]
    assert len(lines) == 6
    assert not own & {int(core) for *_, cores in lines for core in cores.split(",")}
    spans = sorted((float(began), float(ended)) for began, ended, *_ in lines)
    assert all(ended <= began for (_, ended), (began, _) in zip(spans, spans[1:], strict=False))  # one has room


@pytest.mark.usefixtures("two_cores")
def test_what_dies_is_started_again_and_what_always_dies_has_a_reason(tmp_path, monkeypatch):
    monkeypatch.setattr("search.workers.meter.DEATHS", 2)  # each takes a process some seconds to come up
    with ClusterMeter(Ruler(folder=tmp_path), cpus=1, resources=ONE) as meter:
        first = meter.measure(architecture())["pid"].value
        for fault in ("dies_once", "cuda_once"):
            second = meter.measure(architecture(fault))["pid"].value
            assert second != first
            assert (tmp_path / f"{fault}-tries").read_text().split() == [f"{first:.0f}", f"{second:.0f}"]
            first = second
        with pytest.raises(SpaceError, match=r"cannot be measured: its worker process died: .*; tried 2 times") as told:
            meter.measure(architecture("dies"))
        assert "\n" not in str(told.value)
        assert len(set((tmp_path / "dies-tries").read_text().split())) == 2
        first = meter.measure(architecture())["pid"].value
        with pytest.raises(SpaceError, match=r"^its layers do not fit together$"):
            meter.measure(architecture("unbuildable"))
        with pytest.raises(RuntimeError, match=r"^a mistake in the meter$"):
            meter.measure(architecture("raises"))
        assert meter.measure(architecture())["pid"].value == first  # no fault of the process
        assert Share.of(ONE, meter.claim).room() == [1]


@pytest.mark.usefixtures("two_cores")
@pytest.mark.parametrize(
    ("needs", "resources", "message"),
    [
        ({"cpus": 1}, Resources(cpus=2), r"need 1 CPUs and 0 GPUs to themselves, beside 2 CPUs and 0 GPUs for a trial"),
        ({"cpus": 2}, ONE, r"the cluster has 2 CPUs and 0 GPUs on 1 nodes, and no room for both\. Measure with less"),
        ({"cpus": 1, "gpu": True}, ONE, r"need 1 CPUs and 1 GPUs .* a part of one for a trial does not help"),
        ({"cpus": 1}, Resources(cpus=3), r"no node has 3 CPUs and 0 GPUs for a trial"),
    ],
)
def test_without_room_for_both_there_is_one_message(tmp_path, needs, resources, message):
    with (
        pytest.raises(InputError, match=message),
        ClusterMeter(Ruler(folder=tmp_path), resources=resources, **needs),
    ):
        pass
    wait_until(lambda: ray.available_resources().get("CPU") == 2)


@dataclass(frozen=True, kw_only=True)
class Unreadable:
    """Cannot be unpickled."""

    def __reduce__(self):
        return (exec, ("raise ValueError('not of this version')",))


@pytest.mark.usefixtures("two_cores")
def test_a_process_that_cannot_start_is_one_message():
    with (
        pytest.raises(InputError, match=r"costs cannot be measured: its worker process could not start: .*version"),
        ClusterMeter(Unreadable(), cpus=1, resources=ONE),  # type: ignore[arg-type]
    ):
        pass
    wait_until(lambda: ray.available_resources().get("CPU") == 2)
