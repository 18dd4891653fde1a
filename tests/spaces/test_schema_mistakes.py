"""Every mistake in a space file: the file, the line, the key, what is allowed and the nearest name."""

from pathlib import Path
from typing import Any

import pytest

from spaces.errors import SpaceError
from spaces.schema import locate
from tests.spaces.space_files import TEXT, refused, with_changes, written

MISTAKES = [
    # what is replaced, by what, line, key, message
    ("trials: 16", "trials: many", 21, "search.trials", "'many' is not a whole number of at least 1"),
    ("trials: 16", 'trials: "16"', 21, "search.trials", "'16' is not a whole number of at least 1"),
    ("trials: 16", "trials: 16.5", 21, "search.trials", "16.5 is not a whole number of at least 1"),
    ("trials: 16", "trials: true", 21, "search.trials", "true is not a whole number of at least 1"),
    ("trials: 16", "trials: 0", 21, "search.trials", "0 is not a whole number of at least 1"),
    ("trials: 16", "trials: null", 21, "search", "has no budget; give trials, hours or device_hours, for example"),
    ("trials: 16, ", "", 21, "search", "has no budget; give trials, hours or device_hours, for example"),
    ("trials: 16", "hours: 0", 21, "search.hours", "0 is not a number above 0"),
    ("trials: 16", "trails: 16", 21, "search.trails", "unknown key 'trails'; did you mean 'trials'?"),
    ("sampler: auto", "sampler: tpee", 21, "search.sampler", "did you mean 'tpe'? (allowed: auto, ehvi, gp, nsga2, "),
    ("seed: 0", "seed: -1", 21, "search.seed", "-1 is not a whole number of at least 0"),
    ("min: 3, max: 9", "rungs: [9, 3]", 21, "search.fidelity.rungs[1]", "3 does not come after 9; rungs ascend"),
    ("min: 3, max: 9", "rungs: [3, 3]", 21, "search.fidelity.rungs[1]", "3 does not come after 3"),
    ("min: 3, max: 9", "rungs: [3, b]", 21, "search.fidelity.rungs[1]", "'b' is not a whole number"),
    ("min: 3, max: 9", "rungs: []", 21, "search.fidelity.rungs", "an empty list is not a list of rungs"),
    ("min: 3, max: 9", "min: 3, rungs: [3, 9]", 21, "search.fidelity.min", "rungs say it already"),
    ("min: 3, max: 9", "min: 9, max: 3", 21, "search.fidelity", "min 9 is above max 3"),
    ("min: 3, max: 9", "min: 3", 21, "search.fidelity", "says neither max nor rungs"),
    ("reduction: 3", "reduction: 1", 21, "search.fidelity.reduction", "1 is not a whole number of at least 2"),
    ("unit: epoch", "unit: step", 21, "search.fidelity.unit", "'step' is not how timm models train"),
    (", fidelity: {unit: epoch, min: 3, max: 9, reduction: 3}", "", 21, "search.fidelity", "is missing with backbones"),
    ("seed: 0", "seed: 0, reference_point: {accuracy: 0}", 21, "search.reference_point", "names accuracy; it needs"),
    (
        *("seed: 0", "seed: 0, reference_point: {accuracy: 1.5, macs: 1.0e9}", 21, "search.reference_point.accuracy"),
        "1.5 is a value that no network is better than; it has to be below 1",
    ),
    (
        *("seed: 0", "seed: 0, reference_point: {accuracy: 0.1, macs: -5}", 21, "search.reference_point.macs"),
        "-5 is a value that no network is better than; it has to be above 0",
    ),
    ("lr: 1.0e-3", "lr: 1.0e-3, importance: l1", 22, "train.importance", "no weights to choose from; set train.inher"),
    ("lr: 1.0e-3", "lr: fast", 22, "train.lr", "'fast' is not a number above 0"),
    ("lr: 1.0e-3", "lr: 0", 22, "train.lr", "0 is not a number above 0"),
    ("lr: 1.0e-3", "lr: .nan", 22, "train.lr", "nan is not a finite number"),
    ("lr: 1.0e-3", "lr: -.inf", 22, "train.lr", "-inf is not a finite number"),
    ("pretrained: false", "pretrained: no", 22, "train.pretrained", "'no' is not true or false"),
    ("optimizer: adamw", "optimizer: adamww", 22, "train.optimizer", "did you mean 'adamw'?"),
    ("batch_size", "warmup_epochs: 10, batch_size", 22, "train.warmup_epochs", "10 is more than the 9 epochs"),
    ("train:", "trian:", 22, "trian", "unknown key 'trian'; did you mean 'train'?"),
    ("- resnet10t", "- resnet10tt", 4, "backbones[0]", "unknown backbone 'resnet10tt'; did you mean 'resnet10t'?"),
    ("- resnet10t", "- resnet18.a1_in1kk", 4, "backbones[0]", "did you mean 'resnet18.a1_in1k'?"),
    ("- resnet10t", "- hf-hub:timm/resnet18", 4, "backbones[0]", "unknown backbone 'hf-hub:timm/resnet18'"),
    ("- resnet10t", "- 5", 4, "backbones[0]", "5 is not text or a mapping"),
    ("- resnet10t", "- {nme: resnet10t}", 4, "backbones[0].nme", "unknown key 'nme'; did you mean 'name'?"),
    ("- resnet10t", "- convnext_atto", 5, "backbones[1]", "convnext_atto is there twice"),
    ("[2, 4]", "[]", 6, "backbones[2].kwargs.depth", "an empty list is no choice"),
    ("[2, 4]", "[2, 2]", 6, "backbones[2].kwargs.depth[1]", "the choice 2 is there twice"),
    ("patch_size", "num_classes: 3, patch_size", 6, "backbones[2].kwargs.num_classes", "the data decide"),
    ("patch_size", "checkpoint_path: /x, patch_size", 6, "backbones[2].kwargs.checkpoint_path", "cannot be set here"),
    ("scaling:", "scalin:", 8, "dimensions.scalin", "unknown dimension 'scalin'; did you mean 'scaling'?"),
    ("rezero", "rezro", 8, "dimensions.scaling[1]", "'rezro'; did you mean 'rezero'?"),
    ("rezero", "none", 8, "dimensions.scaling[1]", 'the choice "none" is there twice'),
    ("[none, rezero, layerscale]", "[]", 8, "dimensions.scaling", "an empty list is not a list of at least one choice"),
    ("[none, rezero, layerscale]", "rezero", 8, "dimensions.scaling", "write [rezero] for a single one"),
    ("0.25", "half", 9, "dimensions.width.choices[0]", "'half' is no width"),
    ("0.25, 0.5, 1.0", "1, 1.0", 9, "dimensions.width.choices[1]", "the choice 1.0 is there twice"),
    ("per: network}", "per: stag}", 9, "dimensions.width.per", "did you mean 'stage'? (allowed: network, stage)"),
    ("choices:", "choises:", 9, "dimensions.width.choises", "did you mean 'choices'?"),
    ("choices: [0.25, 0.5, 1.0], ", "", 9, "dimensions.width", "has no choices; for example `width: {choices: [...]}`"),
    ("kind: [none]", "kind: []", 14, "dimensions.layer_attention.kind", "an empty list is not a list"),
    (
        "# skip_threshold: {low: 0.1",
        "skip_threshold: {low: 0.7",
        15,
        "dimensions.layer_attention.skip_threshold",
        "above",
    ),
    (
        "# skip_threshold: {low: 0.1",
        "skip_threshold: {low: 0",
        15,
        "dimensions.layer_attention.skip_threshold.low",
        "0 is",
    ),
    ("# skip_threshold:", "skip_treshold:", 15, "dimensions.layer_attention.skip_treshold", "mean 'skip_threshold'?"),
    ("accuracy: maximize", "accuracy: minimize", 17, "objectives.accuracy", "allowed is maximize"),
    ("accuracy: maximize", "accuracy: max", 17, "objectives.accuracy", "did you mean 'maximize'?"),
    ("  macs: minimize", "  m-acs: minimize", 18, "objectives.m-acs", "'m-acs' is not a name"),
    ("{max: 3.0e6}", "{}", 20, "constraints.params", "says neither min nor max; for example `{max: 3.0e6}`"),
    ("{max: 3.0e6}", "{min: 4e6, max: 3e6}", 20, "constraints.params", "min 4000000.0 is above max 3000000.0"),
    ("{max: 3.0e6}", "{max: 0}", 20, "constraints.params.max", "0 is not a number above 0"),
    ("{max: 3.0e6}", "{max: -5}", 20, "constraints.params.max", "-5 is not a number above 0"),
    ("{max: 3.0e6}", "{maxx: 5}", 20, "constraints.params.maxx", "unknown key 'maxx'; did you mean 'max'?"),
    ("{max: 3.0e6}", "3.0e6", 20, "constraints.params", "3000000.0 is not a mapping"),
    ("name: digits-quickstart", "name: ../up", 1, "name", "'../up' cannot name a directory"),
    ("name: digits-quickstart", "name: 5", 1, "name", "5 is not text"),
    ("data: {source: digits, image_size: 32}\n", "", 1, "data", "is missing with backbones"),
    (
        "source: digits",
        "source: digit",
        2,
        "data.source",
        "did you mean 'digits'? (allowed: digits, folder, npz, torch",
    ),
    ("source: digits", "source: folder", 2, "data.path", "is missing with source folder; for example `path: "),
    ("source: digits", "source: digits, path: x", 2, "data.path", "has no meaning with source digits"),
    ("digits, image_size: 32", "npz, path: x.npz", 2, "data.image_size", "is missing; for example `image_size: 32`"),
    ("source: digits", "source: torchvision, path: x", 2, "data.name", "is missing with source torchvision"),
    ("source: digits", "source: torchvision, name: CIFAR, path: x", 2, "data.name", "did you mean 'CIFAR10'?"),
    ("image_size: 32", "image_size: 4", 2, "data.image_size", "whole number of at least 8 and at most 1024"),
    ("image_size: 32", "val_fraction: 1", 2, "data.val_fraction", "1 is not a number above 0 and below 1"),
    ("image_size: 32", "val_fraction: 0.5, test_fraction: 0.5", 2, "data.val_fraction", "leave nothing to train on"),
    ("image_size: 32", "mean: [0.5]", 2, "data.mean", "mean and std go together"),
    ("image_size: 32", "mean: [1, 1], std: [1, 1]", 2, "data.mean", "one number each (grey) or three (colour)"),
    ("image_size: 32", "mean: [0], std: [0]", 2, "data.std", "0.0 is not above 0"),
    ("image_size: 32", "transform: crop_flop", 2, "data.transform", "did you mean 'crop_flip'?"),
]


@pytest.mark.parametrize(("old", "new", "line", "key", "message"), MISTAKES, ids=[row[1] or row[3] for row in MISTAKES])
def test_a_mistake_is_told_with_file_line_key_and_what_is_allowed(
    tmp_path: Path, old: str, new: str, line: int, key: str, message: str
) -> None:
    path = written(tmp_path, old, new)
    error = refused(path)
    assert (error.file, error.line, error.key) == (str(path), line, key)
    assert message in error.reason
    assert str(error).startswith(f"{path}:{line}: {key}: ")


def test_of_several_mistakes_the_first_in_the_file_is_told_and_the_others_named(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(TEXT.replace("lr: 1.0e-3", "lr: x").replace("scaling", "scalin").replace("trials: 16, ", ""))
    error = refused(path)
    assert (error.line, error.key) == (8, "dimensions.scalin")
    assert error.reason.endswith("(and 2 more: search, train.lr)")


@pytest.mark.parametrize(
    ("key", "line"),
    [("dimensions.scaling", 8), ("backbones[2].kwargs.depth", 6), ("dimensions.norm.choices[0]", 12), ("gone", 1)],
)
def test_what_is_found_later_is_given_its_place(tmp_path: Path, key: str, line: int) -> None:
    path = written(tmp_path, "16, s", "16, s")
    found = locate(SpaceError("does not fit", key=key), path)
    assert str(found) == f"{path}:{line}: {key}: does not fit"
    assert str(locate(SpaceError("does not fit"), path)) == f"{path}: does not fit"
    assert str(locate(SpaceError("does not fit", key=key), {})) == f"{key}: does not fit"


def test_mistakes_in_a_mapping_have_no_line() -> None:
    error = refused(with_changes(search={"trials": 0}))
    assert (error.file, error.line, error.key) == (None, None, "search.trials")
    assert "a value of type object cannot be written in YAML" in refused(with_changes(name=object())).reason
    assert "nan is not a finite number" in refused(with_changes(dimensions={"a": [float("nan")]})).reason
    assert "the key 1 is not text" in refused(with_changes(dimensions={1: [2]})).reason


@pytest.mark.parametrize(
    ("changes", "key", "message"),
    [
        ({"dimensions": {}}, "dimensions", "is not a mapping of names to choices"),
        ({"dimensions": {"a": [[1]]}}, "dimensions.a[0]", "a list is not a choice; without backbones it is text"),
        ({"dimensions": {"a": [None]}}, "dimensions.a[0]", "an empty value (null) is not a choice"),
        ({"dimensions": {"a": [1, True]}}, "dimensions.a[1]", "the choice true is there twice"),
        ({"dimensions": {"a": {"choices": [1], "per": "stage"}}}, "dimensions.a.per", "no stages without backbones"),
        ({"dimensions": {"a,b": [1]}}, "dimensions.a,b", "'a,b' is not a name"),
        (
            {"backbones": [], "dimensions": {"scaling": ["none"]}},
            "backbones",
            "an empty list; give at least one timm model",
        ),
        ({"objectives": {}}, "objectives", "an empty mapping; give at least one objective"),
    ],
)
def test_what_a_space_of_plain_choices_refuses(changes: dict[str, Any], key: str, message: str) -> None:
    error = refused(with_changes(**changes))
    assert error.key == key
    assert message in error.reason
