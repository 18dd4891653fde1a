"""`archsearch confirm`: train the front of a search again, with several seeds, and test it."""

import shlex
import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from search import confirm as confirmations
from search import results
from search.commands.options import (
    RUNS,
    Address,
    AllowCode,
    CpusPerTrial,
    GpusPerTrial,
    MemoryPerTrial,
    Name,
    Pool,
    Runs,
    RuntimeEnv,
)
from search.confirmation.display import told


def confirm(
    name: Name,
    runs: Runs = RUNS,
    chosen: Annotated[
        list[str] | None,
        typer.Option("--id", help="Only this one of the front, else all; may be given often.", show_default=False),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Trainings of each, paired by their seeds.", metavar="K")] = 5,
    train_on: Annotated[
        str,
        typer.Option(help="train, or train+val: validation images too, which then choose no seed.", metavar="SPLITS"),
    ] = "train",
    margin: Annotated[float, typer.Option(help="Test accuracies that surely differ by less count as equal.")] = 0.01,
    address: Address = None,
    gpus_per_trial: GpusPerTrial = None,
    cpus_per_trial: CpusPerTrial = None,
    memory_per_trial: MemoryPerTrial = None,
    pool: Pool = None,
    runtime_env: RuntimeEnv = None,
    allow_code: AllowCode = False,
) -> None:
    """Train the front of a search again, and the backbones as timm has them beside it, with several seeds; test them.

    That is as many full trainings as there are members and backbones, times the seeds.

    Says which members the test data bear out. Ctrl-C ends it cleanly; the same command goes on. `pick` then gives the
    training of median validation accuracy.
    """
    console = Console()
    found = confirmations.confirm(
        name,
        asked=confirmations.Asked(seeds=seeds, trained_on=train_on, margin=margin, chosen=tuple(chosen or ())),
        allow_code=allow_code,
        runs=runs,
        address=address,
        gpus_per_trial=gpus_per_trial,
        cpus_per_trial=cpus_per_trial,
        memory_per_trial=memory_per_trial,
        pools=pool or (),
        runtime_env=runtime_env,
        console=console,
    )
    if found is None:
        again = shlex.join(["archsearch", *sys.argv[1:]])
        console.print(Text(f"Interrupted; nothing is lost. To go on:\n  {again}"), soft_wrap=True)
        raise typer.Exit(130)
    for part in told(found, results.opened(runs, name).objectives.names):
        console.print(part)
