"""Options and arguments that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

Runs = Annotated[Path, typer.Option("--runs", help="Folder of all searches and of the MLflow store.", metavar="DIR")]
Tracking = Annotated[
    str | None,
    typer.Option(
        help="MLflow's server or a database for it, as postgresql://...; else mlflow.db in --runs.",
        metavar="URI",
        show_default=False,
    ),
]
Name = Annotated[str, typer.Argument(help="Name of a search: a folder in --runs.", show_default=False)]
AllowCode = Annotated[
    bool, typer.Option("--allow-code", help="Let functions run that the space file names under `costs`.")
]
RUNS = Path("runs")
