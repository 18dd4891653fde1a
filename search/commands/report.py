"""`archsearch report`: a search told in one HTML file."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from search import results
from search.commands.options import RUNS, Name, Runs
from search.report.page import front_page
from search.report.story import Story
from search.study.importance import importance
from spaces import InputError


def report(
    name: Name,
    runs: Runs = RUNS,
    output: Annotated[
        Path | None, typer.Option("--output", help="File to write; NAME-report.html by default.", show_default=False)
    ] = None,
) -> None:
    """Write what a search has found as one HTML page that needs nothing else, also while it runs."""
    study = results.opened(runs, name)
    story = Story(
        name=study.directory.name,
        records=study.records(),
        front=study.front,
        importance=lambda: importance(study),
    )
    path = output or Path(f"{name}-report.html")
    path.write_text(front_page(story, links=lambda record: None), encoding="utf-8")
    Console().print(f"{path}", markup=False, highlight=False, soft_wrap=True)
