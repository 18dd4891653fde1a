"""Every format of one architecture a catalog space says the same in a fresh process, as a stranger to us loads it."""

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from search.export.export import FORMATS, export
from search.model import Model, read_model, write_model
from spaces import InputError
from spaces.questions import Label
from tests.search.exports import digits, member, model_of, photographs, probabilities

pytestmark = pytest.mark.usefixtures("one_thread")

GRAPHS = ("onnx", "pt2")
CLOSE = 1e-4  # images differ by 500 times as much
# What a stranger runs: FOLDERS on the command line, the squares beside as squares.npy; probabilities go to found.npy.
LOADERS = {
    "onnx": "run = runpy.run_path(folder / 'predict.py')['load'](folder)",
    "pt2": "run = runpy.run_path(folder / 'predict.py')['load'](folder)",
    "timm": """
import PIL.Image, timm, torch
model = timm.create_model(f'local-dir:{folder}', pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
def run(squares):
    images = [PIL.Image.fromarray(square.squeeze(2) if square.shape[2] == 1 else square) for square in squares]
    return model(torch.stack([transform(image) for image in images])).softmax(1).detach().numpy()
""",
    "safetensors": """
from search.model import read_model
run = lambda squares: read_model(folder).predict(squares).numpy()
""",
}
FOREIGN = {
    "onnx": ("torch", "timm", "safetensors", "spaces", "search"),
    "pt2": ("timm", "safetensors", "spaces", "search"),
    "timm": ("spaces", "search"),
    "safetensors": ("mlflow", "optuna", "ray"),
}


@dataclass(frozen=True)
class Case:
    """An architecture of a catalog space, and which of its choices plain timm cannot say."""

    space: str
    answers: dict[str, Label]
    side: int
    colour: bool = False
    in_the_way: tuple[str, ...] = field(default=())

    def model(self) -> Model:
        return model_of(member(self.space, self.answers), (photographs if self.colour else digits)(self.side))


CASES = [
    Case(
        "quickstart",
        {
            "backbone": "vit_tiny_patch16_224",
            "vit_tiny_patch16_224.depth": 2,
            "width": 0.5,
            "sharing": "stage",
            "scaling": "layerscale",
        },
        side=32,
    ),
    Case(
        "cnn",
        {
            "backbone": "resnet18",
            "width.1": 0.75,
            "group_size": 8,
            "norm": "group",
            "scaling": "se",
        },
        side=32,
        in_the_way=("width", "group_size", "scaling se"),
    ),
    Case(
        "mobile",
        {"backbone": "mobilenetv3_small_050", "width": 1.0, "sharing": "stage", "scaling": "skipinit"},
        side=32,
    ),
    Case(
        "vit",
        {"backbone": "vit_tiny_patch16_224", "norm": "rms", "scaling": "layerwise", "layer_attention": "ela"},
        side=32,
        in_the_way=("layer_attention",),
    ),
    Case("finetune", {"width": 0.75, "scaling": "adaptive"}, side=64, colour=True, in_the_way=("width",)),
]


@dataclass(frozen=True)
class Made:
    case: Case
    model: Model
    folder: Path
    formats: tuple[str, ...]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> list[Made]:
    """Each case, exported to all formats that can say it."""
    found = []
    for case in CASES:
        folder, model = tmp_path_factory.mktemp(case.space), case.model()
        write_model(folder / "model", model, {"accuracy": 0.875})
        np.save(folder / "squares.npy", model.examples)
        formats = tuple(name for name in FORMATS if name != "timm" or not case.in_the_way)
        export(folder / "model", {name: folder / name for name in formats})
        found.append(Made(case, model, folder, formats))
    return found


def run(program: str, *words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *(["-c", program] if program else []), *map(str, words)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.parametrize("name", FORMATS)
def test_a_fresh_process_says_the_same(name: str, made: list[Made], tmp_path: Path) -> None:
    there = [one for one in made if name in one.formats]
    assert len(there) >= 2
    loader = LOADERS[name].replace("\n", "\n    ")
    program = (
        "import pathlib, runpy, sys\nimport numpy as np\n"
        "for place in map(pathlib.Path, sys.argv[1:]):\n"
        f"    folder = place / {name!r}\n    {loader}\n"
        f"    np.save(place / 'found-{name}.npy', run(np.load(place / 'squares.npy')))\n"
        f"print(sorted(set(sys.modules) & set({FOREIGN[name]!r})))"
    )
    done = run(program, *(one.folder for one in there), cwd=tmp_path)
    assert done.stdout == "[]\n", done.stderr
    for one in there:
        found = np.load(one.folder / f"found-{name}.npy")
        np.testing.assert_allclose(found, probabilities(one.model), atol=CLOSE, rtol=0, err_msg=one.case.space)


@pytest.mark.parametrize("place", [index for index, case in enumerate(CASES) if case.in_the_way])
def test_plain_timm_is_refused_what_it_cannot_say(place: int, made: list[Made]) -> None:
    one = made[place]
    with pytest.raises(InputError, match=r"the arguments of timm's \w+ cannot say .*; in the way: ") as refused:
        export(one.folder / "model", {"timm": one.folder / "timm"})
    told = str(refused.value).partition("in the way: ")[2]
    assert all(choice in told for choice in one.case.in_the_way), told
    assert not (one.folder / "timm").exists()


@pytest.mark.parametrize("name", GRAPHS)
def test_the_program_beside_a_graph_says_what_is_on_a_picture(name: str, made: list[Made], tmp_path: Path) -> None:
    """Turned by its EXIF block, with a palette, elongated: prepared as the model prepares it."""
    one = made[0]
    assert one.model.examples is not None
    wide = np.pad(one.model.examples[0, :, :, 0], ((0, 0), (5, 9)))
    picture = Image.fromarray(wide).convert("P")
    picture.getexif()[0x0112] = 6
    picture.save(tmp_path / "turned.png", exif=picture.getexif())
    done = run("", one.folder / name / "predict.py", "turned.png", cwd=tmp_path)
    wanted = one.model.predict([Image.open(tmp_path / "turned.png")])[0]
    answer = one.model.classes[int(wanted.argmax())]
    path, said, share = done.stdout.replace(":", "").split()
    assert (path, said) == ("turned.png", answer), done.stderr
    assert float(share.strip("()")) == pytest.approx(float(wanted.max()), abs=CLOSE)
    assert run("", one.folder / name / "predict.py", cwd=tmp_path).stderr.startswith("Say what is on pictures")


def test_onnx_has_all_inside_and_takes_any_number_of_images(made: list[Made]) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    for one in made:
        session = onnxruntime.InferenceSession(one.folder / "onnx" / "model.onnx")
        inside = session.get_modelmeta().custom_metadata_map
        for name, text in inside.items():
            assert json.loads(text) == json.loads((one.folder / "onnx" / f"{name}.json").read_text())
        assert inside.keys() == {"architecture", "classes", "preprocessing"}
        assert json.loads(inside["classes"]) == list(one.model.classes)
        (images,), (found,) = session.get_inputs(), session.get_outputs()
        side, channels = one.model.preprocessing.resize_size, one.model.preprocessing.in_chans
        assert (images.name, images.type, images.shape) == ("images", "tensor(uint8)", ["batch", side, side, channels])
        assert (found.name, found.shape) == ("probabilities", ["batch", len(one.model.classes)])
        for count in (1, 5):
            given = np.zeros((count, side, side, channels), np.uint8)
            assert session.run(None, {"images": given})[0].sum(1) == pytest.approx(np.ones(count), abs=1e-5)


def test_what_inference_does_not_need_is_gone(made: list[Made]) -> None:
    onnx = pytest.importorskip("onnx")
    by_space = {one.case.space: one for one in made}
    again = read_model(by_space["finetune"].folder / "safetensors")
    assert again.architecture.label == "tf_efficientnet_lite0 w=0.75"
    vit = by_space["vit"]
    assert read_model(vit.folder / "safetensors").architecture == vit.model.architecture
    assert "no architecture says the simplified network" in (vit.folder / "safetensors" / "README.md").read_text()
    gate = next(name for name, part in vit.model.module.named_modules() if hasattr(part, "skipped"))
    skipped = gate.removesuffix("gate") + "update.attention.retrieval.value.weight"
    assert skipped in vit.model.module.state_dict()
    graph = onnx.load(vit.folder / "onnx" / "model.onnx").graph
    assert not [one.name for one in graph.initializer if skipped in one.name or "gamma" in one.name]


def test_the_card_says_where_it_comes_from_and_what_was_compared(made: list[Made]) -> None:
    for one in made:
        for name in one.formats:
            card = (one.folder / name / "README.md").read_text()
            assert f"Exported to {name} from architecture {one.model.architecture.id}." in card
            assert "on 8 real images (allowed: " in card
            assert "| accuracy | 0.875 |" in card


def test_timm_knows_the_labels_and_how_pictures_are_prepared(made: list[Made]) -> None:
    one = made[0]
    config = json.loads((one.folder / "timm" / "config.json").read_text())
    assert config["label_names"] == list(one.model.classes)
    assert config["model_args"]["embed_dim"] == 96
    assert config["pretrained_cfg"]["input_size"] == [1, 32, 32]
    assert config["pretrained_cfg"]["mean"] == list(one.model.preprocessing.mean)
