"""Accuracy on corrupted images and calibration: against definitions written down another way."""

import colorsys
import io
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from search.data import Batches, Dataset, load_data
from search.data.corruptions import TABLES, corrupt, corrupted
from search.training import calibration_error, corruption_accuracy, predict, score
from spaces.errors import InputError
from spaces.schema.costs import CORRUPTIONS, CorruptionKind
from tests.search.pictures import data_of, needs

CPU = torch.device("cpu")
SEVERITIES = (1, 2, 3, 4, 5)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_data(data_of("digits"))


@pytest.fixture(scope="module")
def flowers() -> Dataset:
    """Crops of 64 pixels out of squares of 73."""
    dataset = load_data(data_of("folder", path=str(needs("flowers12")), image_size=64))
    return replace(dataset, val=dataset.val[:12])


def smooth(count: int, channels: int, side: int) -> Tensor:
    """Uint8 images `[count, channels, side, side]` with light, shade and colours."""
    values = np.random.default_rng(0).random((count, channels, side, side))
    values = gaussian_filter(values, sigma=(0, 0, side / 16, side / 16))
    low, high = values.min(axis=(2, 3), keepdims=True), values.max(axis=(2, 3), keepdims=True)
    return torch.from_numpy((255 * (values - low) / (high - low)).astype(np.uint8))


def one(image: Tensor, kind: CorruptionKind, severity: int) -> np.ndarray:
    """Float64 `[C, H, W]` of one image, 0 to 255."""
    return corrupt(image[None], [0], kind, severity)[0].numpy().astype(float)


class TestKinds:
    """Each as the authors' script defines it, from other libraries; up to rounding to whole numbers."""

    @pytest.mark.parametrize("severity", SEVERITIES)
    def test_brightness_is_added_to_the_value_of_the_colour(self, severity: int) -> None:
        image = smooth(1, 3, 32)[0]
        more = TABLES[32]["brightness"][severity - 1]
        for (r, g, b), found in zip(
            image.flatten(1).T.tolist(), one(image, "brightness", severity).reshape(3, -1).T, strict=True
        ):
            hue, saturation, value = colorsys.rgb_to_hsv(r / 255, g / 255, b / 255)
            expected = colorsys.hsv_to_rgb(hue, saturation, min(1.0, value + more))
            assert np.abs(255 * np.array(expected) - found).max() <= 1

    def test_brightness_of_black(self) -> None:
        black = torch.zeros(3, 32, 32, dtype=torch.uint8)
        assert set(one(black, "brightness", 5).ravel()) == {round(0.3 * 255)}

    @pytest.mark.parametrize("severity", SEVERITIES)
    def test_contrast_is_around_the_mean_of_each_channel(self, severity: int) -> None:
        image = smooth(1, 3, 64)[0]
        image[0] //= 2
        mean = image.double().mean(dim=(1, 2), keepdim=True)
        expected = (image - mean) * TABLES[64]["contrast"][severity - 1] + mean
        assert np.abs(one(image, "contrast", severity) - expected.numpy()).max() <= 1

    @pytest.mark.parametrize("side", TABLES)
    def test_blur_is_gaussian_up_to_four_deviations(self, side: int) -> None:
        image = smooth(1, 3, side)[0]
        sigma = TABLES[side]["gaussian_blur"][4]
        expected = gaussian_filter(image.numpy().astype(float), sigma=(0, sigma, sigma), truncate=4, mode="mirror")
        assert np.abs(one(image, "gaussian_blur", 5) - expected).max() <= 1

    @pytest.mark.parametrize("channels", [1, 3])
    def test_jpeg_is_pillow_s(self, channels: int) -> None:
        image = smooth(1, channels, 224)[0]
        file = io.BytesIO()
        pixels = image.permute(1, 2, 0).numpy()
        Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels).save(file, "JPEG", quality=7)
        expected = np.array(Image.open(file)).reshape(224, 224, channels).transpose(2, 0, 1)
        assert np.abs(one(image, "jpeg", 5) - expected).mean() < 0.5
        assert np.abs(one(image, "jpeg", 5) - image.numpy()).mean() > 1

    @pytest.mark.parametrize("side", TABLES)
    def test_noise_is_normal(self, side: int) -> None:
        grey = torch.full((64, 3, side, side), 128, dtype=torch.uint8)
        noise = corrupt(grey, range(64), "gaussian_noise", 1).double() - 128
        assert noise.mean().item() == pytest.approx(0, abs=0.6)  # white is 1, so that 128 is a little more than a half
        assert noise.std().item() == pytest.approx(255 * TABLES[side]["gaussian_noise"][0], rel=0.02)


class TestCorrupt:
    @pytest.mark.parametrize("kind", CORRUPTIONS)
    @pytest.mark.parametrize(("channels", "side"), [(1, 32), (3, 32), (3, 64), (3, 224)])
    def test_harms_more_the_more_severe(self, kind: CorruptionKind, channels: int, side: int) -> None:
        images = smooth(2, channels, side) // 2 + 20
        changes = []
        for severity in SEVERITIES:
            changed = corrupt(images, [0, 1], kind, severity)
            assert (changed.shape, changed.dtype) == (images.shape, torch.uint8)
            changes.append((changed.double() - images).square().mean().item())
        assert 0 < changes[0] < changes[1] < changes[2] < changes[3] < changes[4]

    @pytest.mark.parametrize("kind", CORRUPTIONS)
    def test_depends_on_the_image_alone(self, kind: CorruptionKind) -> None:
        images = smooth(8, 3, 32)
        images[5] = images[2]
        torch.manual_seed(0)
        together = corrupt(images, range(8), kind, 3)
        torch.manual_seed(1)
        before = torch.get_rng_state()
        order = [6, 2, 0]
        assert torch.equal(corrupt(images[order], order, kind, 3), together[order])
        assert torch.equal(torch.get_rng_state(), before)
        assert torch.equal(together[5], together[2]) == (kind != "gaussian_noise")

    @pytest.mark.parametrize(("side", "table"), [(8, 32), (45, 32), (46, 64), (119, 64), (120, 224), (384, 224)])
    def test_strengths_are_of_the_nearest_size(self, side: int, table: int) -> None:
        grey = torch.full((1, 1, side, side), 100, dtype=torch.uint8)
        more = 255 * TABLES[table]["brightness"][0]
        assert one(grey[0], "brightness", 1)[0, 0, 0] == pytest.approx(100 + more, abs=1)
        noise = corrupt(grey.repeat(100, 1, 1, 1), range(100), "gaussian_noise", 3).double().std().item()
        assert noise == pytest.approx(255 * TABLES[table]["gaussian_noise"][2], rel=0.1)


class TestCorrupted:
    def test_views_are_validation_images(self, flowers: Dataset) -> None:
        views = corrupted(flowers, ["contrast", "jpeg"], [1, 4])
        assert list(views) == ["contrast_1", "contrast_4", "jpeg_1", "jpeg_4"]
        crops = flowers.preprocessing.crop(torch.from_numpy(flowers.images[flowers.val])).permute(0, 3, 1, 2)
        for name, view in views.items():
            kind, severity = name.split("_")
            assert len(view.val) == 12
            assert len(view.train) == len(view.test) == 0
            assert view.labels.tolist() == flowers.labels[flowers.val].tolist()
            assert (view.input_size, view.classes) == (flowers.input_size, flowers.classes)
            expected = corrupt(crops, flowers.val.tolist(), kind, int(severity))  # type: ignore[arg-type]
            images, labels = next(iter(Batches(view, view.val, 12, CPU)))
            mean, std = (
                torch.tensor(values)[:, None, None] for values in (view.preprocessing.mean, view.preprocessing.std)
            )
            assert (images - (expected / 255 - mean) / std).abs().max() < 1e-5
            assert labels.tolist() == view.labels.tolist()

    def test_noise_is_that_of_the_image_in_any_split(self, digits: Dataset) -> None:
        """More than are corrupted at once, and in another order."""
        view = corrupted(digits, ["gaussian_noise"], [2])["gaussian_noise_2"]
        turned = corrupted(replace(digits, val=digits.val[::-1]), ["gaussian_noise"], [2])["gaussian_noise_2"]
        assert np.array_equal(view.images[::-1], turned.images)
        assert not view.images.flags.writeable

    def test_what_does_not_fit_is_refused(self, digits: Dataset) -> None:
        endless = replace(digits, val=np.broadcast_to(np.int64(0), 10**10))
        with pytest.raises(
            InputError, match=r"of 32x32 pixels in 10 corruptions \(kinds x severities\) take \d+\.\d GiB"
        ):
            corrupted(endless, CORRUPTIONS, [1, 2])


def logits(confidences: list[float], right: list[bool]) -> tuple[Tensor, Tensor]:
    """Of two classes; the answer is always the first."""
    odds = [math.log(confidence / (1 - confidence)) for confidence in confidences]
    return torch.tensor([[odd, 0.0] for odd in odds], dtype=torch.float64), torch.tensor(
        [int(not yes) for yes in right]
    )


class TestCalibrationError:
    def test_by_hand(self) -> None:
        """Half right at 0.6, always right at 0.9: off by 0.1 each; together 0.75 right at 0.75."""
        answer = logits([0.6, 0.6, 0.9, 0.9], [True, False, True, True])
        assert calibration_error(*answer, bins=10) == pytest.approx(0.1)
        assert calibration_error(*answer) == pytest.approx(0.1)
        assert calibration_error(*answer, bins=2) == pytest.approx(0)

    def test_bins_weigh_as_many_as_are_in_them(self) -> None:
        answer = logits([0.7, 0.7, 0.7, 0.95], [True, True, True, False])
        assert calibration_error(*answer, bins=10) == pytest.approx((3 * 0.3 + 0.95) / 4)

    def test_extremes(self) -> None:
        sure = torch.tensor([[100.0, 0.0, 0.0]]).repeat(6, 1)
        assert calibration_error(sure, torch.zeros(6, dtype=torch.long)) == pytest.approx(0)
        assert calibration_error(sure, torch.ones(6, dtype=torch.long)) == pytest.approx(1)
        unsure, every = torch.zeros(6, 3), torch.tensor([0, 1, 2] * 2)
        assert calibration_error(unsure, every) == pytest.approx(0)
        assert calibration_error(unsure, torch.zeros(6, dtype=torch.long)) == pytest.approx(2 / 3)

    @pytest.mark.parametrize("bins", [2, 5, 15, 100])
    def test_as_the_equation_says(self, bins: int) -> None:
        generator = torch.Generator().manual_seed(bins)
        outputs = 3 * torch.randn(500, 4, generator=generator)
        labels = torch.randint(4, (500,), generator=generator)
        confidence, answer = outputs.double().softmax(dim=1).max(dim=1)
        expected = 0.0
        for index in range(bins):
            inside = (confidence > index / bins) & (confidence <= (index + 1) / bins)
            if inside.any():
                accuracy = (answer == labels)[inside].double().mean()
                expected += inside.sum() / 500 * abs(accuracy - confidence[inside].mean())
        assert calibration_error(outputs, labels, bins) == pytest.approx(float(expected))
        assert calibration_error(outputs + 7, labels, bins) == pytest.approx(float(expected), abs=1e-5)


@pytest.fixture(scope="module")
def reader(digits: Dataset) -> nn.Module:
    """Reads digits, with one layer."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(32 * 32, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for epoch in range(4):
        for images, labels in Batches(digits, digits.train, 64, CPU).shuffled(0, epoch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
    return model


def test_corruption_accuracy(digits: Dataset, reader: nn.Module) -> None:
    views = corrupted(digits, CORRUPTIONS, [1, 5])
    found = corruption_accuracy(reader, views, 64, CPU)
    clean = score(*predict(reader, Batches(digits, digits.val, 64, CPU))).accuracy
    each = [found.pop(f"accuracy_{kind}_{severity}") for kind in CORRUPTIONS for severity in (1, 5)]
    assert found == {"corruption_accuracy": pytest.approx(sum(each) / 10)}
    assert min(each) < clean - 0.03
    assert max(each) <= clean + 0.03
    weak, strong = each[::2], each[1::2]
    assert sum(strong) < sum(weak)
    images = torch.from_numpy(views["contrast_5"].images.copy())
    answers = reader(digits.preprocessing.normalise(images)).argmax(dim=1).numpy()
    assert each[7] == pytest.approx((answers == digits.labels[digits.val]).mean())


def test_what_it_is_sure_of_is_calibrated_by_its_temperature(digits: Dataset, reader: nn.Module) -> None:
    outputs, labels = predict(reader, Batches(digits, digits.val, 64, CPU))
    errors = [calibration_error(outputs * factor, labels) for factor in (0.1, 1, 100)]
    assert errors[1] < min(errors[0], errors[2])
    assert errors[2] == pytest.approx(1 - score(outputs, labels).accuracy, abs=0.02)  # always sure
