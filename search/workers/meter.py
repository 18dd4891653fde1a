"""The meter: one process of a cluster that measures, one architecture after the other, with nothing beside.

It has cores, or a GPU, of one node to itself for as long as a search lasts: Ray gives them to no trial, also while a
process that died is started again, and on Linux the process is kept on its cores and trainings on that node off them.
Where it may, it comes before all else that the system runs there. Knows nothing of studies, nor what is measured.
"""

import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self, final

import ray
from filelock import FileLock, Timeout
from ray.exceptions import RayError, RayTaskError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from search.costs.machine import machine
from search.evaluator import Meter, Reading
from search.gate import said
from search.workers.cluster import LOOK_EVERY_S, is_up, node_for
from search.workers.faults import DEATHS, MachineFault, of_machine
from search.workers.pools import Claim, Resources, told
from search.workers.scheduler import reason_of
from search.workers.worker import cores, settle, stay_on
from spaces import Architecture, InputError, SpaceError

PATIENCE_S = 10.0  # before the user hears what is waited for
FIRST = -20  # the highest priority: the driver, Ray and strangers may come to its cores, and get what it leaves


@final
class ClusterMeter:
    """A `Meter` on the cluster of the surrounding `cluster`, from entering its context to leaving it.

    Args:
        meter: what measures; it must pickle.
        cpus: cores that it needs.
        gpu: whether it needs a GPU.
        resources: of the trials, which must find room beside it.
        say: is told, in a sentence, what the user should know of the cluster.

    Attributes:
        machine: where it is, in words; another one after its node was lost.

    Raises:
        InputError: on entering: the cluster has no room for it and a trial, or the process cannot start.
    """

    def __init__(
        self,
        meter: Meter,
        *,
        cpus: int,
        gpu: bool = False,
        resources: Resources,
        say: Callable[[str], None] = lambda note: None,
    ):
        self._meter, self._resources, self._say = meter, resources, say
        self._needs = {"CPU": float(cpus)} | ({"GPU": 1.0} if gpu else {})
        self._held: Any = None
        self._group: PlacementGroup | None = None
        self._process: Any = None
        self._claim: Claim | None = None
        self.machine = ""

    def __enter__(self) -> Self:
        self._held = ray.put(self._meter)
        try:
            self._begin()
        except RayError as error:
            self.close()
            raise InputError(f"costs cannot be measured: {reason_of(str(error))}") from None
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def claim(self) -> Claim | None:
        """What it has of which node; None outside its context."""
        return self._claim

    def measure(self, architecture: Architecture) -> Mapping[str, Reading]:
        """By name; in a fresh process where the last has died.

        Raises:
            SpaceError: it cannot be built or run so, or every process that measures it dies.
            InputError: the node is lost, and no other has room.
        """
        reason = ""
        for _ in range(DEATHS):
            try:
                if self._process is None:
                    self._begin()
                readings: Mapping[str, Reading] = ray.get(self._process.measure.remote(architecture))
                return readings
            except RayTaskError as error:
                if not isinstance(error.cause, MachineFault):
                    raise error.cause from None
                reason = said(error.cause)
            except RayError as error:
                reason = reason_of(str(error))
            self._end()
        raise SpaceError(f"{architecture.label} cannot be measured: {reason}; tried {DEATHS} times")

    def close(self) -> None:
        """Ends the process, and gives back what it had."""
        self._end()
        self._release()
        self._held = None

    def _begin(self) -> None:
        """A process, in what is reserved; on another node where that one is gone."""
        if self._claim is not None and not is_up(self._claim.node):
            self._release()
        if self._group is None:
            self._reserve()
        assert self._group is not None
        process = ray.remote(_Process).options(
            num_cpus=self._needs["CPU"],
            num_gpus=self._needs.get("GPU", 0.0),
            scheduling_strategy=PlacementGroupSchedulingStrategy(placement_group=self._group),
        )
        self._process = process.remote(self._held, int(self._needs["CPU"]))
        place = self._process.place.remote()
        if not ray.wait([place], timeout=PATIENCE_S)[0] and not self._group.wait(0):
            self._say(f"waiting for {told(self._needs)} to measure costs with")
        while not ray.wait([place], timeout=LOOK_EVERY_S)[0]:
            if self._claim is not None and not is_up(self._claim.node):
                self._end()
                return self._begin()
        node, kept, self.machine = ray.get(place)
        self._claim = Claim(node=node, needs=self._needs, cores=kept)

    def _reserve(self) -> None:
        node = node_for(self._needs, self._resources)
        there = None if node is None else [{"ray.io/node-id": node}]
        self._group = placement_group([self._needs], bundle_label_selector=there)
        self._claim = None if node is None else Claim(node=node, needs=self._needs)

    def _release(self) -> None:
        if self._group is not None:
            remove_placement_group(self._group)
        self._group = self._claim = None

    def _end(self) -> None:
        if self._process is not None:
            ray.kill(self._process)
        self._process = None


class _Process:
    """What runs on the node."""

    def __init__(self, meter: Meter, cpus: int):
        settle(cpus)
        self._meter = meter
        self._cores, self._locks = _own(cpus)
        stay_on(self._cores)
        with suppress(PermissionError):  # not everybody may; of cores that nobody else uses it makes no difference
            os.setpriority(os.PRIO_PROCESS, 0, FIRST)

    def place(self) -> tuple[str, frozenset[int], str]:
        """The node, by its id; the cores; and the machine, in words."""
        return ray.get_runtime_context().get_node_id(), self._cores, machine()

    def measure(self, architecture: Architecture) -> dict[str, Reading]:
        try:
            return dict(self._meter.measure(architecture))
        except Exception as error:
            if of_machine(error):
                raise MachineFault(said(error)) from None
            raise


def _own(count: int) -> tuple[frozenset[int], list[FileLock]]:
    """So many cores, the last of the machine that no other meter has, of this search or another; as long as it lives.

    Where there are not so many, what several clusters take for theirs, the last ones.
    """
    free, locks = [], []
    for core in sorted(cores(), reverse=True):
        lock = FileLock(Path(tempfile.gettempdir()) / f"archsearch-core-{core}.lock")
        try:
            lock.acquire(blocking=False)
        except (Timeout, OSError):  # it is held, by whomever
            continue
        free.append(core)
        locks.append(lock)
        if len(free) == count:
            return frozenset(free), locks
    return frozenset(sorted(cores())[-count:]), locks
