"""What a person sees of a confirmation: how far the trainings are, and at the end who stands where."""

from collections.abc import Iterator
from types import TracebackType
from typing import Self, final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from search.confirmation.record import TESTS, Confirmation, Contender, Interval
from search.confirmation.roster import Job
from search.evaluator import UNSTEADY
from search.report.points import shown

REACHED = dict(zip(TESTS, ("test accuracy", "calibration error", "corrupted"), strict=True))
"""What is told of a contender, by the name of the value, with the head of its column."""


@final
class Display:
    """Shows how far the trainings are; a context manager around them.

    Args:
        total: trainings of the confirmation.
        done: of them before this run.
    """

    def __init__(self, console: Console, *, total: int, done: int):
        self._console, self._running = console, dict[int, str]()
        self._total, self._done = total, done
        columns = TextColumn("retraining"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        running = TextColumn("{task.description}", markup=False)
        self._progress = Progress(*columns, running, console=console, transient=True)
        self._task = self._progress.add_task("", total=total, completed=done)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._progress.stop()

    def began(self, job: Job) -> None:
        self._running[job.number] = _name(job)
        self._show()

    def ended(self, job: Job, said: str) -> None:
        self._running.pop(job.number, None)
        self._done += 1
        self._show()
        line = f"[{self._done}/{self._total}] {_name(job)}: {said}"
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _show(self) -> None:
        self._progress.update(self._task, completed=self._done, description="; ".join(self._running.values()))


def _name(job: Job) -> str:
    return f"{job.architecture.label}, seed {job.seed}"


def told(found: Confirmation, objectives: tuple[str, ...]) -> Iterator[Table | Text]:
    """A confirmation: the contenders as a table, what is said of each, and what the search has gained.

    Args:
        objectives: of the search.
    """
    seeds = f"{len(found.seeds)} seeds" if len(found.seeds) > 1 else "one seed"
    yield Text(f"Trained again on {found.trained_on} with {seeds}, tested on {found.images} images", style="bold")
    names = found.costs(objectives)
    table = Table(box=None, header_style="bold", padding=(0, 1, 0, 0))
    table.add_column("", justify="right")
    table.add_column("architecture", overflow="fold", min_width=20)  # a name of timm's is seldom longer
    for name in (*names, *REACHED.values()):
        table.add_column(name, justify="right")
    for place, one in enumerate(found.contenders, start=1):
        cells = [_cost(one, name) for name in names]
        cells += [with_width(one.summary[name]) if name in one.summary else "-" for name in REACHED]
        table.add_row(str(place), Text(one.architecture.label), *cells)
    yield table
    if any(one.costs.get(name + UNSTEADY) for one in found.contenders for name in names):
        yield Text("~ measured, but not steadily", style="dim")
    yield Text()
    for place, one in enumerate(found.contenders, start=1):
        yield Text(f"{place:>2} {_kind(one)}: {one.verdict}")
    for failure in found.failures:
        yield Text(f" - {failure.architecture.label}, seed {failure.seed} failed: {failure.reason}", style="yellow")
    yield Text(f"\n{found.gain}")


def with_width(interval: Interval) -> str:
    """A mean with half the width of its interval, where it has one."""
    return f"{interval.mean:.4f}" + (f" ±{interval.half_width:.4f}" if interval.half_width else "")


def _cost(one: Contender, name: str) -> str:
    if name not in one.costs:
        return "-"
    return shown(one.costs[name]) + ("~" if one.costs.get(name + UNSTEADY) else "")


def _kind(one: Contender) -> str:
    words = "backbone" if one.trial is None else "member"
    return f"{words} {one.architecture.label}"
