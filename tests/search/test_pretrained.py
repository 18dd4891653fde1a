"""Starting from trained weights: they are loaded, normalised for, worth it; files that are not those are refused."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from search.cli import main
from search.trial import TimmEvaluator, dataset_of
from spaces import Architecture, SpaceError, SpaceFile, Start, build, load
from tests.search.command import SHARED, space_file
from tests.search.pictures import folder_of, needs, npz_of, some_images

WEIGHTS = SHARED / "weights" / "tf_efficientnet_lite0.safetensors"
VIT = {"img_size": 16, "patch_size": 8, "depth": 1}
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

pytestmark = pytest.mark.usefixtures("one_thread")


def space_of(data: dict[str, Any], *backbones: Any, epochs: int = 1, **train: Any) -> SpaceFile:
    return load(
        {
            "name": "pretrained",
            "data": {"image_size": 16, **data},
            "backbones": list(backbones),
            "dimensions": {"width": [0.5, 1.0]},
            "objectives": {"accuracy": "maximize", "macs": "minimize"},
            "search": {"trials": 1, "fidelity": {"rungs": [epochs]}},
            "train": {"pretrained": True, **train},
        }
    )


def weights_file(path: Path, model: nn.Module) -> str:
    save_file(model.state_dict(), path)
    return str(path)


@pytest.fixture(scope="module")
def colour(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """20 RGB images of two classes."""
    return {"source": "folder", "path": str(folder_of(tmp_path_factory.mktemp("colour")))}


class TestNormalisation:
    def statistics(self, data: dict[str, Any], *backbones: str, **train: Any) -> tuple[tuple[float, ...], ...]:
        preprocessing = dataset_of(space_of(data, *backbones, **train)).preprocessing
        return preprocessing.mean, preprocessing.std

    def test_is_what_the_weights_were_trained_with(self, colour: dict[str, Any]) -> None:
        assert self.statistics(colour, "resnet18", "convnext_atto") == IMAGENET
        assert self.statistics(colour, "tf_efficientnet_lite0") == ((0.5,) * 3, (0.5,) * 3)

    def test_is_that_of_the_pretrained_tag(self, colour: dict[str, Any]) -> None:
        assert self.statistics(colour, "vit_base_patch16_224.mae") == IMAGENET
        assert self.statistics(colour, "vit_base_patch16_224.augreg_in1k") == ((0.5,) * 3, (0.5,) * 3)

    def test_is_the_images_own_from_scratch_and_where_backbones_disagree(self, colour: dict[str, Any]) -> None:
        own = self.statistics(colour, "resnet18", pretrained=False)
        assert own not in (IMAGENET, ((0.5,) * 3, (0.5,) * 3))
        assert self.statistics(colour, "resnet18", "tf_efficientnet_lite0") == own

    def test_is_what_the_file_says(self, colour: dict[str, Any]) -> None:
        given = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
        assert self.statistics(colour | given, "resnet18") == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))

    def test_of_grey_images_is_their_own(self) -> None:
        digits = {"source": "digits"}
        assert self.statistics(digits, "resnet18") == self.statistics(digits, "resnet18", pretrained=False)


def test_the_sample_for_taylor_is_of_any_class_though_the_files_are_sorted(tmp_path: Path) -> None:
    labels = np.arange(60) // 20
    arrays = {f"{split}_images": some_images(60) for split in ("train", "val", "test")}
    path = npz_of(
        tmp_path / "sorted.npz", **arrays, **{f"{split}_labels": labels for split in ("train", "val", "test")}
    )
    weights = weights_file(tmp_path / "resnet10t.safetensors", timm.create_model("resnet10t"))
    space = space_of({"source": "npz", "path": str(path)}, {"name": "resnet10t", "weights": weights}, batch_size=16)
    _, classes = TimmEvaluator(space, dataset_of(space))._sample(torch.device("cpu"))
    assert len(classes) == 16
    assert len(set(classes.tolist())) == 3


class TestStart:
    """With a learning rate of nothing, what is left after training is what was loaded."""

    def left(self, space: SpaceFile, architecture: Architecture, folder: Path) -> dict[str, torch.Tensor]:
        list(TimmEvaluator(space, dataset_of(space)).evaluate(architecture, 1, 0, folder))
        return load_file(folder / "model.safetensors")

    def test_every_backbone_has_a_file_of_its_own(self, colour: dict[str, Any], tmp_path: Path) -> None:
        models: list[nn.Module] = []
        backbones: list[dict[str, Any]] = []
        for depth in (1, 2):
            kwargs = VIT | {"depth": depth}
            models.append(timm.create_model("vit_tiny_patch16_224", **kwargs))
            file = weights_file(tmp_path / f"{depth}.safetensors", models[-1])
            backbones.append({"name": "vit_tiny_patch16_224", "kwargs": kwargs, "weights": file})
        space = space_of(colour, *backbones, lr=1e-12)
        for model, backbone in zip(models, backbones, strict=True):
            architecture = Architecture(backbone="vit_tiny_patch16_224", kwargs=backbone["kwargs"])
            left = self.left(space, architecture, tmp_path / str(backbone["kwargs"]["depth"]))
            assert set(left) == set(model.state_dict())
            for name, tensor in model.state_dict().items():
                if not name.startswith("head."):  # it has 2 classes
                    assert torch.allclose(left[name], tensor, atol=1e-6), name

    def test_a_tag_names_weights_of_the_same_network(self, colour: dict[str, Any], tmp_path: Path) -> None:
        model = timm.create_model("resnet10t")
        file = weights_file(tmp_path / "mine.safetensors", model)
        space = space_of(colour, {"name": "resnet10t.c3_in1k", "weights": file}, lr=1e-12)
        for number, name in enumerate(("resnet10t.c3_in1k", "resnet10t")):
            left = self.left(space, Architecture(backbone=name), tmp_path / str(number))
            assert torch.allclose(left["layer1.0.conv1.weight"], model.layer1[0].conv1.weight, atol=1e-6)

    def test_of_two_files_for_one_network_one_is_too_many(self, colour: dict[str, Any], tmp_path: Path) -> None:
        files = [weights_file(tmp_path / f"{n}.safetensors", timm.create_model("resnet10t")) for n in range(2)]
        backbones = [
            {"name": f"resnet10t{tag}", "weights": file} for tag, file in zip(("", ".c3_in1k"), files, strict=True)
        ]
        space = space_of(colour, *backbones)
        with pytest.raises(SpaceError, match=r"^backbones\[1\]\.weights: the same network starts from \S*0\.saf"):
            TimmEvaluator(space, dataset_of(space))

    def test_a_file_without_a_classifier_will_do(self, tmp_path: Path) -> None:
        model = timm.create_model("resnet10t", num_classes=0)
        start = Start(weights=Path(weights_file(tmp_path / "headless.safetensors", model)))
        built = build(Architecture(backbone="resnet10t"), 5, start=start)
        assert torch.equal(built.get_parameter("layer1.0.conv1.weight"), model.layer1[0].conv1.weight)
        assert built(torch.zeros(2, 3, 32, 32)).shape == (2, 5)


class TestRefused:
    @pytest.fixture(scope="class")
    def files(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """Files of weights, none of them of resnet10t."""
        folder = tmp_path_factory.mktemp("files")
        state = timm.create_model("resnet10t").state_dict()
        save_file(state, folder / "right.safetensors")
        whole = (folder / "right.safetensors").read_bytes()
        (folder / "damaged.safetensors").write_bytes(whole[: len(whole) // 2])
        (folder / "garbage.safetensors").write_bytes(b"garbage" * 1000)
        (folder / "weights.bin").write_bytes(whole)
        (folder / "folder.safetensors").mkdir()
        save_file({name: t for name, t in state.items() if "layer4" not in name}, folder / "less.safetensors")
        save_file(state | {"layer5.weight": torch.zeros(2)}, folder / "more.safetensors")
        weights_file(folder / "convnext.safetensors", timm.create_model("convnext_atto"))
        return folder

    @pytest.mark.parametrize(
        ("weights", "pretrained", "message"),
        [
            ("nothing.safetensors", True, r"there is no file \S*nothing\.safetensors"),
            ("folder.safetensors", True, r"there is no file \S*folder\.safetensors"),
            ("damaged.safetensors", True, r"\S*damaged\.safetensors is not a readable \.safetensors file: .+"),
            ("garbage.safetensors", True, r"\S*garbage\.safetensors is not a readable \.safetensors file: .+"),
            ("weights.bin", True, r"'weights\.bin' is not a \.safetensors file, the one kind that cannot run code"),
            ("less.safetensors", True, r'\S*less\.safetensors does not fit resnet10t\(\): .* Missing key.*"layer4'),
            ("more.safetensors", True, r'\S*more\.safetensors does not fit resnet10t\(\): .* Unexpected key.*"layer5'),
            ("convnext.safetensors", True, r"\S*convnext\.safetensors does not fit resnet10t\(\): .* Missing key.*"),
            (None, True, r"the weights of resnet10t are not in the local cache .*hf download timm/resnet10t.*"),
            (
                "right.safetensors",
                False,
                r"is there, but train\.inherit is none; set it to pretrained, or leave the weights out",
            ),
        ],
        ids=lambda value: str(value)[:12],
    )
    def test_before_any_trial(
        self,
        files: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        weights: str | None,
        pretrained: bool,
        message: str,
    ) -> None:
        """One message with file, line and key, and exit code 2."""
        backbone = {"name": "resnet10t"} | ({"weights": str(files / weights)} if weights else {})
        space = space_file(tmp_path, backbones=[backbone], train={"pretrained": pretrained})
        lines = space.read_text().splitlines()
        line = next(n for n, text in enumerate(lines, 1) if ("weights:" if weights else "name: resnet10t") in text)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("spaces.weights.try_to_load_from_cache", lambda *_, **__: None)
        monkeypatch.setattr("sys.argv", ["archsearch", "run", space.name])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr().err.strip()
        assert ended.value.code == 2
        assert re.match(rf"error: tiny\.yaml:{line}: backbones\[0\]\.weights: {message}", said), said
        assert not (tmp_path / "runs/tiny").exists()


@pytest.mark.skipif(not WEIGHTS.is_file(), reason=f"{WEIGHTS.name} is not in ../shared/weights")
def test_narrowed_imagenet_weights_beat_the_same_network_from_scratch(tmp_path: Path) -> None:
    """At 64 pixels in 3 epochs; tests/benchmarks/pretrained.py is the same at 224."""
    data = {"source": "folder", "path": str(needs("flowers12")), "image_size": 64}
    narrow = Architecture(backbone="tf_efficientnet_lite0", choices={"width": 0.75})
    lite0 = {"name": "tf_efficientnet_lite0", "weights": str(WEIGHTS)}
    tuned = space_of(data, lite0, epochs=3, batch_size=32)
    dataset = dataset_of(tuned)
    assert dataset.preprocessing.mean == dataset.preprocessing.std == (0.5,) * 3
    fresh = space_of(data, lite0["name"], epochs=3, batch_size=32, pretrained=False)
    found = {}
    for name, space in (("tuned", tuned), ("fresh", fresh)):
        evaluator = TimmEvaluator(space, dataset)
        list(evaluator.evaluate(narrow, 3, 0, tmp_path / name))
        found[name] = evaluator.test(narrow, tmp_path / name)
    assert found["tuned"] > found["fresh"] + 0.2, found
