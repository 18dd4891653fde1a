"""Ours: `search.run.run` with the space file as it is, for so many seconds.

Seconds begin when the first training does, of a trial or of a backbone that trials inherit from: that is when its
folder appears. The workers of Ray are started, and have imported torch, before the search is called.
"""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray

from search.record import State, TrialRecord
from search.run import run
from search.study import studies
from search.workers.cluster import cluster
from tests.benchmarks.search_efficiency.job import Job, Point, answer


def searched(job: Job) -> tuple[list[Point], dict[str, Any]]:
    with cluster():
        warm(job)
        watch = Watch(Path(job.folder) / "runs")
        watch.start()
        result = run(
            job.space,
            runs=watch.runs,
            trials=job.trials,
            hours=(job.seconds + job.ready_s) / 3600,
            gpus_per_trial=job.gpus,
        )
        watch.over.set()
        records = studies.read(result.directory).records()
    trained = [record for record in records if record.history]
    if not trained:
        return [], {"ending": str(result.ending), "counts": counted(records)}
    assert watch.began is not None
    began = watch.began
    ended = max(record.history[-1].time for record in trained)
    notes = {
        "ending": str(result.ending),
        "counts": counted(records),
        "span_s": ended - began,
        "busy_s": sum(record.device_s for record in trained),
        "first_trial_s": min(record.history[0].time - record.history[0].device_s for record in trained) - began,
    }
    return [point for record in trained for point in points_of(record, began)], notes


class Watch(threading.Thread):
    """Looks out for the first training of a search.

    Attributes:
        began: seconds since 1970; None while there is none.
    """

    def __init__(self, runs: Path):
        super().__init__(daemon=True)
        self.runs, self.over = runs, threading.Event()
        self.began: float | None = None

    def run(self) -> None:
        while self.began is None and not self.over.wait(0.05):
            if any(True for part in ("trials", "parents") for _ in self.runs.glob(f"*/{part}/[0-9]*")):
                self.began = time.time()


def points_of(record: TrialRecord, began: float) -> Iterator[Point]:
    """One for each rung."""
    for measurement in record.history:
        if "accuracy" not in measurement.values:
            continue
        last = measurement is record.history[-1] and record.state is State.COMPLETE
        network = record.network if last else record.architecture
        known = {**record.costs, **measurement.values}
        yield Point(
            seconds=measurement.time - began,
            id=network.id,
            label=network.label,
            architecture=network.to_dict(),
            macs=known["macs"],
            params=known["params"],
            accuracy=measurement.values["accuracy"],
            fidelity=measurement.fidelity,
            complete=last,
            test_accuracy=record.test_accuracy if last else None,
        )


def counted(records: list[TrialRecord]) -> dict[str, int]:
    states = [str(record.state) for record in records]
    return {state: states.count(state) for state in dict.fromkeys(states)}


def warm(job: Job) -> None:
    """Starts as many workers as there are trainings at a time, with torch and timm imported."""
    ready = ray.remote(_ready).options(num_cpus=1)
    ray.get([ready.remote() for _ in range(job.workers)])


def _ready() -> None:
    __import__("search.trial")


if __name__ == "__main__":
    answer(searched)
