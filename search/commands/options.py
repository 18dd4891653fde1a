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
Address = Annotated[
    str | None,
    typer.Option(help="Ray cluster to use, as HOST:PORT or auto. Else this machine.", show_default=False),
]
GpusPerTrial = Annotated[
    float | None,
    typer.Option(help="GPUs of a trial, 0.5 lets two share one. Else 1 where there are any.", show_default=False),
]
CpusPerTrial = Annotated[
    int | None, typer.Option(help="CPU cores, and threads, of a trial. Else 1.", show_default=False)
]
MemoryPerTrial = Annotated[
    float | None, typer.Option(help="GiB of memory of a trial, as Ray counts it.", show_default=False)
]
Pool = Annotated[
    list[str] | None,
    typer.Option(
        help="What a trial gets, as gpu=1,cpu=4 or cpu=8,memory=16 (GiB); may be given often, the preferred first.",
        show_default=False,
    ),
]
RuntimeEnv = Annotated[
    Path | None,
    typer.Option(
        help="Ray's runtime environment for the workers (YAML or JSON): packages, variables, working_dir, ...",
        metavar="FILE",
        show_default=False,
    ),
]
RUNS = Path("runs")
