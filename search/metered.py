"""Who measures the timed costs of a task: a process of the cluster, each network once for all searches of a folder.

Puts together what `search.workers.meter`, `search.readings` and `search.foresight` do.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from search.foresight import Foresight
from search.readings import FILE, Readings
from search.task import Task
from search.workers.meter import ClusterMeter
from search.workers.pools import Resources


@dataclass(frozen=True, kw_only=True)
class Metering:
    """
    Attributes:
        process: measures.
        foresight: asks it for what is not known, and guesses.
    """

    process: ClusterMeter
    foresight: Foresight


@contextmanager
def metered(
    task: Task, resources: Resources, runs: Path, say: Callable[[str], None] = lambda note: None
) -> Iterator[Metering | None]:
    """On the surrounding cluster; None where nothing takes a clock.

    Args:
        resources: of the trials, which must find room beside it.
        runs: the folder of searches.

    Raises:
        InputError: the cluster has no room for it and a trial.
    """
    costing = task.costing
    if costing is None or not costing.timed:
        yield None
        return
    with ClusterMeter(costing, cpus=costing.cores, gpu=costing.gpu, resources=resources, say=say) as process:
        file, settings = runs / FILE, costing.settings
        readings = Readings(process, file, settings=settings, machine=lambda: process.machine, say=say)
        yield Metering(process=process, foresight=Foresight(readings, costing, say))
