"""`archsearch export`: a model for use outside of this project."""

import re
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from search.commands.options import RUNS, Runs, Tracking
from search.export.export import FORMATS, Exported
from search.export.export import export as exported
from search.references import ALLOWED, model_folder
from spaces import InputError
from spaces.errors import unknown


def export(
    reference: Annotated[str, typer.Argument(help=f"{ALLOWED}.", metavar="REFERENCE", show_default=False)],
    formats: Annotated[
        list[str], typer.Option("--format", help=f"{', '.join(FORMATS)}; may be given often.", show_default=False)
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Folder to write, with several formats one in it for each; REFERENCE-FORMAT by default.",
            metavar="DIR",
            show_default=False,
        ),
    ] = None,
    runs: Runs = RUNS,
    tracking: Tracking = None,
    images: Annotated[
        Path | None,
        typer.Option(
            help="Compare on the pictures of this folder, not on the model's own.", metavar="DIR", show_default=False
        ),
    ] = None,
) -> None:
    """Write a model in other formats, after each was loaded again and agreed with the model on real images."""
    for name in formats:
        if name not in FORMATS:
            raise InputError(unknown("--format", name, FORMATS))
    outputs = _outputs(reference, list(dict.fromkeys(formats)), output)
    console = Console()
    with model_folder(reference, runs=runs, tracking=tracking) as folder, console.status("exporting"):
        done = exported(folder, outputs, images)
    for one in done:
        console.print(_told(one), markup=False, highlight=False, soft_wrap=True)


def _outputs(reference: str, formats: list[str], output: Path | None) -> dict[str, Path]:
    if output is None:
        folder = Path(reference).expanduser()
        name = folder.resolve().name if folder.is_dir() else re.sub("[/@]", "-", reference.removeprefix("models:/"))
        return {one: Path(f"{name}-{one}") for one in formats}
    return {one: output / one if len(formats) > 1 else output for one in formats}


def _told(done: Exported) -> str:
    lines = [f"{done.format} is in {done.folder}", f"  {done.agreement}"]
    if done.latency is not None:
        unsteady = "" if done.latency.steady else ", unsteady"
        lines.append(f"  {1e3 * done.latency.value:.3g} ms an image in ONNX Runtime, batch 1, one thread{unsteady}")
    return "\n".join([*lines, *(f"  {note}" for note in done.notes)])
