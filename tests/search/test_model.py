"""The model folder: it gives back the same model, in a process of its own too, and refuses what it is not."""

import json
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

from search.data.preprocessing import Preprocessing
from search.model import FILES, MAX_JSON_BYTES, Model, _load_pyfunc, read_model, write_model
from spaces import Architecture, InputError, SpaceError, build

CLASSES = ("zero", "one", "two", "three")
PREPROCESSING = Preprocessing(image_size=32, resize_size=36, in_chans=3, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
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
    return Model(module=module, architecture=architecture, classes=CLASSES, preprocessing=PREPROCESSING)


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
    "a class twice": (rewrite("classes.json", lambda names: names.append("one")), r"two classes or more, each"),
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
    "sizes as text": (rewrite("preprocessing.json", lambda p: p.update(image_size="32")), r"preprocessing\.json"),
    "sizes as fractions": (
        rewrite("preprocessing.json", lambda p: p.update(image_size=32.5)),
        r"preprocessing\.json",
    ),
    "enormous pictures": (
        rewrite("preprocessing.json", lambda p: p.update(resize_size=10**6)),
        r"sizes \(32, 1000000, 3\) must be whole numbers up to 4096",
    ),
    "no mean": (rewrite("preprocessing.json", lambda p: p.update(mean=None)), r"preprocessing\.json: "),
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
