"""The command line: `archsearch plan`, `run`, `front`, ... Turns words into calls, results into words.

Exit codes: 0 done; 1 no feasible complete trial; 2 bad input; 130 Ctrl-C.
"""

import sys

import typer
from rich.console import Console
from rich.text import Text

from search.commands.confirm import confirm
from search.commands.export import export
from search.commands.front import front, pick, ui
from search.commands.plan import backbones, plan
from search.commands.report import report
from search.commands.run import run
from spaces import InputError

app = typer.Typer(
    name="archsearch",
    help="Architecture search over timm backbones that ends in a model you can use.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
for command in (plan, run, confirm, front, pick, export, report, backbones, ui):
    app.command()(command)


def main() -> None:
    """The entry point: every error a user can cause is one message and exit code 2."""
    try:
        app()
    except InputError as error:
        Console(stderr=True).print(Text(f"error: {error}", style="red"), soft_wrap=True)
        sys.exit(2)
    except OSError as error:  # a full disk, a folder that cannot be written
        said = ": ".join(str(part) for part in (error.filename, error.strerror or error) if part)
        Console(stderr=True).print(Text(f"error: {said}", style="red"), soft_wrap=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
