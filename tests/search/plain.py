"""A small space of plain choices, and an evaluator that trains nothing, remembers everything and can break.

What users do who bring a task of their own; importable by workers.
"""

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch

import spaces
from search.checkpoints.checkpoints import TRIALS
from search.evaluator import Evaluator, Measurement
from search.gate import said
from search.study import studies
from search.study.study import Study
from search.study.work import Assignment, Idle, carry_out
from search.workers.executor import execute
from search.workers.pools import Resources
from spaces import Architecture, SpaceError, SpaceFile

_BROKEN: list[str] = []
REFERENCE = {"accuracy": 0.0, "macs": 3.1}
RUNGS = (2, 6)


def plain_space(*, trials: int, dimensions: Mapping[str, Any] | None = None, **search: Any) -> SpaceFile:
    """3 x 4 x 4 x 4 architectures unless told otherwise; a quarter of them has more macs than allowed."""
    return spaces.load(
        {
            "name": "plain",
            "dimensions": dimensions or {"stem": [0, 1, 2], **{name: [0, 1, 2, 3] for name in "abc"}},
            "objectives": {"accuracy": "maximize", "macs": "minimize"},
            "constraints": {"macs": {"max": 2.4}},
            "search": {
                "trials": trials,
                "sampler": "tpe",  # cheap, and halving is by rule
                "seed": 0,
                "fidelity": {"rungs": list(RUNGS), "reduction": 2},
                **search,
            },
        }
    )


@dataclass(frozen=True, kw_only=True)
class Table:
    """Accuracy from a formula, an epoch at a time; goes on from its checkpoint like a real training.

    Attributes:
        epoch_s: how long an epoch takes.
    """

    epoch_s: float = 0.0

    def costs(self, architecture: Architecture) -> Mapping[str, float]:
        choices = architecture.choices
        if choices.get("fault") == "unbuildable":
            raise SpaceError("its layers do not fit together")
        return {"macs": sum(float(choices[name]) for name in "abc" if name in choices) / 3, "params": 7.0}

    def accuracy(self, architecture: Architecture, epoch: int) -> float:
        choices = architecture.choices
        size = sum((place + 1) * float(choices[name]) for place, name in enumerate("abc") if name in choices)
        return (0.1 + size / 25 + 0.05 * float(choices.get("stem", 0))) * (1 - 0.5 / epoch)

    def evaluate(self, architecture: Architecture, fidelity: int, seed: int, checkpoint: Path) -> Iterator[Measurement]:
        state = checkpoint / "epoch"
        done = int(state.read_text()) if state.exists() else 0
        for epoch in range(min(done + 1, fidelity), fidelity + 1):
            time.sleep(self.epoch_s if epoch > done else 0)
            self._break(str(architecture.choices.get("fault", "none")), epoch, checkpoint)
            with (checkpoint / "log").open("a") as log:
                log.write(f"{epoch}\n")
            (checkpoint / "next").write_text(str(max(done, epoch)))
            (checkpoint / "next").replace(state)
            yield Measurement(
                fidelity=epoch,
                values=self._values(architecture, epoch) if epoch == fidelity else {},
                metrics={"loss": 1 / epoch, "pid": os.getpid()},
            )

    def _values(self, architecture: Architecture, epoch: int) -> dict[str, float]:
        fault = architecture.choices.get("fault", "none")
        if fault == "missing":
            return {"precision": 1.0}
        return {"accuracy": float("nan") if fault == "nan" else self.accuracy(architecture, epoch)}

    def _break(self, fault: str, epoch: int, checkpoint: Path) -> None:
        if fault == "raises" and epoch == 2:
            raise RuntimeError("CUDA out of memory")
        if fault == "dies" and epoch == 2:
            os._exit(7)
        if fault.startswith("cuda") and epoch == 4 and self._again(fault, checkpoint):
            _BROKEN.append(fault)  # as a broken CUDA context: nothing works in this process any more
        if _BROKEN:
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
        if fault.startswith("enospc") and epoch == 4 and self._again(fault, checkpoint):
            Path("/dev/full").write_text("weights")
        if fault == "dies_once" and epoch == 4 and not (checkpoint / "died").exists():
            (checkpoint / "died").touch()
            os._exit(7)

    def _again(self, fault: str, checkpoint: Path) -> bool:
        """Notes the process; a fault that happens `_once` does not do so again."""
        with (checkpoint / "broke").open("a") as broke:
            broke.write(f"{os.getpid()} {ray.get_runtime_context().get_node_id()}\n")
        return not fault.endswith("_once") or len((checkpoint / "broke").read_text().splitlines()) == 1

    def test(self, architecture: Architecture, checkpoint: Path) -> float:
        if not (checkpoint / "epoch").exists():
            raise FileNotFoundError("no weights")
        return self.accuracy(architecture, RUNGS[-1]) - 0.01


def checkpoint(study: Study, number: int) -> Path:
    """What the training of a trial has for itself, where it is kept by default."""
    return study.directory.resolve() / TRIALS / str(number)


def drive(study: Study, evaluator: Evaluator, *, measurements: int = sys.maxsize) -> Idle | None:
    """Trains in this process, one trial at a time; walks away after so many measurements."""
    while isinstance(work := study.next(), Assignment):
        training = carry_out(evaluator, work, checkpoint(study, work.number))
        try:
            for measurement in training:
                goes_on = study.report(work.number, measurement)
                measurements -= 1
                if measurements <= 0:
                    return None
                if not goes_on:
                    break
        except Exception as error:
            study.fail(work.number, said(error))
    return work


def summary(study: Study) -> list[tuple[Any, ...]]:
    """What must be the same whenever the same search is run: no times, no processes."""
    return [
        (r.number, r.architecture.id, r.state.value, r.reason, dict(r.values), [m.fidelity for m in r.history])
        for r in study.records()
    ]


def main(directory: str, options: str) -> None:
    """A driver of its own: `python -m tests.search.plain DIRECTORY '{"trials": 9, ...}'`; prints why it ended."""
    given = json.loads(options)
    epoch_s, cpus, address = given.pop("epoch_s", 0.0), given.pop("cpus", None), given.pop("address", None)
    storage = given.pop("storage", None)
    file, evaluator, place = plain_space(**given), Table(epoch_s=epoch_s), Path(directory)
    if studies.exists(place, storage=storage):
        study = studies.resume(place, file, evaluator, storage=storage)
    else:
        study = studies.begin(place, file, evaluator, reference_point=REFERENCE, storage=storage)
    sys.stdout.write("begun\n")
    sys.stdout.flush()
    over = execute(study, evaluator, address=address, resources=Resources(cpus=cpus))
    study.close()
    sys.stdout.write(f"{over}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
