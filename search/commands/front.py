"""`archsearch front`, `pick` and `ui`: what a search has found."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from search import results
from search.checkpoints.places import public
from search.commands.options import RUNS, Name, Runs, Tracking
from search.confirmation import store
from search.confirmation.display import told
from search.live import front_table
from search.study.lineage import NOTES
from search.tracking.mlflow_store import reach
from search.tracking.tracker import ui_command
from spaces import InputError


def front(
    name: Name,
    runs: Runs = RUNS,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of a table.")] = False,
) -> None:
    """Show the front of a search, also while it runs."""
    found = results.opened(runs, name)
    if as_json:
        print(json.dumps(results.front_as_dict(found), indent=2, allow_nan=False))  # noqa: T201
        return
    console = Console()
    note = NOTES.get(found.file.train.inherit)
    console.print(front_table(found.front, inherits=note is not None))
    if note is not None:
        console.print(f"note: {note}", style="dim", highlight=False, soft_wrap=True)
    counts = ", ".join(f"{number} {state}" for state, number in found.counts().items())
    if (confirmed := store.read(found.directory)) is not None:
        console.print()
        for part in told(confirmed, found.objectives.names):
            console.print(part)
    console.print(f"\nhypervolume {found.front.hypervolume:.6g}; trials: {counts}", highlight=False)


def pick(
    name: Name,
    runs: Runs = RUNS,
    most: Annotated[
        list[str] | None,
        typer.Option("--max", help="Bound an objective or a cost from above, as macs=5e6; may be given often."),
    ] = None,
    least: Annotated[
        list[str] | None,
        typer.Option("--min", help="Bound one from below, as throughput=1000; may be given often."),
    ] = None,
    prefer: Annotated[
        str | None, typer.Option(help="The objective to be best in; the first one by default.", show_default=False)
    ] = None,
    chosen: Annotated[
        str | None, typer.Option("--id", help="Take this architecture of the front.", show_default=False)
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", help="Folder to write; NAME-ID by default.", show_default=False)
    ] = None,
) -> None:
    """Write a model of the front to a folder: weights, architecture, classes, preprocessing, a snippet to use it."""
    found = results.opened(runs, name)
    record = results.choose(found.front, most=most or [], least=least or [], prefer=prefer, chosen=chosen)
    folder = output or Path(f"{name}-{record.network.id}")
    results.write(found, record, folder)
    console = Console()
    contender = None if (found_again := store.read(found.directory)) is None else found_again.of(record.number)
    which = "" if contender is None else f", as trained again with seed {contender.median.seed}"
    console.print(Text(f"{record.network.label} is in {folder}{which}"))
    console.print(f"Use it:\n  python {folder / 'predict.py'} IMAGE\n", markup=False, highlight=False, soft_wrap=True)
    console.print((folder / "predict.py").read_text(), markup=False, highlight=False, soft_wrap=True)


def ui(
    runs: Runs = RUNS,
    port: Annotated[int, typer.Option(help="Port on this machine.", min=1, max=65535)] = 5000,
    tracking: Tracking = None,
) -> None:
    """Open the MLflow UI on the searches of a folder, or of a database; Ctrl-C closes it."""
    if tracking is None and not (runs / "mlflow.db").is_file():
        raise InputError(
            f"{runs} has no MLflow store; `archsearch run SPACE` makes one. Searches that were run with --tracking "
            "are shown with the same --tracking"
        )
    address = None
    if tracking is not None:
        address = reach(tracking)
        if tracking.startswith(("http:", "https:")):
            Console().print(f"MLflow on {public(tracking)}; open it in a browser", soft_wrap=True)
            return
    Console().print(f"MLflow on http://127.0.0.1:{port} (Ctrl-C ends it)")
    command, environment = ui_command(runs, port, tracking=address)
    os.execve(command[0], command, environment)
