"""`archsearch run`: search a space, or go on with a search."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from search import run as searches
from search.checkpoints.places import Places
from search.commands.options import (
    RUNS,
    Address,
    AllowCode,
    CpusPerTrial,
    GpusPerTrial,
    MemoryPerTrial,
    Pool,
    Runs,
    RuntimeEnv,
    Tracking,
)
from search.confirm import Asked
from search.confirmation.display import told
from search.live import front_table
from search.record import State


def run(
    space: Annotated[Path, typer.Argument(help="The space file; spaces/README.md explains it.", metavar="SPACE")],
    runs: Runs = RUNS,
    name: Annotated[
        str | None,
        typer.Option(
            help="Name of the search, else the file's `name`. A taken one gets -2, -3, ...", show_default=False
        ),
    ] = None,
    trials: Annotated[
        int | None, typer.Option(help="Trainings to start, instead of the file's `search.trials`.", show_default=False)
    ] = None,
    hours: Annotated[
        float | None, typer.Option(help="Hours on the clock, all runs of the search together.", show_default=False)
    ] = None,
    device_hours: Annotated[
        float | None,
        typer.Option(help="GPU hours of all trainings together; core hours without GPUs.", show_default=False),
    ] = None,
    earlier: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Start from what an earlier search of that name has found.",
            metavar="NAME",
            show_default=False,
        ),
    ] = None,
    address: Address = None,
    gpus_per_trial: GpusPerTrial = None,
    cpus_per_trial: CpusPerTrial = None,
    storage: Annotated[
        str | None,
        typer.Option(
            help="Database of the study, as postgresql://USER:PASSWORD@HOST:PORT/DATABASE; else a file in --runs.",
            metavar="URL",
            show_default=False,
        ),
    ] = None,
    memory_per_trial: MemoryPerTrial = None,
    pool: Pool = None,
    runtime_env: RuntimeEnv = None,
    checkpoints: Annotated[
        str | None,
        typer.Option(
            help="Where trainings keep what they need to go on: a shared path, or a URL as s3://bucket/prefix.",
            show_default=False,
        ),
    ] = None,
    tracking: Tracking = None,
    artifacts: Annotated[
        str | None,
        typer.Option(help="Where MLflow keeps pictures and models of new experiments: a path or URL.", metavar="URI"),
    ] = None,
    allow_code: AllowCode = False,
    confirm: Annotated[
        bool,
        typer.Option("--confirm", help="Train the front again with five seeds and test it, as `archsearch confirm`."),
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the search of that name where it stands.")
    ] = False,
) -> None:
    """Search a space: propose, train and compare architectures until the budget is spent.

    Shows progress while it runs and the front at its end. Ctrl-C ends it cleanly; `--resume` goes on.
    """
    console = Console()
    result = searches.run(
        space,
        allow_code=allow_code,
        runs=runs,
        name=name,
        trials=trials,
        hours=hours,
        device_hours=device_hours,
        earlier=earlier,
        address=address,
        gpus_per_trial=gpus_per_trial,
        cpus_per_trial=cpus_per_trial,
        memory_per_trial=memory_per_trial,
        pools=pool or (),
        runtime_env=runtime_env,
        storage=storage,
        checkpoints=checkpoints,
        tracking=tracking,
        artifacts=artifacts,
        confirm=Asked() if confirm else None,
        resume=resume,
        console=console,
    )
    where = "" if runs == RUNS else f" --runs {shlex.quote(str(runs))}"
    console.print(f"\n[bold]{result.name}[/bold]: {result.ending}", highlight=False)
    console.print(front_table(result.front))
    limits = {"trials": trials, "hours": hours, "device-hours": device_hours}
    if result.ending is searches.Ending.INTERRUPTED:
        again = f"archsearch run {shlex.quote(str(space))}{where}{_flags(limits)} --name {result.name} --resume"
        console.print(Text(f"Interrupted; nothing is lost. To go on:\n  {again}"))
        raise typer.Exit(130)
    if result.counts[State.PAUSED]:
        more = {name: "MORE" if name.endswith("hours") else value for name, value in limits.items() if value}
        again = f"archsearch run {shlex.quote(str(space))}{where}{_flags(more)} --name {result.name} --resume"
        console.print(Text(f"{result.counts[State.PAUSED]} trials are paused. To go on with more time:\n  {again}"))
    if not result.front.members:
        console.print("No feasible trial ran to its end, so there is no front.", style="bold red")
        raise typer.Exit(1)
    if result.confirmation is not None:
        for part in told(result.confirmation, result.front.objectives.names):
            console.print(part)
    elif confirm:
        again = f"archsearch confirm {result.name}{where}"
        console.print(Text(f"The front is there; confirming it was interrupted. To go on:\n  {again}"))
        raise typer.Exit(130)
    best = result.front.members[0].network.id
    found = Places.read(result.directory).tracking
    mlflow = where if found is None else f"{where} --tracking {shlex.quote(found)}"
    console.print(Text(f"\nSee every trial and the front in MLflow:\n  archsearch ui{mlflow}"))
    console.print(Text(f"Take a model:\n  archsearch pick {result.name}{where} --id {best}"))


def _flags(given: Mapping[str, object]) -> str:
    return "".join(f" --{name} {value}" for name, value in given.items() if value is not None)
