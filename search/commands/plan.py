"""`archsearch plan` and `archsearch backbones`: look before you spend."""

import json
import sys
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from search import findings
from search.commands.options import RUNS, AllowCode, Runs
from search.planning.plan import Plan, planned
from search.planning.tables import tables
from spaces import InputError, survey


def plan(
    space: Annotated[Path, typer.Argument(help="The space file.", metavar="SPACE")],
    runs: Runs = RUNS,
    threads: Annotated[int, typer.Option("--cpus-per-trial", help="CPU cores of a training.", min=1)] = 1,
    allow_code: AllowCode = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of tables.")] = False,
) -> None:
    """Tell what is in a space, what its networks cost and how long a search will take, without training one.

    Counts architectures, runs each backbone on a batch of the data, and measures a few training steps on this machine.
    """
    with Console(stderr=True).status("reading the space") as status:
        found = planned(space, runs=runs, threads=threads, allow_code=allow_code, say=status.update)
    if as_json:
        print(json.dumps(found.to_dict(), indent=2, allow_nan=False))  # noqa: T201
    else:
        _show_plan(found)
    if found.refusal:
        raise InputError(found.refusal)


def _show_plan(found: Plan) -> None:
    console = Console()
    console.width = console.width if console.is_terminal else max(console.width, findings.PIPED)
    console.print(Text(f"{found.name}, on {found.machine}; trainings on {found.device}\n"))
    for table in tables(found):
        console.print(table, "")


def backbones(
    pattern: Annotated[str, typer.Argument(help="Models of timm; * stands for anything, as in 'resnet*'.")] = "*",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of a table.")] = False,
) -> None:
    """Tell which dimensions apply to which backbones and where not, why, by building every choice on offer.

    Takes some seconds a model and core; rows appear as they are done. A single model is told in full.
    """
    names = survey.matching(pattern)
    try:
        with closing(survey.surveys(names)) as rows:  # wherever Ctrl-C comes, processes end and are not waited for
            if as_json:
                findings.write_json(rows, sys.stdout)
            else:
                findings.show(rows, names, Console())
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
