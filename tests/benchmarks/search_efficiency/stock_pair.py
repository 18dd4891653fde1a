"""The stock pair: Ray Tune with its OptunaSearch, every training to the end, over the same decisions as ours.

What differs from ours is the search alone: the networks, the recipe, the data and the trainings are the ones of the
space file. The user's own part is what Tune's documentation asks for: a define-by-run function of the space and a
class that trains, whose workers are used again. What cannot be built, or violates a constraint, is not trained and
reported with accuracy 0; a network that was tried before is trained again, since nobody says that it was. Ray and Tune
have their own defaults, but for what they print and log: a proposal is asked for when a worker is free for it.
"""

import json
import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune import CheckpointConfig, RunConfig, Stopper, Trainable, TuneConfig, Tuner
from ray.tune.search.optuna import OptunaSearch

from search.evaluator import Measurement
from search.gate import Gate
from search.pareto import non_dominated
from search.task import Task, opened
from search.trial import TimmEvaluator
from search.workers.cluster import environment, silence
from search.workers.worker import settle
from spaces import Architecture, Parameter, SearchSpace, load
from spaces.questions import Label
from tests.benchmarks.search_efficiency.job import Job, Point, answer
from tests.benchmarks.search_efficiency.product import warm

QUIET = {"RAY_AIR_NEW_OUTPUT": "0", "RAY_USAGE_STATS_ENABLED": "0", "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1"}


@cache
def space_of(plain: str) -> SearchSpace:
    return SearchSpace(load(json.loads(plain)))


class Decisions:
    """The space as OptunaSearch wants it: a function of an Optuna trial, that pickles."""

    def __init__(self, space: dict[str, Any]):
        self._plain = json.dumps(space)

    def __call__(self, trial: Any) -> dict[str, Any]:
        def choose(parameter: Parameter) -> Label:
            return trial.suggest_categorical(parameter.name, list(parameter.choices))  # type: ignore[no-any-return]

        return {"architecture": space_of(self._plain).decide(choose).to_json()}


class Training(Trainable):  # type: ignore[misc]  # ray is not typed
    """A step is an epoch, so that Tune can end a training soon; only the last report is for the search."""

    def setup(self, config: dict[str, Any], evaluator: TimmEvaluator, gate: Gate, job: Job) -> None:
        self._evaluator, self._gate, self._job = evaluator, gate, job
        settle(1)
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._architecture = Architecture.from_json(new_config["architecture"])
        self._checked = self._gate.check(self._architecture)
        self._began = time.time()
        self._measurements = self._train() if self._checked.feasible else iter(())
        return True

    def _train(self) -> Iterator[Measurement]:
        folder = Path(self._job.folder) / "weights" / self.trial_id
        epochs = self._job.space["search"]["fidelity"]["rungs"][-1]
        return self._evaluator.evaluate(self._architecture, epochs, self._job.seed, folder)

    def step(self) -> dict[str, Any]:
        costs = {name: self._checked.costs.get(name, 1e12) for name in ("macs", "params")}
        told = {"accuracy": 0.0, **costs, "began": self._began, "at": time.time()}
        if not self._checked.feasible:
            return {**told, "epoch": 0, "fault": self._checked.reason, "done": True}
        measurement = next(self._measurements)
        if "accuracy" not in measurement.values:
            return {**told, "epoch": measurement.fidelity}
        network = (measurement.network or self._architecture).to_json()
        found = {**told, **measurement.values, "epoch": measurement.fidelity, "network": network}
        return {**found, "at": time.time(), "done": True}


class Until(Stopper):
    """Ends all so many seconds after the first training began."""

    def __init__(self, seconds: float):
        self._seconds, self._began = seconds, float("inf")

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        self._began = min(self._began, result["began"])
        return False

    def stop_all(self) -> bool:
        return time.time() > self._began + self._seconds


def searched(job: Job) -> tuple[list[Point], dict[str, Any]]:
    task = opened(job.space)
    gate = Gate(task.evaluator, task.file.constraints)
    held = {"evaluator": task.evaluator, "gate": gate, "job": job}
    needs = {"cpu": 1, "gpu": job.gpus} if job.gpus else {"cpu": 1}
    search = OptunaSearch(Decisions(job.space), metric=["accuracy", "macs"], mode=["max", "min"], seed=job.seed)
    with environment(QUIET), silence():
        ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.CRITICAL)
        warm(job)
        results = Tuner(
            tune.with_resources(tune.with_parameters(Training, **held), needs),
            tune_config=TuneConfig(search_alg=search, num_samples=job.trials or -1, reuse_actors=True),
            run_config=RunConfig(
                name="tune",
                storage_path=job.folder,
                verbose=0,
                stop=Until(job.seconds),
                checkpoint_config=CheckpointConfig(checkpoint_at_end=False),
            ),
        ).fit()
    told = [result.metrics for result in results if result.metrics and "began" in result.metrics]
    began = min((metrics["began"] for metrics in told), default=0.0)
    ended = [metrics for metrics in told if "network" in metrics]
    faults = [metrics["fault"] for metrics in told if "fault" in metrics]
    notes = {
        "counts": {
            "started": len(results),
            "complete": len(ended),
            "refused": len(faults),
            "failed": results.num_errors,
        },
        "span_s": max((metrics["at"] for metrics in told), default=0.0) - began,
        "faults": sorted(set(faults)),
        "different": len({metrics["network"] for metrics in ended}),
    }
    points = {metrics["trial_id"]: point_of(metrics, began) for metrics in ended}
    return list(tested(points, task, job).values()), notes


def point_of(metrics: dict[str, Any], began: float) -> Point:
    network = Architecture.from_json(metrics["network"])
    return Point(
        seconds=metrics["at"] - began,
        id=network.id,
        label=network.label,
        architecture=network.to_dict(),
        macs=metrics["macs"],
        params=metrics["params"],
        accuracy=metrics["accuracy"],
        fidelity=metrics["epoch"],
        complete=True,
    )


def tested(points: dict[str, Point], task: Task, job: Job) -> dict[str, Point]:
    """With the test accuracies of the members of the front at the end."""
    evaluator = task.evaluator
    if not points or not isinstance(evaluator, TimmEvaluator):
        return points
    names = list(points)
    kept = non_dominated([(-points[name].accuracy, points[name].macs) for name in names])
    for name in [name for name, best in zip(names, kept.tolist(), strict=True) if best]:
        architecture = Architecture.from_dict(points[name].architecture)
        accuracy = evaluator.test(architecture, Path(job.folder) / "weights" / name)
        points[name] = replace(points[name], test_accuracy=accuracy)
    return points


if __name__ == "__main__":
    answer(searched)
    ray.shutdown()
