"""Clusters whose nodes have what a test says, and a meter that tells where it is and can break; workers import it."""

import os
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from ray.cluster_utils import Cluster

from search.evaluator import Reading
from search.workers.cluster import cluster
from spaces import Architecture, SpaceError

SMALL = {"object_store_memory": 100 * 2**20}


@dataclass(frozen=True, kw_only=True)
class Ruler:
    """A meter that says which process measures, on which cores and with which GPU; and that can break."""

    folder: Path

    def measure(self, architecture):
        fault = architecture.choices.get("fault", "none")
        tries = self.folder / f"{fault}-tries"
        with tries.open("a") as log:
            log.write(f"{os.getpid()}\n")
        first = len(tries.read_text().splitlines()) == 1
        if fault == "dies" or (fault == "dies_once" and first):
            os._exit(7)
        if fault == "cuda_once" and first:
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
        if fault == "unbuildable":
            raise SpaceError("its layers do not fit together")
        if fault == "raises":
            raise RuntimeError("a mistake in the meter")
        began = time.monotonic()
        time.sleep(0.2)
        return {
            "pid": Reading(value=os.getpid()),
            "began": Reading(value=began),
            "ended": Reading(value=time.monotonic()),
            "priority": Reading(value=os.getpriority(os.PRIO_PROCESS, 0)),
            "threads": Reading(value=torch.get_num_threads()),
            "gpus": Reading(value=len(list(filter(None, os.environ["CUDA_VISIBLE_DEVICES"].split(","))))),
        }


def architecture(fault="none", a=0):
    return Architecture(choices={"fault": fault, "a": a})


@contextmanager
def started(**resources):
    """A cluster of one node of its own, so that what it has is known."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_health_check_period_ms", "500")  # a lost node is known to be lost after two seconds
        patch.setenv("RAY_health_check_failure_threshold", "4")
        made = Cluster(initialize_head=True, head_node_args={"include_dashboard": False, **SMALL, **resources})
        try:
            with cluster(made.address):
                yield made
        finally:
            made.shutdown()


def wait_until(true):
    deadline = time.monotonic() + 60
    while not true() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert true()
