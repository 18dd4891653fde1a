"""Task: what a space file asks for, opened: the space, its images, and who evaluates its architectures.

Knows the timm evaluator by name; nothing of studies, workers or tracking.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from search.costing import Costing, entries
from search.data import Dataset
from search.evaluator import Evaluator
from search.gate import Gate
from search.trial import TimmEvaluator, dataset_of
from spaces import InputError, SearchSpace, SpaceError, SpaceFile, load
from spaces.schema import ACCURACY, NEAREST, PARENT, locate

Given = str | Path | Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is searched.

    Attributes:
        given: as the user said it: a file, or the same object from Python.
        dataset: None where the evaluator is the user's own.
    """

    given: Given
    file: SpaceFile
    space: SearchSpace
    dataset: Dataset | None
    evaluator: Evaluator

    @property
    def costing(self) -> Costing | None:
        """None where the evaluator is the user's own."""
        return self.evaluator.costing if isinstance(self.evaluator, TimmEvaluator) else None

    @property
    def text(self) -> str:
        """The space file, or the object as JSON."""
        if isinstance(self.given, Mapping):
            return json.dumps(self.file.to_dict(), indent=2)
        return Path(self.given).read_text("utf-8")

    @property
    def data(self) -> dict[str, str]:
        """What must not change between a search and its resumption, in words."""
        if self.dataset is None:
            return {}
        dataset = self.dataset
        pixels = hashlib.sha256(np.ascontiguousarray(dataset.images).data)
        split = hashlib.sha256(b"".join(part.tobytes() for part in (dataset.train, dataset.val, dataset.test)))
        return {
            "classes": ", ".join(dataset.classes),
            "number of images": str(len(dataset.labels)),
            "hash of the images": pixels.hexdigest()[:12],
            "hash of the labels": hashlib.sha256(dataset.labels.tobytes()).hexdigest()[:12],
            "hash of the splits": split.hexdigest()[:12],
            "preprocessing": json.dumps(dataset.preprocessing.to_dict()),
        }


def opened(
    given: Given, *, evaluator: Evaluator | None = None, allow_code: bool = False, **budget: float | None
) -> Task:
    """
    Args:
        given: a space file, or the same object from Python.
        evaluator: None trains timm networks on the space's data.
        allow_code: whether functions that the space file names may run.
        budget: instead of `search.trials` and so on; None keeps those.

    Raises:
        InputError: something given cannot be; the message says what, where and what is allowed.
    """
    file = _file(given, budget)
    try:
        space, dataset = SearchSpace(file), None
        if evaluator is not None and file.costs:
            raise SpaceError("are those of timm networks; your evaluator has its own, in `costs`", key="costs")
        if evaluator is not None and file.train.inherit in (PARENT, NEAREST):
            reason = f"{file.train.inherit} is of timm networks; what your evaluator starts from is its own affair"
            raise SpaceError(reason, key="train.inherit")
        if evaluator is None:
            if not file.backbones or file.data is None:
                raise InputError(
                    "a space of plain choices needs an evaluator of your own: search.run.run(..., evaluator=...)"
                )
            for name, entry in file.costs.items():
                if entry.function is not None and not allow_code:
                    reason = f"{entry.function} is code, and runs only where it is allowed: --allow-code"
                    raise SpaceError(reason, key=f"costs.{name}")
            entries(file)  # unknown names first, reading images takes longer
            dataset = dataset_of(file)
            evaluator = TimmEvaluator(file, dataset)
            for architecture in space.backbones():
                try:
                    evaluator.costs(architecture)
                except SpaceError as error:
                    raise SpaceError(error.reason, key=error.key or "backbones") from None
    except SpaceError as error:
        raise locate(error, given) from None
    return Task(given=given, file=file, space=space, dataset=dataset, evaluator=evaluator)


def _file(given: Given, budget: Mapping[str, float | None]) -> SpaceFile:
    file, wanted = load(given), {name: value for name, value in budget.items() if value is not None}
    for name, value in wanted.items():
        flag = f"--{name.replace('_', '-')} {value}"
        if name == "trials" and (not isinstance(value, int) or value < 1):
            raise InputError(f"{flag}: at least one training must be started")
        if not 0 < value < math.inf:
            raise InputError(f"{flag} is not a number above 0")
    return file.model_copy(update={"search": file.search.model_copy(update=wanted)})


def reference_point(task: Task, evaluator: Evaluator) -> dict[str, float]:
    """Where the hypervolume begins: as given, else what needs no search to reach.

    That is the accuracy of always naming the largest class and, of a cost, its constraint on that side, else the worst
    of the feasible unmodified backbones.

    Args:
        evaluator: that of the task, with its meter.

    Raises:
        InputError: a value is needed that only the user knows.
    """
    file, dataset = task.file, task.dataset
    if file.search.reference_point is not None:
        return dict(file.search.reference_point)
    if dataset is None:
        raise InputError("search.reference_point is needed with an evaluator of your own: a value for each objective")
    gate, plain = Gate(evaluator, file.constraints), list(task.space.backbones())
    kinds = {name: entry.cost for name, entry in entries(file).items()}
    point = {}
    for name, direction in file.objectives.items():
        worst = max if direction == "minimize" else min
        bound = file.constraints.get(name)
        limit = None if bound is None else bound.max if direction == "minimize" else bound.min
        if kinds.get(name, name) in (ACCURACY, "corruption_accuracy"):
            point[name] = dataset.majority_rate
        elif kinds.get(name) == "calibration_error":
            point[name] = 1.0  # no network does worse
        elif limit is not None:
            point[name] = limit
        else:
            feasible = [gate.check(architecture) for architecture in plain if gate.count(architecture).feasible]
            known = [found.costs[name] for found in feasible if found.feasible] or [
                {**gate.count(architecture).costs, **gate.measure(architecture)}[name] for architecture in plain
            ]
            point[name] = worst(known)
    return point
