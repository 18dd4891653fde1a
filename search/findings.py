"""What `archsearch backbones` prints: findings as they come, for people or for programs.

Knows findings and terminals, nothing of how findings are made.
"""

import json
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from spaces.survey import Finding

Row = tuple[str, Mapping[str, Finding]]
PIPED = 160  # columns, where no terminal says how many it has


def write_json(rows: Iterable[Row], out: TextIO) -> None:
    """One JSON object `{name: {dimension: finding}}`, row by row, and whole also if Ctrl-C ends the rows early."""
    out.write("{")
    before = "\n"
    try:
        for name, findings in rows:
            content = {dimension: finding.to_dict() for dimension, finding in findings.items()}
            with _uninterrupted():
                out.write(f"{before}{json.dumps(name)}: {json.dumps(content, allow_nan=False)}")
                out.flush()
            before = ",\n"
    finally:
        out.write("\n}\n")


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C waits for the end of what must not be done by half; only in the main thread."""
    held: list[int] = []
    usual = signal.signal(signal.SIGINT, lambda number, frame: held.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
    if held:
        raise KeyboardInterrupt


def show(rows: Iterable[Row], names: Sequence[str], console: Console) -> None:
    """A table whose rows appear as they come; a single model is told in full."""
    if len(names) == 1:
        for name, findings in rows:
            console.print(_in_full(name, findings))
        return
    console.width = console.width if console.is_terminal else max(console.width, PIPED)
    longest, header = max(map(len, names)), True
    for name, findings in rows:
        console.print(_line(name, findings, longest, console.width, header=header))
        header = False
    console.print("Numbers count choices beside the default; `archsearch backbones NAME` tells of one in full.")


def _line(name: str, findings: Mapping[str, Finding], longest: int, width: int, *, header: bool) -> Table:
    """One row: in each dimension the choices beside the default, or why there are none, cut to fit."""
    each = max(6, (width - longest) // len(findings) - 2)
    table = Table(box=None, show_header=header, pad_edge=False)
    table.add_column("backbone", width=longest, no_wrap=True)
    cells = []
    for dimension, finding in findings.items():
        table.add_column(dimension, width=each, no_wrap=True, overflow="ellipsis")
        count = Text(str(len(finding.choices) - 1), style="green")
        cells.append(count if finding.applies else Text(finding.reason, style="dim"))
    table.add_row(name, *cells)
    return table


def _in_full(name: str, findings: Mapping[str, Finding]) -> Table:
    table = Table(title=name, title_justify="left")
    for column in ("dimension", "choices", "left out"):
        table.add_column(column, overflow="fold")
    for dimension, finding in findings.items():
        choices = ", ".join(each if isinstance(each, str) else json.dumps(each) for each in finding.choices)
        table.add_row(dimension, Text(choices if finding.applies else "-"), Text(finding.reason))
    return table
