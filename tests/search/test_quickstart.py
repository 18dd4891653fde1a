"""The quick start of the README, and the same search on the user's own data."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.search.command import SHARED, archsearch, space_file
from tests.search.sums import check_that_everything_adds_up, front_json


@pytest.mark.parametrize(
    "data",
    [
        {"source": "folder", "path": str(SHARED / "data/flowers12"), "image_size": 32},
        {"source": "npz", "path": str(SHARED / "data/cifar10_20k.npz"), "image_size": 32, "val_fraction": 0.1},
    ],
    ids=["folder", "npz"],
)
def test_the_same_search_on_data_of_the_user(tmp_path: Path, data: dict[str, Any]) -> None:
    if not Path(data["path"]).exists():
        pytest.skip(
            f"{data['path']} is not there: the shared data sets lie beside the checkout only where it was given"
        )
    kwargs = {"img_size": 32, "patch_size": 8, "depth": 1}
    backbones = ["resnet10t", {"name": "vit_tiny_patch16_224", "kwargs": kwargs}]
    fidelity = {"min": 1, "max": 2, "reduction": 2}
    space_file(tmp_path, data=data, backbones=backbones, search__trials=3, search__fidelity=fidelity)
    result = archsearch(tmp_path, "run", "tiny.yaml")
    assert result.returncode == 0, result.stdout + result.stderr
    check_that_everything_adds_up(tmp_path, "tiny", 3)
    result = archsearch(tmp_path, "pick", "tiny", "--prefer", "accuracy", "--output", "picked")
    assert result.returncode == 0, result.stderr
    classes = json.loads((tmp_path / "picked/classes.json").read_text())
    assert len(classes) == (12 if data["source"] == "folder" else 10)


def test_the_quick_start_finds_a_front_of_three_and_97_percent(tmp_path: Path) -> None:
    space = Path(__file__).resolve().parents[2] / "spaces/catalog/quickstart.yaml"
    result = archsearch(tmp_path, "run", space)
    assert result.returncode == 0, result.stdout + result.stderr
    said = front_json(tmp_path, "digits-quickstart")
    points = [point["values"] for point in said["points"]]
    assert len({tuple(sorted(point.items())) for point in points}) >= 3
    assert max(point["accuracy"] for point in points) > 0.97
    for one in points:
        for two in points:
            better = one["accuracy"] >= two["accuracy"] and one["macs"] <= two["macs"]
            assert not better or one == two
    check_that_everything_adds_up(tmp_path, "digits-quickstart", 30)
