"""A table of finished trainings, replayed: what a search sees of each cell, what that costs, and how good it truly is.

The layout is that of the table of NAS-Bench-201 in ../shared: CSV, plain or gzipped, a row a cell, for a data set with
the prefix P. `code` has a digit an edge, into `OPERATIONS`; `P_val_200ep` is the truth, a mean over seeds, in %;
`P_val_seed0` and `P_val_seed1` are single runs of 200 epochs, `P_val_12ep` a training of 12 epochs of its own, and
`P_train_time_s` the seconds of 200 epochs. Any column can be the cost.

Knows the port of evaluators, no samplers and no clock.
"""

import csv
import gzip
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TextIO, cast

from search.evaluator import Measurement
from search.pareto import hypervolume
from spaces import Architecture
from tests.benchmarks.machine import SHARED

TABLE = SHARED / "bench/nasbench201_cifar10.csv.gz"
OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
RUNGS = (12, 200)
ACCURACY = "accuracy"
COUNTED = {"macs": "macs_M_calc", "params": "params_M_calc"}  # costs that a real evaluator knows as well, in millions

Cells = Mapping[str, Mapping[str, float]]


class TableError(Exception):
    """A table that cannot be replayed; the message says why."""


def opened(path: Path) -> TextIO:
    """A table, plain or gzipped."""
    return cast(TextIO, gzip.open(path, "rt", newline="")) if path.suffix == ".gz" else path.open(newline="")


def read(
    path: Path, *, prefix: str, costs: Iterable[str], rungs: Sequence[int] = RUNGS, features: Iterable[str] = ()
) -> Cells:
    """The cells of a table by their code, with all that a replay of these rungs needs of them.

    Args:
        features: columns that are kept as well, beside those of `COUNTED` that are there.

    Raises:
        TableError: a column, a value or a cell is missing.
    """
    cheap = ["val_12ep"] if RUNGS[0] in rungs else []
    needed = [f"{prefix}_{name}" for name in ("val_200ep", *cheap, "val_seed0", "val_seed1", "train_time_s")]
    needed += [*costs, *features]
    with opened(path) as file:
        rows = csv.DictReader(file)
        there = rows.fieldnames or []
        if missing := [name for name in ("code", *needed) if name not in there]:
            raise TableError(f"{path} has no column {', '.join(missing)}; its columns are {', '.join(there)}")
        kept = [*dict.fromkeys(needed + [name for name in COUNTED.values() if name in there])]
        cells = {row["code"]: {name: _number(path, row, name) for name in kept} for row in rows}
    if math.prod(map(len, choices(cells))) != len(cells):
        raise TableError(f"{path} does not have every combination of its operations: {len(cells)} cells")
    return cells


def _number(path: Path, row: Mapping[str, str], name: str) -> float:
    try:
        return float(row[name])
    except ValueError:
        raise TableError(f"{path}: cell {row['code']} has no {name}, but {row[name]!r}") from None


def choices(cells: Cells) -> list[list[str]]:
    """The operations that occur, by edge."""
    return [[OPERATIONS[int(digit)] for digit in sorted(set(digits))] for digits in zip(*cells, strict=True)]


def dimensions(cells: Cells) -> dict[str, list[str]]:
    """Of a space of all cells."""
    return {f"edge{place}": operations for place, operations in enumerate(choices(cells))}


def coded(chosen: Mapping[str, Any]) -> str:
    """The code of a cell, from its operation on each edge."""
    return "".join(str(OPERATIONS.index(operation)) for _, operation in sorted(chosen.items()))


@dataclass(frozen=True, kw_only=True)
class Replay:
    """An evaluator: what the table says of a cell, for one draw of the noise.

    Attributes:
        cost: the column that is minimised; an objective under its own name.
        run: which of the full trainings is seen, 0 or 1.
        features: what else is told of a cell before it is trained, beside the cost: columns by name.
        reference: (accuracy in %, cost) up to which hypervolume counts.
    """

    cells: Cells
    prefix: str
    cost: str
    run: int
    reference: tuple[float, float]
    features: Mapping[str, str] = field(default_factory=lambda: COUNTED)

    # The port

    def costs(self, architecture: Architecture) -> Mapping[str, float]:
        return self.known(coded(architecture.choices))

    def evaluate(self, architecture: Architecture, fidelity: int, seed: int, checkpoint: Path) -> Iterator[Measurement]:
        yield Measurement(fidelity=fidelity, values={ACCURACY: self.seen(coded(architecture.choices), fidelity)})

    # By code

    def known(self, code: str) -> dict[str, float]:
        """Every cost, by name."""
        cell = self.cells[code]
        features = {name: cell[column] for name, column in self.features.items() if column in cell}
        return {self.cost: cell[self.cost], **features}

    def seen(self, code: str, fidelity: int) -> float:
        """The accuracy in % that a training to a rung shows."""
        return self.cells[code][f"{self.prefix}_val_{'12ep' if fidelity == RUNGS[0] else f'seed{self.run}'}"]

    def hours(self, code: str, fidelity: int) -> float:
        """Of a training to a rung, from its start: a promotion pays the lower rung again."""
        return self.cells[code][f"{self.prefix}_train_time_s"] / 3600 * fidelity / RUNGS[-1]

    def truth(self, code: str) -> tuple[float, float]:
        """To be minimised."""
        return -self.cells[code][f"{self.prefix}_val_200ep"], self.cells[code][self.cost]

    @property
    def reference_point(self) -> dict[str, float]:
        """By objective, as a search is told it."""
        return {ACCURACY: self.reference[0], self.cost: self.reference[1]}

    @cached_property
    def best(self) -> float:
        """The hypervolume of all cells."""
        return self.volume(list(map(self.truth, self.cells)))

    @cached_property
    def mean_hours(self) -> float:
        """Of a full training."""
        return sum(self.hours(code, RUNGS[-1]) for code in self.cells) / len(self.cells)

    def volume(self, truths: Sequence[tuple[float, float]]) -> float:
        return hypervolume(truths, (-self.reference[0], self.reference[1]))
