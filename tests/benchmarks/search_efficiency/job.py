"""One arm to run, as it is handed to a process of its own, and what comes back: a time line of what was trained.

    python -m tests.benchmarks.search_efficiency.MODULE JOB.json     # writes the time line to `out` of the job

Knows nothing of who searches.
"""

import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Job:
    """What an arm is given.

    Attributes:
        space: the space file as plain data.
        seconds: of search, from the start of the first training.
        trials: at most so many trainings; None where only time ends it.
        seed: of proposals and trainings.
        workers: trainings at a time, a core each.
        gpus: of each training.
        ready_s: given on top for workers to start; nothing that comes after `seconds` counts.
        bounds: shares of the backbone's FLOPs, for ModelOpt.
        folder: for whatever it writes.
    """

    space: dict[str, Any]
    seconds: float
    trials: int | None = None
    seed: int = 0
    workers: int = 2
    gpus: float = 0.0
    ready_s: float = 30.0
    bounds: tuple[float, ...] = ()
    folder: str

    @property
    def out(self) -> Path:
        return Path(self.folder) / "out.json"


@dataclass(frozen=True, kw_only=True)
class Point:
    """A measurement of one training.

    Attributes:
        seconds: since the start of the first training of the arm.
        id: of the architecture; of ModelOpt's networks a name.
        architecture: as plain data; None where it is none of ours.
        accuracy: on validation data, in [0, 1].
        fidelity: epochs.
        complete: trained to the end, so that it may be on the front.
        test_accuracy: of this very training; None where it was not tested.
        alone_s: seconds that this point takes where no other is wanted, if that is less than `seconds`.
    """

    seconds: float
    id: str
    label: str
    architecture: dict[str, Any] | None = None
    macs: float
    params: float
    accuracy: float
    fidelity: int
    complete: bool
    test_accuracy: float | None = None
    alone_s: float | None = None


def answer(search: Callable[[Job], tuple[Iterable[Point], dict[str, Any]]]) -> None:
    """The main program of an arm: reads the job, searches, writes the points in the order of time, and notes."""
    given = json.loads(Path(sys.argv[1]).read_text())
    job = Job(**{**given, "bounds": tuple(given["bounds"])})
    points, notes = search(job)
    ordered = [asdict(point) for point in sorted(points, key=lambda point: point.seconds)]
    job.out.write_text(json.dumps({"points": ordered, "notes": notes}))
