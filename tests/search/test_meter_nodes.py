"""Where the process that measures goes: on clusters of several nodes, and of nodes with GPUs."""

from functools import partial
from pathlib import Path

import pytest

from search.checkpoints.checkpoints import checkpoints_of
from search.study import studies
from search.workers.cluster import Share
from search.workers.executor import test_front
from search.workers.meter import ClusterMeter
from search.workers.pools import Claim, Resources
from spaces import InputError
from tests.search.metering import SMALL, Ruler, architecture, started, wait_until
from tests.search.plain import REFERENCE, Table, drive, plain_space


def test_it_takes_the_node_that_trials_miss_least_and_another_when_that_is_lost(tmp_path):
    with started(num_cpus=0) as nodes:
        small, large = nodes.add_node(num_cpus=1, **SMALL), nodes.add_node(num_cpus=4, **SMALL)
        two = Resources(cpus=2)
        with ClusterMeter(Ruler(folder=tmp_path), cpus=1, resources=two) as meter:
            assert meter.claim().node == small.node_id
            assert Share.of(two, meter.claim).room() == [2]
            pid = int(meter.measure(architecture())["pid"].value)
            nodes.remove_node(small, allow_graceful=False)
            wait_until(lambda: not Path(f"/proc/{pid}").exists())  # that the node is lost may not be known yet
            assert meter.measure(architecture()).keys() >= {"pid"}
            assert meter.claim().node == large.node_id
            assert Share.of(two, meter.claim).room() == [1]


def test_a_gpu_is_its_own(tmp_path):
    """Ray's accounts of GPUs; there need not be any."""
    halves, ruler = Resources(cpus=1, gpus=0.5), Ruler(folder=tmp_path)
    with started(num_cpus=4, num_gpus=2):
        with ClusterMeter(ruler, cpus=1, gpu=True, resources=halves) as meter:
            assert meter.measure(architecture())["gpus"].value == 1
            assert Share.of(halves, meter.claim).room() == [2]  # of the other GPU
            assert Share.of(Resources(), meter.claim).pools == ({"CPU": 3.0, "GPU": 1.0},)
            cores_only = partial(Claim, node=meter.claim().node, needs={"CPU": 1.0})
            assert Share.of(Resources(), cores_only).pools == ({"CPU": 1.0, "GPU": 1.0},)  # as many trials as GPUs
        both = ClusterMeter(ruler, cpus=1, gpu=True, resources=Resources(cpus=1, gpus=2))
        with pytest.raises(InputError, match="shares no GPU, so that a part of one for a trial does not help"), both:
            pass


def test_the_front_is_tested_beside_it(tmp_path):
    study = studies.begin(tmp_path / "s", plain_space(trials=2, sampler="random"), Table(), reference_point=REFERENCE)
    drive(study, Table())
    everything = Resources()  # of a trial: the GPU, and all cores that are left beside it
    with started(num_cpus=4, num_gpus=1), ClusterMeter(Ruler(folder=tmp_path), cpus=1, resources=everything) as meter:
        assert Share.of(everything, meter.claim).pools == ({"CPU": 3.0, "GPU": 1.0},)
        members, place = study.front.members, checkpoints_of(study.directory)
        accuracies, faults = test_front(Table(), members, place, resources=everything, meter=meter)
    assert (set(accuracies), faults) == ({member.number for member in members}, {})
    study.close()
