"""Trains again on a cluster: jobs that know nothing of each other, each a task of Ray with what a trial gets.

Knows nothing of studies, nor of what a result is good for. Ray is imported as in `search.workers.executor`.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import ray

from search.checkpoints.checkpoints import Checkpoints
from search.confirmation.roster import Job, Outcome
from search.evaluator import Measurement
from search.gate import said
from search.workers.cluster import LOOK_EVERY_S, Share
from search.workers.executor import interruption, options, share_of
from search.workers.faults import DEATHS, MachineFault, of_machine
from search.workers.meter import ClusterMeter
from search.workers.pools import Resources, devices
from search.workers.scheduler import reason_of
from search.workers.worker import settle
from spaces import Architecture

Train = Callable[[Architecture, int, Path], Iterator[Measurement]]
"""Trains an architecture with a seed, on from what it has left in a directory; it pickles.

The `device_s` of its last measurement are the seconds that it has taken, where that is of interest.
"""

LOOK_S = 0.5  # until Ctrl-C is heard


def retrained(
    train: Train,
    jobs: Sequence[Job],
    checkpoints: Checkpoints,
    *,
    resources: Resources,
    meter: ClusterMeter | None,
    began: Callable[[Job], None],
    over: Callable[[], object] = lambda: None,
) -> Iterator[Outcome]:
    """Does the jobs on the cluster of the surrounding `cluster`, beside a meter; what ends first comes first.

    A worker that dies is replaced, and goes on from the checkpoint.

    Args:
        began: is told of each job when it is handed to Ray.
        over: is asked now and then whether to end here, with what runs cut short.

    Raises:
        KeyboardInterrupt: at the first Ctrl-C, once no worker is left.
        InputError: no node has the resources for a training.
    """
    share, waiting = share_of(resources, meter), deque(jobs)
    held, running = ray.put((train, checkpoints)), dict[Any, tuple[Job, int]]()
    with interruption() as interrupted:
        try:
            while waiting or running:
                share.wish(len(waiting) + len(running))
                for job, pool in _places(share, waiting, [pool for _, pool in running.values()]):
                    task = ray.remote(_train).options(
                        **options(share.pools[pool]), max_retries=DEATHS - 1, retry_exceptions=[MachineFault]
                    )
                    running[task.remote(held, job, share.pools[pool])] = job, pool
                    began(job)
                for ended in _ended(list(running)):
                    yield _outcome(ended, running.pop(ended)[0])
                if interrupted.is_set():
                    raise KeyboardInterrupt
                if over():
                    return
        finally:
            for task in running:
                ray.cancel(task, force=True)
            share.wish(0)


def _places(share: Share, waiting: deque[Job], busy: Sequence[int]) -> Iterator[tuple[Job, int]]:
    """Takes from what waits as much as there is room for, each with its pool."""
    for pool, most in enumerate(share.room()):
        for _ in range(min(most - busy.count(pool), len(waiting))):
            yield waiting.popleft(), pool


def _ended(tasks: list[Any]) -> list[Any]:
    if tasks:
        return list(ray.wait(tasks, timeout=LOOK_S)[0])
    time.sleep(min(LOOK_S, LOOK_EVERY_S))  # until a node comes
    return []


def _outcome(task: Any, job: Job) -> Outcome:
    try:
        found = ray.get(task)
    except ray.exceptions.RayError as error:
        return Outcome(job=job, reason=f"{reason_of(str(error))}; tried {DEATHS} times", final=False)
    return Outcome(job=job, reason=found) if isinstance(found, str) else Outcome(job=job, last=found)


def _train(held: tuple[Train, Checkpoints], job: Job, needs: Mapping[str, float]) -> Measurement | str:
    """On the worker: the last measurement, with the device seconds of all, or why there is none.

    Raises:
        MachineFault: this process, or this machine, is no good any more.
    """
    settle(needs["CPU"])
    train, checkpoints = held
    try:
        measured = checkpoints.trained(job.number, partial(train, job.architecture, job.seed))
        last = deque(measured, maxlen=1).pop()
        return replace(last, device_s=devices(needs) * last.device_s)
    except Exception as error:  # whatever a training can raise is the reason why it failed
        if of_machine(error):
            raise MachineFault(said(error)) from None
        return said(error)
