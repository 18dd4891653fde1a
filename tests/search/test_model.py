"""The model folder: it gives back the same model, in a process of its own too, and refuses what it is not."""

import dataclasses
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from search import results
from search.data import load_data
from search.data.preprocessing import Preprocessing
from search.model import FILES, MAX_JSON_BYTES, Model, _load_pyfunc, measured, read_model, write_model
from search.record import State, TrialRecord
from search.study import studies
from search.study.study import Study
from spaces import Architecture, InputError, SpaceError, build
from tests.search.pictures import data_of
from tests.search.plain import REFERENCE, Table, checkpoint, plain_space

CLASSES = ("zero", "one", "two", "three")
PREPROCESSING = Preprocessing(image_size=32, resize_size=36, in_chans=3, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
EXAMPLES = np.random.default_rng(1).integers(0, 256, (3, 36, 36, 3), dtype=np.uint8)
RESNET = Architecture(backbone="resnet10t", choices={"width": 0.25, "scaling": "rezero"})
SHARED_VIT = Architecture(
    backbone="vit_tiny_patch16_224",
    kwargs={"img_size": 32, "patch_size": 8, "depth": 4},
    choices={"sharing": "stage", "scaling": "layerscale"},
)
CONVNEXT = Architecture(backbone="convnext_atto", choices={"width": 0.5})


def model_of(architecture: Architecture) -> Model:
    """Random weights everywhere, in the running statistics too."""
    torch.manual_seed(0)
    module = build(architecture, len(CLASSES), 3).to(memory_format=torch.channels_last)
    for tensor in [*module.parameters(), *module.buffers()]:
        if tensor.is_floating_point():
            nn.init.normal_(tensor, 0.1, 0.05)
    for name, buffer in module.named_buffers():
        if name.endswith("running_var"):
            nn.init.uniform_(buffer, 0.5, 2.0)
    return Model(
        module=module, architecture=architecture, classes=CLASSES, preprocessing=PREPROCESSING, examples=EXAMPLES
    )


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original") / "model"
    write_model(folder, model_of(RESNET), {"accuracy": 0.9722, "macs": 1234567.0})
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "model"))


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (70, 40, 50, 3), dtype=np.uint8)


@pytest.mark.parametrize("architecture", [RESNET, SHARED_VIT, CONVNEXT], ids=lambda a: a.backbone)
def test_a_folder_gives_back_the_same_model(architecture: Architecture, tmp_path: Path, images: np.ndarray) -> None:
    model = model_of(architecture)
    write_model(tmp_path / "deep" / "model", model, {})
    again = read_model(tmp_path / "deep" / "model")
    assert (again.architecture, again.classes, again.preprocessing) == (architecture, CLASSES, PREPROCESSING)
    assert again.examples is not None
    assert np.array_equal(again.examples, EXAMPLES)
    assert not again.module.training
    probabilities = model.predict(images)
    assert probabilities.shape == (70, 4)
    assert probabilities.sum(dim=1) == pytest.approx(np.ones(70), abs=1e-5)
    torch.testing.assert_close(again.predict(images), probabilities, atol=1e-6, rtol=0)
    pictures = (Image.fromarray(image) for image in images)
    assert torch.equal(again.predict(pictures), again.predict(images))
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["model"]


def test_tied_weights_stand_in_the_file_once(tmp_path: Path) -> None:
    model = model_of(SHARED_VIT)
    write_model(tmp_path / "model", model, {})
    written = sum(tensor.numel() for tensor in load_file(tmp_path / "model" / "model.safetensors").values())
    assert written == sum(tensor.numel() for tensor in model.module.parameters())
    assert written < sum(tensor.numel() for tensor in model.module.state_dict().values())


def test_the_written_program_predicts_without_the_search(folder: Path, images: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(images[0]).save(tmp_path / "image.png")
    program = (
        "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__');"
        "print(sorted({'ray', 'optuna', 'mlflow'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", program, str(folder / "predict.py"), str(tmp_path / "image.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.stderr == ""
    said, loaded = done.stdout.splitlines()
    best, name = said.strip("()").split(", ")
    probabilities = read_model(folder).predict(images[:1])[0]
    assert float(best) == pytest.approx(float(probabilities.max()), abs=1e-6)
    assert name == repr(CLASSES[int(probabilities.argmax())])
    assert loaded == "[]"


def test_the_card_tells_what_the_model_reached(folder: Path) -> None:
    card = (folder / "README.md").read_text()
    assert card.startswith("# resnet10t w=0.25 rezero\n")
    assert "| accuracy | 0.9722 |\n| macs | 1.23457e+06 |" in card
    assert RESNET.id in card
    assert "`examples.safetensors` holds images of the validation split." in card


def test_only_plain_rows_of_the_card_are_taken(folder: Path) -> None:
    assert measured(folder) == ("| accuracy | 0.9722 |", "| macs | 1.23457e+06 |")
    card = (folder / "README.md").read_text()
    (folder / "README.md").write_text(card.replace("| macs | 1.23457e+06 |", "| macs | <script>x</script> |"))
    assert measured(folder) == ("| accuracy | 0.9722 |",)
    (folder / "README.md").unlink()
    assert measured(folder) == ()


def test_an_older_model_folder_is_replaced_and_nothing_else_is(folder: Path, tmp_path: Path) -> None:
    write_model(folder, model_of(CONVNEXT), {})
    assert read_model(folder).architecture == CONVNEXT
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    (folder / "thesis.tex").touch()
    with pytest.raises(InputError, match=r"model is not a model folder, it holds 'thesis\.tex'"):
        write_model(folder, model_of(RESNET), {})
    with pytest.raises(InputError, match=r"thesis\.tex is not a model folder"):
        write_model(folder / "thesis.tex", model_of(RESNET), {})
    assert read_model(folder).architecture == CONVNEXT
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


class Bomb:
    def __reduce__(self) -> tuple[object, ...]:
        return (pytest.fail, ("a model folder has run code",))


def rewrite(name: str, change: Callable[[dict], object]) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        changed = change(content)
        (folder / name).write_text(json.dumps(content if changed is None else changed))

    return damage


def retensor(change: Callable[[dict], object]) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return damage


def examples(**tensors: torch.Tensor) -> Callable[[Path], object]:
    return lambda folder: save_file(tensors, folder / "examples.safetensors")


def cut(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])


DAMAGES = {
    "no weights": (lambda f: (f / "model.safetensors").unlink(), r"model folder: model\.safetensors missing"),
    "no names": (lambda f: (f / "classes.json").unlink(), r"is not a model folder: classes\.json missing"),
    "cut": (cut, r"model\.safetensors is not a safetensors file"),
    "a pickle": (
        lambda f: (f / "model.safetensors").write_bytes(pickle.dumps(Bomb())),
        r"model\.safetensors is not a safetensors file",
    ),
    "a tensor too few": (retensor(lambda t: t.pop("conv1.0.weight")), r"'conv1\.0\.weight' is missing"),
    "a tensor too many": (retensor(lambda t: t.update(x=torch.ones(1))), r"the architecture has no 'x'"),
    "another width": (
        rewrite("architecture.json", lambda a: a["choices"].update(width=0.5)),
        r"'bn1\.bias' is \[\d+\], the architecture has \[\d+\]",
    ),
    "far too wide": (
        rewrite("architecture.json", lambda a: a["choices"].update(width=500.0)),
        r"architecture",
    ),
    "a class too many": (
        rewrite("classes.json", lambda names: names.append("five")),
        r"'fc\.bias' is \[4\], the architecture has \[5\]",
    ),
    "a class twice": (
        rewrite("classes.json", lambda names: names.append("one")),
        r"classes\.json: names the class 'one' 2 times",
    ),
    "numbered classes": (rewrite("classes.json", lambda names: [0, 1, 2, 3]), r"must be a list of class names"),
    "weights from a path": (
        rewrite("architecture.json", lambda a: a["kwargs"].update(checkpoint_path="/tmp/x.pth")),
        r"architecture\.json: kwargs\.checkpoint_path: 'checkpoint_path' cannot be set here",
    ),
    "weights from a hub": (
        rewrite("architecture.json", lambda a: a.update(backbone="hf-hub:stranger/model")),
        r"architecture\.json: unknown backbone 'hf-hub:stranger/model'",
    ),
    "no backbone": (rewrite("architecture.json", lambda a: a.update(backbone=None)), r"has no network"),
    "not an architecture": (rewrite("architecture.json", lambda a: [a]), r"is a mapping, not list"),
    "a foreign key": (rewrite("architecture.json", lambda a: a.update(code="1")), r"unknown key .* 'code'"),
    "sizes as text": (
        rewrite("preprocessing.json", lambda p: p.update(image_size="32")),
        r"image_size '32' must be a who",
    ),
    "sizes as fractions": (
        rewrite("preprocessing.json", lambda p: p.update(image_size=32.5)),
        r"preprocessing\.json: image_size 32\.5 must be a whole number",
    ),
    "enormous pictures": (
        rewrite("preprocessing.json", lambda p: p.update(resize_size=10**6)),
        r"resize_size 1000000 must be at most 4096",
    ),
    "no mean": (rewrite("preprocessing.json", lambda p: p.update(mean=None)), r"mean None must be a list of numbers"),
    "mean as text": (
        rewrite("preprocessing.json", lambda p: p.update(mean="456")),
        r"preprocessing\.json: mean '456' must be a list of numbers",
    ),
    "a mean too large": (
        rewrite("preprocessing.json", lambda p: p.update(mean=[10**400, 0, 0])),
        r"preprocessing\.json: mean \[1000+\.\.\.0+, 0, 0\] is too large",
    ),
    "interpolation as a list": (
        rewrite("preprocessing.json", lambda p: p.update(interpolation=["bicubic"])),
        r"preprocessing\.json: interpolation \['bicubic'\] must be a name",
    ),
    "one class": (rewrite("classes.json", lambda names: names[:1]), r"has 1 classes \['zero'\]; two or more are"),
    "an argument timm does not have": (
        rewrite("architecture.json", lambda a: a["kwargs"].update(nonsense=3)),
        r"architecture\.json: .*timm cannot build resnet10t\(nonsense=3\)",
    ),
    "cut examples": (
        lambda f: (f / "examples.safetensors").write_bytes((f / "examples.safetensors").read_bytes()[:200]),
        r"examples\.safetensors is not a safetensors file",
    ),
    "nine examples": (
        examples(images=torch.zeros(9, 36, 36, 3, dtype=torch.uint8)),
        r"examples\.safetensors must hold one tensor `images`, U8 \[1 to 8, 36, 36, 3\], not .*\[9, 36, 36, 3\]",
    ),
    "no example": (examples(images=torch.zeros(0, 36, 36, 3, dtype=torch.uint8)), r"must hold one .*\[0, 36, 36, 3\]"),
    "examples of another size": (
        examples(images=torch.zeros(2, 32, 32, 3, dtype=torch.uint8)),
        r"must hold one tensor .*, not .*\[2, 32, 32, 3\]",
    ),
    "examples as fractions": (examples(images=torch.zeros(2, 36, 36, 3)), r"must hold one tensor .*, not .*'F32'"),
    "examples and more": (
        examples(images=torch.zeros(2, 36, 36, 3, dtype=torch.uint8), x=torch.zeros(1)),
        r"must hold one tensor `images`",
    ),
    "not a mapping": (rewrite("preprocessing.json", lambda p: [1]), r"preprocessing\.json must be a mapping"),
    "not JSON": (lambda f: (f / "classes.json").write_text("['a']"), r"classes\.json is not JSON"),
    "endless nesting": (lambda f: (f / "classes.json").write_text("[" * 10**6), r"classes\.json is not JSON"),
    "endless names": (
        lambda f: (f / "classes.json").write_text(json.dumps(["a" * MAX_JSON_BYTES])),
        r"classes\.json has 4000004 bytes; at most 4000000 are read",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_or_foreign_folder_is_refused(damage: str, folder: Path) -> None:
    spoil, message = DAMAGES[damage]
    spoil(folder)
    with pytest.raises(InputError, match=message) as refused:
        read_model(folder)
    assert str(folder) in str(refused.value)
    assert isinstance(refused.value, SpaceError) or "architecture.json:" not in str(refused.value)


def test_an_empty_folder_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"model\.safetensors, architecture\.json, classes\.json, prepro"):
        read_model(tmp_path / "nowhere")


def test_the_entry_point_of_mlflow_takes_arrays_and_lists(folder: Path, images: np.ndarray) -> None:
    classifier = _load_pyfunc(str(folder))
    expected = read_model(folder).predict(images[:3]).numpy()
    assert classifier.predict(images[:3]).dtype == np.float32
    assert np.array_equal(classifier.predict(images[:3]), expected)
    assert np.array_equal(classifier.predict(images[:3].tolist(), params={}), expected)
    assert classifier.predict(images[:0]).shape == (0, 4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((8, 8, 3), np.uint8), r"given uint8 \[8, 8, 3\]; allowed are images \[N, height, width"),
        (np.zeros((1, 8, 8, 3), np.float32), r"given float32 \[1, 8, 8, 3\]"),
        (np.full((1, 8, 8, 3), 256), r"of whole numbers in 0\.\.255"),
        (np.full((1, 8, 8, 3), -1), r"of whole numbers in 0\.\.255"),
        (np.zeros((1, 8, 8, 4), np.uint8), r"uint8 \[8, 8, 4\] is not an image"),
    ],
)
def test_the_entry_point_refuses_what_is_no_image(given: np.ndarray, message: str, folder: Path) -> None:
    with pytest.raises(InputError, match=message):
        _load_pyfunc(str(folder)).predict(given)


def test_the_entry_point_takes_no_params(folder: Path, images: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"the model takes no params, given \['temperature'\]"):
        _load_pyfunc(str(folder)).predict(images, params={"temperature": 2})


def unfinished(folder: Path) -> None:
    (folder / "classes.json").unlink()


def with_a_folder(folder: Path) -> None:
    (folder / "README.md").unlink()
    (folder / "README.md").mkdir()


def with_a_link(folder: Path) -> None:
    (folder / "README.md").rename(folder.parent / "elsewhere.md")
    (folder / "README.md").symlink_to(folder.parent / "elsewhere.md")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (unfinished, r"model is neither empty nor a model folder: no classes\.json in it; give another folder"),
        (with_a_folder, r"model is not a model folder, it holds 'README\.md'; give another folder"),
        (with_a_link, r"model is not a model folder, it holds 'README\.md'; give another folder"),
    ],
)
def test_what_is_not_ours_is_left_alone(change: Callable[[Path], None], message: str, folder: Path) -> None:
    change(folder)
    before = sorted(folder.parent.rglob("*"))
    with pytest.raises(InputError, match=message):
        write_model(folder, model_of(CONVNEXT), {})
    assert sorted(folder.parent.rglob("*")) == before


def test_an_empty_folder_a_cache_and_a_link_are_written_to(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    write_model(tmp_path / "link", model_of(RESNET), {})
    assert (tmp_path / "link").is_symlink()
    (tmp_path / "empty" / "__pycache__").mkdir()
    write_model(tmp_path / "empty", model_of(RESNET), {})
    assert sorted(path.name for path in (tmp_path / "empty").iterdir()) == sorted(FILES)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "link"]


def test_the_current_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"is the current folder, which cannot be replaced; give the name"):
        write_model(Path("."), model_of(RESNET), {})
    assert list(tmp_path.iterdir()) == []


def test_what_the_file_system_refuses_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    model = model_of(RESNET)
    with pytest.raises(InputError, match=r"a{300}: File name too long"):
        write_model(tmp_path / ("a" * 300), model, {})
    with pytest.raises(InputError, match=r"file/model: Not a directory"):
        write_model(tmp_path / "file" / "model", model, {})
    with pytest.raises(InputError, match=r"a{300}.*: File name too long"):
        read_model(tmp_path / ("a" * 300))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_written_program_says_how_it_is_used(folder: Path) -> None:
    paths = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, str(folder / "predict.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=paths)
    assert (done.returncode, done.stderr) == (1, "Say what is on a picture: python predict.py IMAGE\n")


def trained(directory: Path, model: Path) -> tuple[Study, TrialRecord]:
    """A study whose trial 0 has kept the weights of a model folder."""
    file = plain_space(trials=4)
    study = studies.begin(directory, file, Table(), reference_point=REFERENCE)
    study.close()
    results.Inputs(classes=CLASSES, preprocessing=PREPROCESSING).write(directory)
    checkpoint(study, 0).mkdir(parents=True)
    shutil.copy(model / "model.safetensors", checkpoint(study, 0))
    return study, TrialRecord(number=0, architecture=RESNET, state=State.COMPLETE, seed=0)


class TestResults:
    """What reading a search's own files says of damage; the JSON and weights rules are the model folder's."""

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("{", r"data\.json is not JSON: "),
            ("{}", r"data\.json must be a mapping with classes and preprocessing"),
            ("[]", r"data\.json must be a mapping with classes and preprocessing"),
            ('{"classes": [1, 2], "preprocessing": {}}', r"data\.json: classes must be a list of class names, not \[1"),
            ('{"classes": ["a"], "preprocessing": {}}', r"data\.json: classes: has 1 classes \['a'\]; two or more"),
            (
                '{"classes": ["a", "b"], "preprocessing": {}}',
                r"data\.json: preprocessing: a preprocessing needs image_s",
            ),
        ],
    )
    def test_damaged_inputs(self, content: str, message: str, tmp_path: Path) -> None:
        (tmp_path / "data.json").write_text(content)
        with pytest.raises(InputError, match=message):
            results.Inputs.read(tmp_path)

    def test_inputs_come_back(self, tmp_path: Path) -> None:
        inputs = results.Inputs(classes=CLASSES, preprocessing=PREPROCESSING)
        inputs.write(tmp_path)
        assert results.Inputs.read(tmp_path) == inputs
        assert results.Inputs.read(tmp_path).examples is None

    def test_examples_come_back_one_of_each_class_first(self, tmp_path: Path) -> None:
        dataset = load_data(data_of("digits", image_size=16))
        results.Inputs.of(dataset).write(tmp_path)
        found = results.Inputs.read(tmp_path).examples
        assert found is not None
        values = dataset.images[dataset.val]
        labels = [dataset.labels[dataset.val][(values == one).all((1, 2, 3))][0] for one in found]
        assert labels == list(range(8))
        few = dataclasses.replace(dataset, val=dataset.val[dataset.labels[dataset.val] < 2])
        assert results.Inputs.of(few).examples.shape == (8, 16, 16, 1)

    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            (cut, r"model\.safetensors is not a safetensors file"),
            (
                lambda f: (f / "model.safetensors").write_bytes(b"garbage"),
                r"model\.safetensors is not a safetensors file",
            ),
            (retensor(lambda t: t.pop("conv1.0.weight")), r"'conv1\.0\.weight' is missing"),
            (
                lambda f: (f / "model.safetensors").unlink(),
                r"the weights of trial 0 are not in .*: no model\.safetensors",
            ),
        ],
    )
    def test_damaged_weights(self, damage: Callable[[Path], object], message: str, folder: Path) -> None:
        study, record = trained(folder.parent / "s", folder)
        damage(checkpoint(study, 0))
        with pytest.raises(InputError, match=message):
            results.write(study, record, folder.parent / "picked")
        assert not (folder.parent / "picked").exists()

    def test_whole_weights_are_written(self, folder: Path, images: np.ndarray) -> None:
        results.write(*trained(folder.parent / "s", folder), folder.parent / "picked")
        picked = read_model(folder.parent / "picked")
        assert picked.examples is None
        assert torch.equal(picked.predict(images[:2]), read_model(folder).predict(images[:2]))

    def test_no_such_search(self, tmp_path: Path) -> None:
        runs = tmp_path / "runs"
        with pytest.raises(InputError, match=r"runs holds no searches yet; `archsearch run SPACE` makes one"):
            results.opened(runs, "tiny")
        journal = runs / "tiny/study.journal"
        journal.parent.mkdir(parents=True)
        journal.touch()
        with pytest.raises(InputError, match=r"the search in .*tiny never began, or its study\.journal is damaged"):
            results.opened(runs, "tiny")
        (tmp_path / "file").touch()
        with pytest.raises(InputError, match=r"file is a file; searches are in a folder"):
            results.opened(tmp_path / "file", "tiny")
        with pytest.raises(InputError, match=r"a{300}/.*: File name too long"):
            results.opened(tmp_path / ("a" * 300), "tiny")

    def test_a_damaged_neighbour_is_no_hint(self, tmp_path: Path) -> None:
        studies.begin(tmp_path / "good", plain_space(trials=4), Table(), reference_point=REFERENCE).close()
        (tmp_path / "bad").mkdir()
        (tmp_path / "bad" / "study.journal").write_text("garbage\n" * 3)
        for name in ("goood", "../good", "a" * 300, "", "."):
            with pytest.raises(InputError, match=r"unknown search in .* \(allowed: good\)"):
                results.opened(tmp_path, name)
        with pytest.raises(InputError, match=r"bad"):
            results.opened(tmp_path, "bad")
        assert results.opened(tmp_path, "good").directory == tmp_path / "good"
