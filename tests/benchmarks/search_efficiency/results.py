"""All searches of a benchmark so far: written after each, gone on from, shown at the end."""

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.machine import circumstances
from tests.benchmarks.search_efficiency import shown
from tests.benchmarks.search_efficiency.methods import FREE, METHODS, OURS, PRESENT, Setting, Task

ROOT = Path(__file__).resolve().parents[3]
# options that must be the same for a run to go on
KEPT = ("table", "prefix", "rungs", "trials", "hours", "until", "features", "earlier", "earlier_trials")

Row = dict[str, Any]


def kept_options(given: argparse.Namespace) -> dict[str, Any]:
    return {name: value.name if isinstance(value := getattr(given, name), Path) else value for name in KEPT}


def earlier(given: argparse.Namespace) -> list[Row]:
    """The searches that OUT holds already, where the run is to go on."""
    if not given.resume or not given.json.exists():
        return []
    content = json.loads(given.json.read_text())
    for name, value in kept_options(given).items():
        if content["options"][name] != value:
            sys.exit(f"{given.json} was made with {name} {content['options'][name]}, not {value}; write another file")
    for row in content["runs"]:
        row["hours_to"] = {share: math.inf if at is None else at for share, at in row["hours_to"].items()}
    return [row for row in content["runs"] if base(row) not in given.again]


def base(row: Row) -> str:
    """The method that a row is of, under whatever clock."""
    name: str = row["method"]
    return name.removesuffix(FREE)


def commit() -> str | None:
    """With a plus where something is not committed."""

    def git(*command: str) -> str:
        done = subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    found = git("rev-parse", "HEAD")
    return found + "+" * bool(git("status", "--porcelain", "--untracked-files=no")) if found else None


class Results:
    """All searches so far, as they are written and shown."""

    def __init__(self, given: argparse.Namespace, setting: Setting, skipped: Mapping[str, str], rows: list[Row]):
        self._given, self._rows = given, rows
        replays = [setting.replay(cost, 0) for cost in given.cost]
        self._head: dict[str, Any] = {
            **circumstances(),
            "commit": commit(),
            "options": kept_options(given),
            "shares": setting.shares,
            "references": {replay.cost: replay.reference for replay in replays},
            "budget_hours": {str(count): setting.budget(replays[0], count) for count in given.workers},
            "skipped": dict(skipped),
        }

    def missing(self, tasks: Sequence[Task]) -> list[Task]:
        there = {(row["cost"], row["workers"], row["method"], row["seed"]) for row in self._rows}
        return [task for task in tasks if (task.cost, task.workers, task.method, task.seed) not in there]

    def add(self, rows: Sequence[Row]) -> None:
        self._rows += rows
        self.write()

    def at(self, cost: str, workers: int) -> list[Row]:
        """In the order of methods and seeds."""
        there = [row for row in self._rows if (row["cost"], row["workers"]) == (cost, workers)]
        return sorted(there, key=lambda row: (METHODS.index(base(row)), row["method"], row["seed"]))

    def column(self, cost: str, workers: int) -> dict[str, Any]:
        methods = {name: shown.summary(rows) for name, rows in shown.by_method(self.at(cost, workers)).items()}
        ours = OURS if OURS in methods or PRESENT not in methods else PRESENT
        return {"methods": methods, "ours": ours, "against_best_stock": shown.against(methods, ours)}

    def write(self) -> None:
        """Whole or not at all."""
        if not self._given.json:
            return
        costs = list(dict.fromkeys([*self._given.cost, *(row["cost"] for row in self._rows)]))
        counts = list(dict.fromkeys([*self._given.workers, *(row["workers"] for row in self._rows)]))
        columns = {cost: {str(count): self.column(cost, count) for count in counts} for cost in costs}
        first = columns[costs[0]][str(counts[0])]
        seeds = sorted({row["seed"] for row in self._rows})
        content = {**self._head, "seeds": seeds, **first, "columns": columns, "runs": list(map(finite, self._rows))}
        partial_file = self._given.json.with_name(self._given.json.name + ".part")
        partial_file.write_text(json.dumps(content, allow_nan=False) + "\n")
        partial_file.replace(self._given.json)

    def show(self) -> None:
        panels = {(cost, count): self.at(cost, count) for cost in self._given.cost for count in self._given.workers}
        for (cost, count), rows in panels.items():
            if not rows:
                continue
            column = self.column(cost, count)
            print(f"\n{cost}, workers: {count}, seeds: {self._given.seeds}; medians (quartiles)\n")
            print(shown.table(column["methods"]))
            print("", *shown.compared(column), sep="\n")
        if self._given.plot and any(panels.values()):
            shown.plot({place: rows for place, rows in panels.items() if rows}, self._given.plot)


def finite(row: Row) -> Row:
    """With null for infinity."""
    hours = {share: at if math.isfinite(at) else None for share, at in row["hours_to"].items()}
    return {**row, "hours_to": hours}
