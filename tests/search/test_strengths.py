"""The picture of how strongly layers and channels count: what a person must be able to read from it."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from search.report.strengths import MOST_PLACES, strengths_figure

UNEVEN = {"layer1.0.bn2": [0.1, 0.9, 0.2, 0.4], "layer2.0.bn2": [0.5, 0.5, 0.5, 0.5], "layer3.0.bn2": [0.25]}


def texts(figure: Figure, panel: int) -> list[str]:
    return [text.get_text() for text in figure.axes[panel].texts]


def names(figure: Figure) -> list[str]:
    return [label.get_text() for label in figure.axes[0].get_yticklabels()]


def heading(figure: Figure) -> str:
    return " ".join(figure.get_suptitle().split())


def test_gates_are_one_bar_each_in_order_of_execution_with_their_value() -> None:
    figure = strengths_figure({"b.ls1": [0.75], "a.ls1": [0.0004], "c.ls1": [0.0]}, title="vit adaptive")
    (panel,) = figure.axes
    assert names(figure) == ["b.ls1", "a.ls1", "c.ls1"]
    assert texts(figure, 0) == ["0.75", "0.0004", "0"]
    assert panel.get_xlabel() == "strength"
    assert panel.yaxis_inverted(), "the first layer is on top"


def test_channels_are_ordered_in_each_layer_and_the_strongest_named() -> None:
    figure = strengths_figure(UNEVEN, title="resnet channel")
    assert figure.axes[0].get_xlabel() == "strength, mean over channels"
    assert texts(figure, 0) == ["0.4", "0.5", "0.25"]
    assert texts(figure, 1) == ["1, 3, 2, 0", "0, 1, 2, 3", ""]
    table = np.asarray(figure.axes[1].images[0].get_array())
    assert np.allclose(table[0, [0, 20, 40, 63]], [1, 4 / 9, 2 / 9, 1 / 9])
    assert np.allclose(table[1:], 1)


def test_of_many_layers_the_strongest_are_drawn_and_the_title_says_so() -> None:
    many = {f"layer{number}": [float(number)] for number in range(MOST_PLACES + 5)}
    figure = strengths_figure(many, title="deep")
    assert names(figure) == [f"layer{number}" for number in range(5, MOST_PLACES + 5)]
    assert heading(figure) == f"deep, the strongest {MOST_PLACES} of {MOST_PLACES + 5} layers"


def test_a_long_name_is_not_cut_off(tmp_path: Path) -> None:
    title = "vit_tiny_patch16_224 adaptive:0.03 depth=6 embed_dim=64 img_size=16 num_heads=4 patch_size=4"
    figure = strengths_figure({"b": [1.0]}, title=title)
    assert heading(figure) == title
    figure.savefig(tmp_path / "strengths.png")
    with Image.open(tmp_path / "strengths.png") as picture:
        title_right = np.asarray(picture.convert("L"))[: picture.height // 3, -20:]
    assert (title_right == 255).all(), "it ends before the right edge"


def test_a_layer_of_zeros_is_drawn() -> None:
    figure = strengths_figure({"dead": [0.0, 0.0], "alive": [1.0, 0.5]}, title="half")
    assert np.isfinite(np.asarray(figure.axes[1].images[0].get_array())).all()
