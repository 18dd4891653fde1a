"""A worker: one process of a cluster that trains one assignment after the other. Knows nothing of the study.

What its training raises is the training's fault, unless `search.workers.faults` says that it is the machine's.
"""

import gc
import os
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

import ray
import torch
from ray.tune import Trainable

from search.checkpoints.checkpoints import Checkpoints
from search.evaluator import Evaluator, Measurement
from search.gate import said
from search.workers.faults import MachineFault, of_machine
from search.workers.heirs import carried_out
from search.workers.scheduler import ASSIGNMENT, CLAIM, FAULT, MEASUREMENT, NODE

LAST_WORDS_S = 3.0  # for the fault of a machine to reach the driver


def settle(cpus: float) -> None:
    """Makes a worker process use what it was given, and no more."""
    if not ray.get_gpu_ids():
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    torch.set_num_threads(max(1, int(cpus)))


def cores() -> frozenset[int]:
    """Those of the machine that this process may run on, by their numbers; empty where the system does not tell."""
    return frozenset(os.sched_getaffinity(0)) if sys.platform == "linux" else frozenset()


def stay_on(chosen: Iterable[int]) -> None:
    """Keeps every thread of this process, and those to come, on some cores of its machine; on Linux only."""
    if sys.platform == "linux":
        for thread in os.listdir("/proc/self/task"):
            with suppress(ProcessLookupError):  # it has ended
                os.sched_setaffinity(int(thread), chosen)


def _end_soon() -> None:
    """Ends this process once its last words are out: Tune lets go of it, but not for sure before it is needed."""
    end = threading.Timer(LAST_WORDS_S, os._exit, [1])
    end.daemon = True
    end.start()


class Training(Trainable):  # type: ignore[misc]  # ray is not typed
    """A worker: one process that trains one assignment after the other."""

    def setup(
        self, config: dict[str, Any], evaluator: Evaluator, checkpoints: Checkpoints, parents: Checkpoints
    ) -> None:
        self._evaluator, self._checkpoints, self._parents = evaluator, checkpoints, parents
        self._measurements: Iterator[Measurement] = iter(())
        self._node = ray.get_runtime_context().get_node_id()
        self._cores = cores()
        settle(config["cpus"])
        gc.freeze()  # modules and data are never garbage; a collection between trials need not look at them
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._begin(new_config)
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        self._let_go()  # before the next one needs the memory
        claim = config[CLAIM]
        stay_on(self._cores - (claim.cores if claim and claim.node == self._node else set()) or self._cores)
        work, devices = config[ASSIGNMENT], config["devices"]
        self._measurements = carried_out(self._evaluator, work, self._checkpoints, self._parents, devices=devices)

    def step(self) -> dict[str, Any]:
        """
        Raises:
            MachineFault: this process, or this machine, is no good any more; the process ends.
        """
        try:
            return {MEASUREMENT: next(self._measurements), NODE: self._node}
        except Exception as error:  # whatever a training can raise is the reason why the trial failed
            fault = said(error)
            if of_machine(error):
                _end_soon()
                raise MachineFault(fault) from None
        self._let_go()
        return {FAULT: fault, NODE: self._node}

    def _let_go(self) -> None:
        """Of the last training, and of the memory that it had."""
        self._measurements = iter(())
        gc.collect()
        torch.cuda.empty_cache()

    def cleanup(self) -> None:
        """Lets the last training go, and with it what it has on this machine only."""
        self._measurements = iter(())
