"""What a person sees in the terminal while a search runs, and the front as a table at its end.

An observer of the study: a panel that redraws itself on a terminal, one line a trial elsewhere. Reads the study,
nothing more.
"""

import time
from types import TracebackType
from typing import Self, final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from search.evaluator import SPREAD, UNSTEADY
from search.record import Front, State, TrialRecord
from search.report.labels import label_of
from search.report.points import shown
from search.study.lineage import NOTES
from search.study.study import Study

MOST_ROWS = 8  # of the front, so that the panel fits a terminal of 24 lines beside four running trials


@final
class Display:
    """Shows a search; a context manager around it."""

    def __init__(self, console: Console, study: Study):
        self._console, self._study = console, study
        self._trials, fidelity = study.file.search.trials, study.file.search.fidelity
        self._fidelity, self._unit = fidelity.max, fidelity.unit
        self._running: dict[int, TrialRecord] = {}
        self._look()
        self._began, self._share_before = time.monotonic(), max(study.spent.values())
        self._live = Live(console=console, get_renderable=self._panel, refresh_per_second=4, transient=True)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._live.stop()

    def started(self, record: TrialRecord) -> None:
        self.measured(record)

    def measured(self, record: TrialRecord) -> None:
        if record.state is State.RUNNING:
            self._running[record.number] = record
        else:
            self._running.pop(record.number, None)
        self._look()

    def ended(self, record: TrialRecord) -> None:
        self._running.pop(record.number, None)
        self._look()
        if self._console.is_terminal or not record.state.counts:
            return
        values = ", ".join(f"{name} {shown(value)}" for name, value in record.values.items())
        said = values or record.reason
        done = f"[{self._done(self._study.ended)}]"
        line = f"{done} {record.state}: {label_of(record.architecture)}: {said}"
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _look(self) -> None:
        """Take a copy for the thread that draws."""
        self._seen = (self._study.counts(), self._study.ended, self._study.front, dict(self._running))

    def _panel(self) -> RenderableType:
        counts, done, front, running = self._seen
        bar = Table.grid(padding=(0, 1))
        share = max(self._study.spent.values())
        bar.add_row(ProgressBar(1.0, share, width=30), f"{self._done(done)} trials", self._time_left(share))
        states = "  ".join(f"{counts.get(state, 0)} {state}" for state in State)
        parts: list[RenderableType] = [bar, Text(states, style="dim")]
        parts += [self._line(record) for _, record in sorted(running.items())[:4]]
        parts.append(Text(f"front of {len(front.members)}, hypervolume {front.hypervolume:.6g}", style="bold"))
        if front.members:
            parts.append(front_table(front, most=MOST_ROWS, inherits=self._study.file.train.inherit in NOTES))
        return Panel(Group(*parts), title=self._study.directory.name, title_align="left")

    def _line(self, record: TrialRecord) -> Text:
        last = record.history[-1].metrics if record.history else {}
        news = ", ".join(
            f"{name} {shown(value)}" for name, value in last.items() if name.endswith(("loss", "accuracy"))
        )
        where = f"{self._unit} {record.fidelity}/{self._fidelity}"
        return Text(
            f"  #{record.number} {label_of(record.architecture)}  {where}  {news}", overflow="ellipsis", no_wrap=True
        )

    def _done(self, trials: int) -> str:
        return f"{trials}/{self._trials}" if self._trials else str(trials)

    def _time_left(self, share: float) -> str:
        seconds = time.monotonic() - self._began
        if share <= self._share_before:
            return f"{_clock(seconds)} so far"
        left = seconds / (share - self._share_before) * max(0.0, 1.0 - share)
        return f"{_clock(seconds)} so far, about {_clock(left)} left"


def front_table(front: Front, *, most: int | None = None, inherits: bool = False) -> Table:
    """The members of a front, the best in the first objective first.

    Args:
        inherits: whether trainings start from weights of others; where any member did, it is said in any case.
    """
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    tested = any(record.test_accuracy is not None for record in front.members)
    inherits = inherits or any(record.inherited_from is not None for record in front.members)
    table.add_column("id", no_wrap=True)
    table.add_column("architecture", overflow="fold")
    for name in (*front.objectives.names, *(["test_accuracy"] if tested else [])):
        table.add_column(name, justify="right", no_wrap=True)
    if inherits:
        table.add_column("started from", no_wrap=True)
    for record in front.members[:most]:
        cells = [_cell(record, name) for name in front.objectives.names]
        if tested:
            cells.append("" if record.test_accuracy is None else shown(record.test_accuracy))
        if inherits:
            cells.append(record.start)
        table.add_row(record.network.id, Text(label_of(record.network)), *cells)
    if most is not None and len(front.members) > most:
        table.add_row("", f"... and {len(front.members) - most} more")
    return table


def _cell(record: TrialRecord, name: str) -> str:
    """A value; with its spread where it was measured with a clock, and a mark where that is too large."""
    value, spread = shown(record.values[name]), record.costs.get(name + SPREAD)
    if spread is None:
        return value
    return f"{value} ±{spread:.0%}{' unsteady' if record.costs.get(name + UNSTEADY) else ''}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
