"""Export a model folder: simplified, written in each format asked for, loaded again, compared, and only then kept."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from search.costs.cost import Reading
from search.export.agreement import Agreement, agreement
from search.export.folder_format import Safetensors
from search.export.format import Format
from search.export.graphs import Onnx, Pt2
from search.export.pictures import squares_of
from search.export.timm_format import Timm
from search.folder import fresh
from search.model import Model, measured, read_model
from spaces import InputError
from spaces.simplify import Simple, simplify

FORMATS: Mapping[str, Format] = {one.name: one for one in (Safetensors(), Onnx(), Pt2(), Timm())}


@dataclass(frozen=True, kw_only=True)
class Exported:
    """
    Attributes:
        notes: what a user should know of what was written, a clause each.
        latency: seconds for one image on one thread; None where the format has no runtime of its own.
    """

    format: str
    folder: Path
    agreement: Agreement
    notes: tuple[str, ...]
    latency: Reading | None


def export(source: Path, outputs: Mapping[str, Path], images: Path | None = None) -> list[Exported]:
    """Write a model folder in other formats; all of them, or none.

    Args:
        source: the model folder.
        outputs: by name of a format, the folder to write; a missing or empty one, or an older export of that format.
        images: a folder of pictures to compare on, instead of the model's own examples.

    Raises:
        InputError: the model cannot be read, exported so or compared, what was exported says something else than the
            model does, or a folder cannot be written.
    """
    for name, folder in outputs.items():
        FORMATS[name].ready()
        _refuse_source(folder, source)
    model = read_model(source)
    squares = _squares(model, images)
    size = (model.preprocessing.in_chans, model.preprocessing.image_size, model.preprocessing.image_size)
    simple = simplify(model.module, model.architecture, size)
    done = []
    with ExitStack() as stack:
        for name, folder in outputs.items():
            room = stack.enter_context(fresh(folder, FORMATS[name].kind))
            done.append(_checked(FORMATS[name], room, folder, model, simple, squares))
            (room / "README.md").write_text(_card(model, done[-1], measured(source)), encoding="utf-8")
    return done


def _checked(
    made: Format, room: Path, folder: Path, model: Model, simple: Simple, squares: NDArray[np.uint8]
) -> Exported:
    notes = made.write(room, model, simple)
    found = agreement(made.load(room)(squares), model, squares)
    if not found.holds:
        raise InputError(f"{made.name} is not written: {found}")
    latency = made.latency(room, squares)
    return Exported(format=made.name, folder=folder, agreement=found, notes=notes, latency=latency)


def _card(model: Model, done: Exported, rows: tuple[str, ...]) -> str:
    preprocessing, architecture = model.preprocessing, model.architecture
    side, channels = preprocessing.image_size, preprocessing.in_chans
    notes = "".join(f"- {note}\n" for note in done.notes)
    table = "".join(f"{row}\n" for row in rows)
    return (
        f"# {architecture.label}\n\n"
        f"An image classifier found by archsearch: {len(model.classes)} classes, {side} x {side} pixels,"
        f" {channels} channels. Exported to {done.format} from architecture {architecture.id}.\n\n"
        f"{FORMATS[done.format].usage}\n\nBefore it was written, it was loaded again: {done.agreement}.\n"
        + (f"\nFor inference:\n\n{notes}" if notes else "")
        + (f"\n| measured before the export | |\n|---|---|\n{table}" if rows else "")
    )


def _squares(model: Model, images: Path | None) -> NDArray[np.uint8]:
    if images is not None:
        return squares_of(images, model.preprocessing)
    if model.examples is None:
        raise InputError(
            "the model has no images of its own to compare on (a search from before they were kept); give a folder with"
            " some pictures: --images DIR"
        )
    return model.examples


def _refuse_source(folder: Path, source: Path) -> None:
    place, origin = folder.resolve(), source.resolve()
    if place == origin or origin in place.parents:
        raise InputError(f"{folder} is the exported model's own folder, or in it; give another one with -o")
