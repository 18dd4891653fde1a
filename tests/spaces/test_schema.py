"""The grammar of a space file: what loads, what it means, and that it is written out again."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator  # comes with Ray
from ruamel.yaml import YAML

from spaces.schema import SpaceFile, json_schema, load
from spaces.techniques import TECHNIQUES
from tests.spaces.space_files import PLAIN, QUICKSTART, TEXT, with_changes, written


def test_the_file_of_the_documentation_loads(tmp_path: Path) -> None:
    space = load(written(tmp_path, "16, s", "16, s"))
    assert space.data is not None
    assert (space.name, space.data.source, space.data.image_size) == ("digits-quickstart", "digits", 32)
    assert [backbone.name for backbone in space.backbones] == ["resnet10t", "convnext_atto", "vit_tiny_patch16_224"]
    assert space.backbones[2].kwargs == {"img_size": 32, "patch_size": 8, "depth": [2, 4]}
    assert space.dimensions["scaling"].choices == ("none", "rezero", "layerscale")
    assert (space.dimensions["width"].choices, space.dimensions["width"].per) == ((0.25, 0.5, 1.0), "network")
    assert space.dimensions["layer_attention"].choices == ("none",)
    assert space.objectives == {"accuracy": "maximize", "macs": "minimize"}
    assert (space.constraints["params"].min, space.constraints["params"].max) == (None, 3_000_000)
    assert (space.search.trials, space.search.sampler, space.search.fidelity.rungs) == (16, "auto", (3, 9))
    assert (space.train.lr, space.train.optimizer, space.train.inherit) == (1e-3, "adamw", "none")


def test_shipped_file_has_the_same_keys_as_the_documentation() -> None:
    yaml = YAML(typ="safe")
    shipped, documented = yaml.load(QUICKSTART.read_text()), yaml.load(TEXT)
    assert load(QUICKSTART).search.trials >= 1
    assert set(shipped) == set(documented)


def test_the_three_ways_to_write_a_dimension(tmp_path: Path) -> None:
    ways = ["[0.5, 1]", "{choices: [0.5, 1]}", "{choices: [0.5, 1.0], per: network}"]
    dimensions = [
        load(written(tmp_path, "{choices: [0.25, 0.5, 1.0], per: network}", way)).dimensions["width"] for way in ways
    ]
    assert dimensions[0] == dimensions[1] == dimensions[2]
    assert load(written(tmp_path, "network}", "stage}")).dimensions["width"].per == "stage"


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("{low: 0.1, high: 0.6}", (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)),
        ("{low: 0.1, high: 0.6, step: 0.2}", (0.1, 0.3, 0.5)),
        ("{low: 0.3, high: 0.3}", (0.3,)),
        ("[0.2, 0.4]", (0.2, 0.4)),
    ],
)
def test_a_parameter_is_a_list_or_a_range(tmp_path: Path, text: str, values: tuple[float, ...]) -> None:
    path = written(tmp_path, "# skip_threshold: {low: 0.1, high: 0.6}", f"skip_threshold: {text}")
    space = load(path)
    assert space.dimensions["layer_attention"].parameters == {"skip_threshold": values}
    assert load(space.to_dict()) == space


@pytest.mark.parametrize(
    ("fidelity", "rungs"),
    [
        ({"min": 3, "max": 9, "reduction": 3}, (3, 9)),
        ({"min": 1, "max": 27}, (1, 3, 9, 27)),
        ({"min": 3, "max": 20, "reduction": 3}, (3, 9, 20)),
        ({"min": 5, "max": 5}, (5,)),
        ({"max": 1}, (1,)),
        ({"rungs": [12, 200], "reduction": 8}, (12, 200)),
    ],
)
def test_rungs_end_at_full_fidelity(fidelity: dict[str, Any], rungs: tuple[int, ...]) -> None:
    space = load(with_changes(search={"trials": 1, "fidelity": fidelity}))
    found = space.search.fidelity
    assert (found.rungs, found.min, found.max) == (rungs, rungs[0], rungs[-1])
    assert load(space.to_dict()) == space


@pytest.mark.parametrize(
    ("data", "transform"),
    [
        ({"source": "digits"}, "none"),
        ({"source": "npz", "path": "x.npz", "image_size": 32}, "crop_flip"),
        ({"source": "folder", "path": "x", "image_size": 224}, "resized_crop_flip"),
        ({"source": "folder", "path": "x", "image_size": 224, "transform": "timm"}, "timm"),
        ({"source": "torchvision", "name": "MNIST", "path": "x", "image_size": 32}, "none"),
        ({"source": "torchvision", "name": "CIFAR10", "path": "x", "image_size": 32}, "crop_flip"),
        ({"source": "torchvision", "name": "Food101", "path": "x", "image_size": 224}, "resized_crop_flip"),
    ],
)
def test_transform_auto_suits_the_data(data: dict[str, Any], transform: str) -> None:
    space = load(with_changes(data=data))
    assert space.data is not None
    assert space.data.transform == transform


def test_paths_start_from_the_file_the_home_or_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def path_of(source: Any) -> str | None:
        data = load(source).data
        assert data is not None
        return data.path

    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    file = written(tmp_path / "sub", "source: digits", "source: folder, path: ../pictures")
    assert path_of(file) == str(tmp_path / "pictures")
    assert path_of(Path("sub/space.yaml")) == str(tmp_path / "pictures")
    assert path_of(written(tmp_path / "sub", "source: digits", "source: folder, path: ~/p")) == f"{tmp_path}/home/p"
    assert path_of(with_changes(data={"source": "npz", "path": "a.npz", "image_size": 8})) == f"{tmp_path}/a.npz"
    assert path_of(with_changes(data={"source": "npz", "path": Path("/a.npz"), "image_size": 8})) == "/a.npz"


def test_python_mapping_equals_yaml() -> None:
    plain = YAML(typ="safe").load(TEXT)
    plain["dimensions"]["width"]["choices"] = (0.25, 0.5, 1)
    space = load(QUICKSTART.parent / "quickstart.yaml")
    assert load(plain) == load(YAML(typ="safe").load(TEXT))
    assert load(space.to_dict()) == space
    assert pickle.loads(pickle.dumps(space)) == space


def test_a_space_of_plain_choices() -> None:
    space = load(PLAIN)
    assert (space.backbones, space.data, space.search.fidelity.rungs) == ((), None, (1,))
    assert space.dimensions["on"].choices == (True, False)


def test_changes_name_the_key_the_old_and_the_new() -> None:
    old = load(PLAIN)
    assert old.changes(load(PLAIN)) == []
    new = load(with_changes(search={"trials": 4}, dimensions={"rate": [1]}, constraints={"cost": {"max": 2}}))
    assert old.changes(new) == [
        'dimensions.edge 0-1.choices was ["skip", "conv"] and is now not there',
        'dimensions.edge 0-1.per was "network" and is now not there',
        "dimensions.rate.choices was [1, 2.5] and is now [1]",
        "dimensions.on.choices was [true, false] and is now not there",
        'dimensions.on.per was "network" and is now not there',
        "search.trials was 3 and is now 4",
        "constraints.cost.min was not there and is now null",
        "constraints.cost.max was not there and is now 2.0",
    ]


def test_a_loaded_space_is_frozen() -> None:
    space = load(PLAIN)
    with pytest.raises(ValueError, match="frozen"):
        space.name = "other"  # type: ignore[misc]


SPACES = st.fixed_dictionaries(
    {
        "name": st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True),
        "dimensions": st.dictionaries(
            st.from_regex(r"\w[\w .-]{0,9}", fullmatch=True),
            st.lists(
                st.booleans()
                | st.integers(-(2**60), 2**60)
                | st.floats(allow_nan=False, allow_infinity=False)
                | st.text(st.characters(exclude_categories=["Cc", "Cs"])),
                min_size=1,
                max_size=4,
                unique=True,
            ),
            min_size=1,
            max_size=4,
        ),
        "objectives": st.dictionaries(
            st.from_regex(r"[a-z_]{1,9}", fullmatch=True).filter(lambda name: name != "accuracy"),
            st.sampled_from(["maximize", "minimize"]),
            min_size=1,
            max_size=3,
        ),
        "search": st.fixed_dictionaries(
            {"trials": st.integers(1, 10**6), "seed": st.integers(0, 2**32 - 1)},
            optional={
                "fidelity": st.fixed_dictionaries(
                    {"rungs": st.lists(st.integers(1, 300), min_size=1, max_size=4, unique=True).map(sorted)}
                )
                | st.fixed_dictionaries({"min": st.integers(1, 5), "max": st.integers(5, 99)}),
                "sampler": st.sampled_from(["auto", "random", "nsga2", "tpe", "gp"]),
            },
        ),
    }
)


@settings(max_examples=100, deadline=None)
@given(SPACES)
def test_what_is_written_out_loads_back_equal_from_python_and_from_yaml(
    tmp_path_factory: pytest.TempPathFactory, plain: dict[str, Any]
) -> None:
    space = load(plain)
    assert load(space.to_dict()) == space
    path = tmp_path_factory.mktemp("space") / "space.yaml"
    path.write_text(json.dumps(space.to_dict(), ensure_ascii=False), encoding="utf-8")  # JSON is YAML 1.2
    assert load(path) == space
    assert load(path).changes(space) == []


def test_json_schema_agrees_with_the_grammar(tmp_path: Path) -> None:
    Draft202012Validator.check_schema(json_schema())
    schema = Draft202012Validator(json_schema())
    for plain in (YAML(typ="safe").load(QUICKSTART.read_text()), YAML(typ="safe").load(TEXT), PLAIN):
        assert list(schema.iter_errors(plain)) == []
        assert list(schema.iter_errors(load(plain).to_dict())) == []
    for old, new in [
        ("trials: 16", "trails: 16"),
        ("trials: 16", "trials: 0"),
        ("sampler: auto", "sampler: tpee"),
        ("- resnet10t", "- 5"),
        ("[none, rezero, layerscale]", "[]"),
        ("choices:", "choises:"),
        ("{max: 3.0e6}", "{max: -1}"),
        ("min: 3, max: 9", "rungs: [3, 9], max: 9"),
    ]:
        assert not schema.is_valid(YAML(typ="safe").load(TEXT.replace(old, new))), new


def test_the_reference_names_every_key_and_every_choice() -> None:
    reference = (QUICKSTART.parents[1] / "README.md").read_text()
    nodes = [SpaceFile.model_json_schema(), *SpaceFile.model_json_schema()["$defs"].values()]
    nodes += [alternative for node in nodes for alternative in node.get("anyOf", ())]
    keys = {key for node in nodes for key in node.get("properties", ())}
    assert {"trials", "rungs", "val_fraction", "kwargs", "per", "warmup_epochs"} <= keys
    missing = [key for key in sorted(keys) if f"`{key}`" not in reference]
    assert missing == []
    for name, technique in TECHNIQUES.items():
        section = reference.partition(f"### `{name}`")[2].partition("\n## ")[0].partition("\n### ")[0]
        words = [*technique.choices, *technique.knobs]
        assert [word for word in words if f"`{word}" not in section] == []
