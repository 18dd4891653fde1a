"""From a picture to a model's input: preprocessing, batches and augmentation."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from search.data import TRANSFORMS, Batches, Dataset, Preprocessing, load_data
from search.data.folder import open_folder
from spaces.errors import InputError
from tests.search.pictures import data_of, needs, some_images

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_data(data_of("digits"))


class TestPreprocessing:
    def test_is_plain_json(self, digits: Dataset) -> None:
        text = json.dumps(digits.preprocessing.to_dict())
        assert Preprocessing.from_dict(json.loads(text)) == digits.preprocessing

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                {"interpolaton": "bicubic"},
                "unknown key of a preprocessing 'interpolaton'; did you mean 'interpolation'",
            ),
            ({"interpolation": "cubic"}, "unknown interpolation 'cubic'; did you mean 'bicubic'?"),
            ({"in_chans": 2}, "in_chans 2 must be 1 (grey) or 3 (RGB)"),
            ({"resize_size": 31}, "image_size 32 must be from 1 to resize_size 31"),
            ({"std": [0.0]}, "std [0.0] must be above 0"),
            ({"mean": "5"}, "mean '5' must be a list of numbers"),
            ({"std": [True]}, "std [True] must be a list of numbers"),
            ({"image_size": 8.5}, "image_size 8.5 must be a whole number"),
            ({"mean": [10**400]}, "is too large"),
            ({"mean": [float("nan")]}, "mean [nan] must be one number a channel; there are 1"),
        ],
    )
    def test_what_is_wrong_is_said(self, digits: Dataset, change: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError) as caught:
            Preprocessing.from_dict({**digits.preprocessing.to_dict(), **change})
        assert message in str(caught.value)

    def test_gives_what_validation_sees(self) -> None:
        data = data_of("folder", path=str(needs("flowers12")), image_size=64)
        dataset, pictures = load_data(data), open_folder(data)
        chosen = dataset.val[:8]
        images, _ = next(iter(Batches(dataset, chosen, 8, CPU)))
        alone = [dataset.preprocessing(pictures.read(int(index))) for index in chosen]
        assert torch.equal(torch.cat(alone), images)

    def test_takes_arrays_of_any_size(self, digits: Dataset) -> None:
        image = digits.images[0]
        assert torch.equal(digits.preprocessing(image), digits.preprocessing(Image.fromarray(image[:, :, 0])))
        assert digits.preprocessing(some_images(1, 50, 70, 3)[0]).shape == (1, 1, 32, 32)
        with pytest.raises(InputError, match=r"an array of float64 \[32, 32, 1\] is not an image"):
            digits.preprocessing(image / 255)

    def test_a_broken_picture_is_named(self, digits: Dataset, tmp_path: Path) -> None:
        Image.fromarray(some_images(1, 50, 70, 3)[0]).save(tmp_path / "a.png")
        (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:900])
        with pytest.raises(InputError, match=r"a\.png: a broken picture \("):
            digits.preprocessing(Image.open(tmp_path / "a.png"))


class TestBatches:
    def test_in_order_and_normalised(self, digits: Dataset) -> None:
        parts = list(Batches(digits, digits.val, 100, CPU))
        assert [len(labels) for _, labels in parts] == [100, 100, 100, 59]
        assert torch.cat([labels for _, labels in parts]).tolist() == digits.labels[digits.val].tolist()
        mean, std = digits.preprocessing.mean[0], digits.preprocessing.std[0]
        expected = (digits.images[digits.val][:, None, :, :, 0] / 255 - mean) / std
        assert np.abs(torch.cat([images for images, _ in parts]).numpy() - expected).max() < 1e-6

    @pytest.mark.parametrize("transform", [*TRANSFORMS, "timm"])
    def test_shuffled_by_seed_and_epoch_alone(self, digits: Dataset, transform: str) -> None:
        dataset = load_data(data_of("digits", transform=transform))
        batches = Batches(dataset, dataset.train[:98], 32, CPU)
        torch.manual_seed(5)
        first = list(batches.shuffled(0, 0))
        torch.manual_seed(6)
        random.seed(6)
        again = list(batches.shuffled(0, 0))
        assert [len(labels) for _, labels in first] == [32, 32, 32, 2]
        assert all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(first, again, strict=True))
        labels = torch.cat([labels for _, labels in first])
        assert sorted(labels.tolist()) == sorted(dataset.labels[dataset.train[:98]].tolist())
        for seed, epoch in ((0, 1), (1, 0)):
            other = list(batches.shuffled(seed, epoch))
            assert not torch.equal(torch.cat([labels for _, labels in other]), labels)
        images = torch.cat([images for images, _ in first])
        assert images.shape == (98, 1, 32, 32)
        assert images.dtype == torch.float32
        assert images.isfinite().all()

    def test_leave_the_global_generators_alone(self) -> None:
        for transform in (*TRANSFORMS, "timm"):
            dataset = load_data(data_of("digits", transform=transform))
            torch.manual_seed(5)
            random.seed(5)
            before = torch.get_rng_state(), random.getstate()
            list(Batches(dataset, dataset.train[:40], 32, CPU).shuffled(0, 0))
            assert torch.equal(torch.get_rng_state(), before[0])
            assert random.getstate() == before[1]

    @pytest.mark.parametrize(
        ("count", "sizes"), [(65, [32, 33]), (66, [32, 32, 2]), (1, [1]), (33, [33]), (64, [32, 32])]
    )
    def test_no_batch_of_one_is_left_over(self, digits: Dataset, count: int, sizes: list[int]) -> None:
        batches = Batches(digits, digits.train[:count], 32, CPU)
        assert [len(labels) for _, labels in batches] == sizes
        assert [len(labels) for _, labels in batches.shuffled(0, 0)] == sizes
        assert (len(batches), batches.images) == (len(sizes), count)


class TestAugment:
    """Each transform against a slow, plain version of itself."""

    preprocessing = Preprocessing(image_size=16, resize_size=16, in_chans=3, mean=(0.0,) * 3, std=(1.0,) * 3)
    images = torch.from_numpy(some_images(64, 16, 16, 3))

    def views(
        self, name: str, preprocessing: Preprocessing | None = None, images: torch.Tensor | None = None
    ) -> np.ndarray:
        generator = torch.Generator().manual_seed(0)
        images = self.images if images is None else images
        views = TRANSFORMS[name](images, preprocessing or self.preprocessing, generator)
        return (views.permute(0, 2, 3, 1) * 255).round().numpy().astype(np.uint8)

    def test_flip(self) -> None:
        mirrored = [
            np.array_equal(view, image[:, ::-1])
            for image, view in zip(self.images.numpy(), self.views("flip"), strict=True)
        ]
        plain = [np.array_equal(*pair) for pair in zip(self.images.numpy(), self.views("flip"), strict=True)]
        assert all(a != b for a, b in zip(mirrored, plain, strict=True))
        assert 20 < sum(mirrored) < 44

    def test_crop_flip_shows_a_window_of_the_reflected_image(self) -> None:
        places = set()
        for image, view in zip(self.images.numpy(), self.views("crop_flip"), strict=True):
            padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), mode="reflect")
            windows = {
                (top, left, mirror): padded[top : top + 16, left : left + 16][:, :: -1 if mirror else 1]
                for top in range(5)
                for left in range(5)
                for mirror in (False, True)
            }
            found = [place for place, window in windows.items() if np.array_equal(window, view)]
            assert len(found) == 1
            places |= set(found)
        assert len(places) > 25

    def test_crop_flip_uses_the_room_there_is(self) -> None:
        roomy = Preprocessing(image_size=14, resize_size=16, in_chans=3, mean=(0.0,) * 3, std=(1.0,) * 3)
        for image, view in zip(self.images.numpy(), self.views("crop_flip", roomy), strict=True):
            windows = [image[top : top + 14, left : left + 14] for top in range(3) for left in range(3)]
            assert any(np.array_equal(view, w) or np.array_equal(view, w[:, ::-1]) for w in windows)

    def test_resized_crop_flip_shows_a_part_in_order(self) -> None:
        ramp = np.broadcast_to(np.linspace(0, 255, 16)[:, None], (16, 16))
        image = np.stack([ramp, ramp.T, np.full((16, 16), 77.0)], axis=2).astype(np.uint8)
        views = self.views("resized_crop_flip", images=torch.from_numpy(np.broadcast_to(image, (64, 16, 16, 3)).copy()))
        down, across = np.diff(views[..., 0].astype(int), axis=1), np.diff(views[..., 1].astype(int), axis=2)
        assert (down >= 0).all()
        mirrored = (across <= 0).all(axis=(1, 2))
        assert (mirrored ^ (across >= 0).all(axis=(1, 2))).all()
        assert 20 < mirrored.sum() < 44
        height, width = np.ptp(views[..., 0], axis=(1, 2)) / 255, np.ptp(views[..., 1], axis=(1, 2)) / 255
        area = height * width
        assert 0.25 < area.min() < 0.5
        assert 0.8 < area.max() <= 1
        assert (views[..., 2] == 77).all()
