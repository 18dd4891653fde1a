"""The picture of what layer attention skipped: what a person must be able to read from it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from PIL import Image

from search.evaluator import Measurement
from search.report.skipping import COLOURS, MOST_LAYERS, UNMEASURED, skipping_figure
from search.skipping import Skipping

COURSE = Skipping(
    blocks=("layer2.2", "layer2.3", "layer2.4"),
    epochs=(1, 2, 4),
    skipped=((False, False, False), (False, True, False), (True, True, False)),
    kl_nats=((None, None, None), (0.2, 0.01, None), (0.04, 0.01, 0.3)),
    skipped_share=(0.0, 0.1, 0.2),
)


def course(layers: int, epochs: int) -> Skipping:
    """Divergences fall from layer to layer; the last third is skipped from the second epoch on."""
    mask = tuple(layer >= 2 * layers // 3 for layer in range(layers))
    return Skipping(
        blocks=tuple(f"stages.2.blocks.{layer}" for layer in range(layers)),
        epochs=tuple(range(1, epochs + 1)),
        skipped=((False,) * layers, *(mask,) * (epochs - 1)),
        kl_nats=(tuple(1.0 / (1 + layer) for layer in range(layers)),) * epochs,
        skipped_share=(0.0, *(sum(mask) / layers,) * (epochs - 1)),
    )


def panel(figure: Figure) -> Axes:
    return figure.axes[0]


def names(figure: Figure) -> list[str]:
    return [label.get_text() for label in panel(figure).get_yticklabels()]


def table(figure: Figure) -> np.ndarray:
    return np.ma.filled(panel(figure).images[0].get_array(), np.nan)


def hatched(figure: Figure) -> set[tuple[int, int]]:
    """Row and epoch of each cell under the hatch."""
    found, (shape,) = set(), [patch for patch in panel(figure).patches if isinstance(patch, PathPatch)] or [None]
    if shape is None:
        return found
    assert shape.get_hatch()
    for corners in shape.get_path().vertices.reshape(-1, 5, 2):
        (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
        rows, epochs = np.arange(np.ceil(top), bottom), np.arange(np.ceil(left), right)
        found |= {(int(row), int(epoch)) for row in rows for epoch in epochs}
    return found


def key(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def pixels(path: Path, colour: str | tuple[float, ...]) -> int:
    image = np.asarray(Image.open(path).convert("RGB")).astype(int)
    return int((np.abs(image - np.round(255 * np.array(to_rgb(colour)))).max(axis=2) < 4).sum())


def test_a_row_is_a_layer_a_column_an_epoch_and_the_colour_the_divergence() -> None:
    figure = skipping_figure(COURSE, title="resnet ela")
    assert figure.get_suptitle() == "resnet ela"
    assert names(figure) == ["layer2.2", "layer2.3", "layer2.4"]
    assert panel(figure).yaxis_inverted(), "the first layer is on top"
    nan = np.nan
    np.testing.assert_array_equal(table(figure), [[nan, 0.2, nan, 0.04], [nan, 0.01, nan, 0.01], [nan, nan, nan, 0.3]])
    assert panel(figure).get_xlabel() == "epoch"
    assert panel(figure).get_xlim() == (0.5, 4.5)
    assert figure.axes[1].get_ylabel() == "KL (nats)"


def test_just_what_is_skipped_is_hatched_and_the_key_says_so() -> None:
    figure = skipping_figure(COURSE, title="resnet ela")
    assert hatched(figure) == {(1, 2), (0, 4), (1, 4)}
    assert key(figure) == ["skipped, at last 20% of all retrievals", "not measured"]
    assert hatched(skipping_figure(course(3, 1), title="x")) == set()
    assert key(skipping_figure(course(3, 1), title="x")) == ["skipped, at last 0% of all retrievals"]


def test_what_is_unknown_is_grey_and_what_is_known_is_not(tmp_path: Path) -> None:
    known = replace(COURSE, epochs=(1, 2, 3), kl_nats=((0.2, 0.1, 0.1),) * 3)
    kept = replace(known, skipped=((False,) * 3,) * 3)
    for name, shown in {"some": COURSE, "all": known, "kept": kept}.items():
        skipping_figure(shown, title=name).savefig(tmp_path / f"{name}.png")
    assert pixels(tmp_path / "some.png", UNMEASURED) > 10_000
    assert pixels(tmp_path / "all.png", UNMEASURED) == 0
    assert pixels(tmp_path / "all.png", COLOURS(1.0)) > 10_000
    assert pixels(tmp_path / "all.png", "black") > 1.5 * pixels(tmp_path / "kept.png", "black"), "the hatch is seen"


def test_colours_are_in_decades_where_divergences_are() -> None:
    assert isinstance(panel(skipping_figure(COURSE, title="x")).images[0].norm, LogNorm)
    near = replace(COURSE, kl_nats=((0.1, 0.2, 0.3),) * 3)
    norm = panel(skipping_figure(near, title="x")).images[0].norm
    assert not isinstance(norm, LogNorm)
    assert (norm.vmin, norm.vmax) == (0.0, 0.3)


@pytest.mark.parametrize("divergence", [None, 0.0])
def test_nothing_measured_and_nothing_but_zeros_are_drawn(divergence: float | None, tmp_path: Path) -> None:
    flat = replace(COURSE, kl_nats=((divergence,) * 3,) * 3)
    figure = skipping_figure(flat, title="x")
    figure.savefig(tmp_path / "flat.png")
    assert len(figure.axes) == (1 if divergence is None else 2), "a bar of colours where there are any"
    assert hatched(figure) == {(1, 2), (0, 4), (1, 4)}


@pytest.mark.parametrize(("layers", "epochs"), [(1, 1), (60, 1), (3, 300), (MOST_LAYERS, 300)])
def test_names_do_not_overlap_and_nothing_is_cut_off(layers: int, epochs: int, tmp_path: Path) -> None:
    title = "cifar_resnet56 layer_attention=ela:0.3 width=0.5 layers=[18, 18, 18] channels=[16, 32, 64] norm=group"
    figure = skipping_figure(course(layers, epochs), title=title)
    figure.savefig(tmp_path / "drawn.png")
    assert " ".join(figure.get_suptitle().split()) == title
    rows = [label.get_window_extent() for label in panel(figure).get_yticklabels()]
    assert len(rows) == layers
    assert all(upper.y0 >= lower.y1 for upper, lower in zip(rows, rows[1:], strict=False))
    ticks = [tick for tick in panel(figure).get_xticks() if 0.5 < tick < epochs + 0.5]
    assert ticks
    assert all(tick == int(tick) for tick in ticks)
    with Image.open(tmp_path / "drawn.png") as picture:
        grey = np.asarray(picture.convert("L"))
    assert all((edge == 255).all() for edge in (grey[:2], grey[-2:], grey[:, :2], grey[:, -2:]))
    assert max(picture.size) < 2500


def test_of_many_layers_those_of_lowest_divergence_are_drawn_and_the_title_says_so() -> None:
    figure = skipping_figure(course(MOST_LAYERS + 5, 2), title="deep")
    assert names(figure) == [f"stages.2.blocks.{layer}" for layer in range(5, MOST_LAYERS + 5)]
    said = " ".join(figure.get_suptitle().split())
    assert said == f"deep, the {MOST_LAYERS} of lowest divergence of {MOST_LAYERS + 5} gated layers"
    assert hatched(figure) == {(layer - 5, 2) for layer in range(2 * (MOST_LAYERS + 5) // 3, MOST_LAYERS + 5)}


def test_a_course_is_read_from_measurements_alone() -> None:
    told = [
        Measurement(fidelity=1, metrics={"train_loss": 2.0, **said(0.0, (0, 0), (None, None))}),
        Measurement(fidelity=2, metrics=said(0.25, (0, 1), (0.5, 0.125))),
    ]
    found = Skipping.of([*told, Measurement(fidelity=3, metrics={"train_loss": 1.0})])
    assert found == Skipping(
        blocks=("a.0", "a.1"),
        epochs=(1, 2),
        skipped=((False, False), (False, True)),
        kl_nats=((None, None), (0.5, 0.125)),
        skipped_share=(0.0, 0.25),
    )
    assert found.last == ("a.1",)
    assert json.loads(json.dumps(found.to_dict())) == {
        "blocks": ["a.0", "a.1"],
        "epochs": [1, 2],
        "skipped": [[False, False], [False, True]],
        "kl_nats": [[None, None], [0.5, 0.125]],
        "skipped_share": [0.0, 0.25],
    }
    assert Skipping.of([Measurement(fidelity=1, metrics={"train_loss": 1.0})]) is None
    assert Skipping.of([]) is None


def said(share: float, mask: tuple[int, int], divergences: tuple[float | None, float | None]) -> dict[str, float]:
    found = {"layer_attention/skipped_share": share}
    found |= {f"layer_attention/skipped/a.{place}": float(skipped) for place, skipped in enumerate(mask)}
    return found | {f"layer_attention/kl/a.{place}": kl for place, kl in enumerate(divergences) if kl is not None}
