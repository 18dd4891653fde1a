"""The command line: `archsearch plan`, `run`, `front`, ... Turns words into calls, results into words.

Exit codes: 0 done; 1 no feasible complete trial; 2 bad input; 130 Ctrl-C.
"""

import json
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from search import findings, results
from search import run as searches
from search.checkpoints.places import Places, public
from search.live import front_table
from search.planning.plan import Plan, planned
from search.planning.tables import tables
from search.record import State
from search.tracking.mlflow_store import reach
from search.tracking.tracker import ui_command
from spaces import InputError, survey

app = typer.Typer(
    name="archsearch",
    help="Architecture search over timm backbones that ends in a model you can use.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)

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


@app.command()
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
    address: Annotated[
        str | None,
        typer.Option(help="Ray cluster to use, as HOST:PORT or auto. Else this machine.", show_default=False),
    ] = None,
    gpus_per_trial: Annotated[
        float | None,
        typer.Option(help="GPUs of a trial, 0.5 lets two share one. Else 1 where there are any.", show_default=False),
    ] = None,
    cpus_per_trial: Annotated[
        int | None, typer.Option(help="CPU cores, and threads, of a trial. Else 1.", show_default=False)
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            help="Database of the study, as postgresql://USER:PASSWORD@HOST:PORT/DATABASE; else a file in --runs.",
            metavar="URL",
            show_default=False,
        ),
    ] = None,
    memory_per_trial: Annotated[
        float | None, typer.Option(help="GiB of memory of a trial, as Ray counts it.", show_default=False)
    ] = None,
    pool: Annotated[
        list[str] | None,
        typer.Option(
            help="What a trial gets, as gpu=1,cpu=4 or cpu=8,memory=16 (GiB); may be given often, the preferred first.",
            show_default=False,
        ),
    ] = None,
    runtime_env: Annotated[
        Path | None,
        typer.Option(
            help="Ray's runtime environment for the workers (YAML or JSON): packages, variables, working_dir, ...",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
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
    best = result.front.members[0].network.id
    found = Places.read(result.directory).tracking
    mlflow = where if found is None else f"{where} --tracking {shlex.quote(found)}"
    console.print(Text(f"\nSee every trial and the front in MLflow:\n  archsearch ui{mlflow}"))
    console.print(Text(f"Take a model:\n  archsearch pick {result.name}{where} --id {best}"))


def _flags(given: Mapping[str, object]) -> str:
    return "".join(f" --{name} {value}" for name, value in given.items() if value is not None)


@app.command()
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


@app.command()
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
    console.print(front_table(found.front))
    counts = ", ".join(f"{number} {state}" for state, number in found.counts().items())
    console.print(f"\nhypervolume {found.front.hypervolume:.6g}; trials: {counts}", highlight=False)


@app.command()
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
    console.print(Text(f"{record.network.label} is in {folder}"))
    console.print(f"Use it:\n  python {folder / 'predict.py'} IMAGE\n", markup=False, highlight=False, soft_wrap=True)
    console.print((folder / "predict.py").read_text(), markup=False, highlight=False, soft_wrap=True)


@app.command()
def backbones(
    pattern: Annotated[str, typer.Argument(help="Models of timm; * stands for anything, as in 'resnet*'.")] = "*",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of a table.")] = False,
) -> None:
    """Tell which dimensions apply to which backbones and where not, why, by building every choice on offer.

    Takes some seconds a model and core; rows appear as they are done. A single model is told in full.
    """
    names = survey.matching(pattern)
    try:
        if as_json:
            findings.write_json(survey.surveys(names), sys.stdout)
        else:
            findings.show(survey.surveys(names), names, Console())
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


@app.command()
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
