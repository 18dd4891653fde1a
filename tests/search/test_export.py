"""What is exported, where to, compared on which images; and everything wrong is refused with nothing written."""

import shutil
import sys
from pathlib import Path
from typing import final

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from search import results
from search.cli import app
from search.commands.export import export as command
from search.export.agreement import LEAST, agreement
from search.export.export import FORMATS, export
from search.export.folder_format import Safetensors
from search.export.format import Format
from search.export.predict import Run
from search.folder import Kind
from search.model import Model, read_model, write_model
from search.references import model_folder
from search.study import studies
from search.task import opened
from spaces import Architecture, InputError
from spaces.simplify import Simple
from tests.search.command import TINY
from tests.search.exports import digits, model_of
from tests.search.plain import drive
from tests.search.told import open_tracker, record, story, write_some_model

pytestmark = pytest.mark.usefixtures("one_thread")

RESNET = Architecture(backbone="resnet10t", choices={"width": 0.125, "scaling": "layerscale"})


@pytest.fixture(scope="module")
def model() -> Model:
    return model_of(RESNET, digits(16))


@pytest.fixture(scope="module")
def original(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original") / "model"
    write_model(folder, model, {"accuracy": 0.5})
    return folder


@pytest.fixture
def source(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "model"))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Of other sizes and modes than the model's own, some of them deeper."""
    folder = tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (30, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "one.png")
    Image.fromarray(pixels).convert("L").save(folder / "more" / "two.jpg")
    (folder / "notes.txt").touch()
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_model_becomes_a_smaller_one_of_another_architecture(source: Path, model: Model) -> None:
    (done,) = export(source, {"safetensors": source.parent / "small"})
    again = read_model(source.parent / "small")
    assert again.architecture.label == "resnet10t w=0.125"
    assert done.notes == ("4 scales are folded into the weights before them",)
    assert len(again.module.state_dict()) == len(model.module.state_dict()) - 4
    assert again.examples is not None
    np.testing.assert_array_equal(again.examples, model.examples)
    assert (done.agreement.images, done.agreement.equal) == (8, 8)
    assert done.agreement.difference <= done.agreement.tolerance < 1e-3
    assert f"from architecture {RESNET.id}." in (source.parent / "small" / "README.md").read_text()


def test_an_older_export_of_the_format_is_replaced_and_no_other(source: Path) -> None:
    out = source.parent / "deep" / "out"
    for _ in range(2):
        export(source, {"pt2": out})
    before = (out / "model.pt2").read_bytes()
    with pytest.raises(InputError, match=r"out is not an export to onnx, it holds 'model\.pt2'; give another folder"):
        export(source, {"onnx": out})
    (out / "mine.txt").touch()
    with pytest.raises(InputError, match=r"out is not an export to pt2, it holds 'mine\.txt'"):
        export(source, {"pt2": out})
    assert (out / "model.pt2").read_bytes() == before
    assert names(source.parent / "deep") == ["out"]


def test_of_several_formats_all_are_written_or_none(source: Path) -> None:
    before = names(source.parent)
    outputs = {name: source.parent / "deep" / name for name in ("safetensors", "pt2", "timm")}
    with pytest.raises(
        InputError, match=r"timm's resnet10t cannot say .*; in the way: width 0\.125; give another --form"
    ):
        export(source, outputs)
    assert names(source.parent) == before


def test_pictures_of_the_users_own_are_compared_on(source: Path, pictures: Path) -> None:
    (source / "examples.safetensors").unlink()
    with pytest.raises(InputError, match=r"no images of its own to compare on .*--images DIR"):
        export(source, {"pt2": source.parent / "out"})
    (done,) = export(source, {"pt2": source.parent / "out"}, pictures)
    assert done.agreement.images == 2


def test_pictures_that_are_none_are_refused(source: Path, pictures: Path) -> None:
    for folder, message in (
        (pictures / "nowhere", r"nowhere is not a folder; give one with some pictures in it"),
        (pictures / "one.png", r"one\.png is not a folder"),
        (source, r"model: there is no picture in it"),
    ):
        with pytest.raises(InputError, match=message):
            export(source, {"pt2": source.parent / "out"}, folder)
    (pictures / "broken.png").write_bytes((pictures / "one.png").read_bytes()[:99])
    with pytest.raises(InputError, match=r"broken\.png: a broken picture"):
        export(source, {"pt2": source.parent / "out"}, pictures)
    assert not (source.parent / "out").exists()


def test_places_that_cannot_be_are_refused(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (source.parent / "file").touch()
    for folder, message in (
        (source, r"model is the exported model's own folder, or in it; give another one with -o"),
        (source / "out", r"out is the exported model's own folder, or in it"),
        (source.parent, r"is not a model folder, it holds 'file'"),
        (source.parent / "file", r"file is not a model folder but a file"),
        (source.parent / "file" / "out", r"file/out: Not a directory"),
    ):
        with pytest.raises(InputError, match=message):
            export(source, {"safetensors": folder})
    (source.parent / "here").mkdir()
    monkeypatch.chdir(source.parent / "here")
    with pytest.raises(InputError, match=r"is the current folder, which cannot be replaced"):
        export(source, {"safetensors": Path()})
    assert names(source.parent) == ["file", "here", "model"]


def test_a_damaged_model_is_not_exported(source: Path) -> None:
    whole = (source / "model.safetensors").read_bytes()
    (source / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"model\.safetensors is not a safetensors file"):
        export(source, {"onnx": source.parent / "out"})
    assert names(source.parent) == ["model"]


def test_weights_that_are_no_numbers_are_not_exported(source: Path) -> None:
    tensors = load_file(source / "model.safetensors")
    tensors["fc.weight"].fill_(float("nan"))
    save_file(tensors, source / "model.safetensors")
    with pytest.raises(InputError, match=r"resnet10t w=0\.125 layerscale gives no finite outputs on these images"):
        export(source, {"pt2": source.parent / "out"})
    assert names(source.parent) == ["model"]


@final
class Wrong(Format):
    """A model folder in which one weight is another after it was written."""

    name = "wrong"
    kind = Kind(name="a wrong one", files=Safetensors.kind.files, needed=Safetensors.kind.needed)
    usage = ""

    def write(self, folder: Path, model: Model, simple: Simple) -> tuple[str, ...]:
        notes = Safetensors().write(folder, model, simple)
        tensors = load_file(folder / "model.safetensors")
        tensors["fc.bias"][0] += 0.01
        save_file(tensors, folder / "model.safetensors")
        return notes

    def load(self, folder: Path) -> Run:
        return Safetensors().load(folder)


def test_what_says_something_else_is_not_written(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FORMATS, "wrong", Wrong())  # type: ignore[index]
    with pytest.raises(
        InputError,
        match=r"wrong is not written: .* differ by at most \d\.\de-03 from the torch model's on 8 real images"
        r" \(allowed: \d\.\de-05\), equal answers [78] of 8",
    ):
        export(source, {"wrong": source.parent / "out"})
    assert names(source.parent) == ["model"]


def test_agreement_counts_answers_and_never_holds_for_what_is_no_number(model: Model) -> None:
    assert model.examples is not None
    right = model.predict(model.examples).numpy()
    assert agreement(right, model, model.examples).difference == 0
    swapped = np.roll(right, 1, axis=0)
    found = agreement(swapped, model, model.examples)
    assert not found.holds
    assert found.equal == int((swapped.argmax(1) == right.argmax(1)).sum()) < 8
    assert found.tolerance >= LEAST
    assert not agreement(np.full_like(right, np.nan), model, model.examples).holds
    with pytest.raises(InputError, match=r"gives \[8, 3\] for 8 images"):
        agreement(right[:, :3], model, model.examples)


def test_the_command_tells_agreement_latency_and_what_was_done(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(source.parent)
    done = CliRunner().invoke(app, ["export", "model", "--format", "onnx", "--format", "safetensors", "-o", "both"])
    assert done.exit_code == 0, done.exception
    assert "onnx is in both/onnx\n" in done.output
    assert done.output.count("equal answers 8 of 8\n") == 2
    assert " ms an image in ONNX Runtime, batch 1, one thread" in done.output
    assert done.output.count("  4 scales are folded into the weights before them\n") == 2
    assert names(source.parent / "both") == ["onnx", "safetensors"]
    command("model", ["safetensors"])
    assert read_model("model-safetensors").architecture.label == "resnet10t w=0.125"


def test_an_unknown_format_is_told_the_nearest(source: Path) -> None:
    with pytest.raises(InputError, match=r"unknown --format 'onyx'; did you mean 'onnx'\? \(allowed: onnx, pt2, safet"):
        command(str(source), ["pt2", "onyx"])


def test_what_is_not_installed_is_named(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(InputError, match=r"ONNX needs onnxscript: pip install 'archsearch\[onnx\]'"):
        export(source, {"pt2": source.parent / "pt2", "onnx": source.parent / "onnx"})
    assert names(source.parent) == ["model"]


def test_a_member_of_a_front_is_exported_by_its_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real search without Ray: two architectures, an epoch each, and what it keeps of its data."""
    monkeypatch.chdir(tmp_path)
    search = {"trials": 2, "seed": 0, "fidelity": {"rungs": [1]}}
    task = opened({**TINY, "backbones": ["resnet10t"], "search": search})
    assert task.dataset is not None
    study = studies.begin(Path("runs/tiny"), task.file, task.evaluator, reference_point={"accuracy": 0, "macs": 1e9})
    drive(study, task.evaluator)
    results.Inputs.of(task.dataset).write(study.directory)
    chosen = study.front.members[0].network.id
    study.close()
    command(f"tiny/{chosen}", ["pt2"])
    assert "8 real images" in Path(f"tiny-{chosen}-pt2/README.md").read_text()
    for reference, message in (
        (f"tiny/{chosen[:-1]}x", rf"unknown architecture on the front .* did you mean '{chosen}'"),
        (f"tinny/{chosen}", r"unknown search in runs 'tinny'; did you mean 'tiny'"),
        ("tiny", r"'tiny' names no model; allowed are NAME/ID .*, models:/NAME@ALIAS or models:/NAME/VERSION"),
        ("models:/tiny@knee", r"runs has no MLflow store"),
        ("0" * 32, r"runs has no MLflow store"),
    ):
        with pytest.raises(InputError, match=message), model_folder(reference, runs=Path("runs")):
            pass


def test_what_mlflow_has_is_exported(tmp_path: Path, pictures: Path) -> None:
    member = record(0)
    tracker = open_tracker(tmp_path)
    tracker.reconcile([member])
    tracker.front(story([member]))
    tracker.log_model(member, write_some_model(tmp_path / "kept", member.network))
    tracker.finish("FINISHED")
    command("models:/digits-2@knee", ["safetensors"], tmp_path / "out", runs=tmp_path, images=pictures)
    assert member.network.id in (tmp_path / "out" / "README.md").read_text()
    with pytest.raises(InputError, match=r"unknown alias of digits-2 'kneee'; did you mean 'knee'"):
        command("models:/digits-2@kneee", ["pt2"], tmp_path / "other", runs=tmp_path, images=pictures)
    assert not (tmp_path / "other").exists()
