"""`archsearch report`: a search told in one HTML file."""

import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from search import results
from search.commands.options import RUNS, Name, Runs
from search.confirmation import store
from search.data.dataset import file_faults
from search.report.page import MADE_BY, front_page
from search.report.story import Story
from search.study.importance import importance
from search.study.lineage import NOTES
from spaces import InputError


def report(
    name: Name,
    runs: Runs = RUNS,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="File to write; NAME-report.html by default.", metavar="FILE", show_default=False
        ),
    ] = None,
) -> None:
    """Write what a search has found as one HTML page that needs nothing else, also while it runs."""
    study = results.opened(runs, name)
    story = Story(
        name=name,
        records=study.records(),
        front=study.front,
        importance=lambda: importance(study),
        confirmation=store.read(study.directory),
        start=NOTES.get(study.file.train.inherit, ""),
    )
    path = output or Path(f"{name}-report.html")
    with file_faults(path):
        _refuse_others(path)
        part = path.with_name(f".{path.name}.part")  # an earlier report stays until this one is whole
        try:
            part.write_text(front_page(story, links=lambda record: _run(record.mlflow_run_id)), encoding="utf-8")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    where = "" if runs == RUNS else f" --runs {shlex.quote(str(runs))}"
    said = f"{path}: open it in a browser; its links lead to MLflow while `archsearch ui{where}` runs"
    Console().print(said, markup=False, highlight=False, soft_wrap=True)


def _run(run_id: str | None) -> str | None:
    """MLflow finds a run by its id alone; the experiment only names the page that it is shown on."""
    return None if run_id is None else f"#/experiments/0/runs/{run_id}"


def _refuse_others(path: Path) -> None:
    """A report may take the place of an earlier one, of nothing else.

    Raises:
        InputError: there is something else, or no folder for it.
    """
    if path.is_dir():
        raise InputError(f"--output {path} is a folder; give the name of a file, as {path / 'report.html'}")
    if not path.parent.is_dir():
        raise InputError(f"--output {path}: there is no folder {path.parent}")
    if path.exists() and not (path.is_file() and MADE_BY in _head(path)):
        raise InputError(f"{path} is no report of archsearch and stays as it is; choose another name with --output")


def _head(path: Path) -> str:
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.read(2000)
