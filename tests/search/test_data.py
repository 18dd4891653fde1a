"""Splits and data sets: what every training and every number of a search stands on."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from search.data import Dataset, load_data
from search.data.dataset import refuse_too_big
from spaces.errors import InputError
from tests.search.pictures import data_of, npz_of, refused, some_images, some_labels


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_data(data_of("digits"))


class TestSplits:
    def test_are_disjoint_and_complete(self, digits: Dataset) -> None:
        together = np.concatenate([digits.train, digits.val, digits.test])
        assert sorted(together) == list(range(1797))
        assert (len(digits.train), len(digits.val), len(digits.test)) == (1079, 359, 359)

    def test_are_stratified(self, digits: Dataset) -> None:
        for indices in (digits.train, digits.val, digits.test):
            expected = np.bincount(digits.labels) * len(indices) / 1797
            assert np.abs(np.bincount(digits.labels[indices]) - expected).max() <= 1

    def test_depend_on_the_seed_alone(self, digits: Dataset) -> None:
        np.random.seed(3)
        again, other = load_data(data_of("digits")), load_data(data_of("digits", seed=1))
        assert np.array_equal(again.val, digits.val)
        assert np.array_equal(again.test, digits.test)
        assert not np.array_equal(other.val, digits.val)

    def test_without_a_share_there_is_no_test_split(self) -> None:
        dataset = load_data(data_of("digits", test_fraction=0.0))
        assert (len(dataset.val), len(dataset.test)) == (359, 0)

    def test_given_ones_are_kept(self, tmp_path: Path) -> None:
        path = npz_of(
            tmp_path / "a.npz",
            x_train=some_images(20),
            y_train=some_labels(20),
            x_val=some_images(4),
            y_val=some_labels(4),
            x_test=some_images(6),
            y_test=some_labels(6),
        )
        dataset = load_data(data_of("npz", path=str(path), image_size=12))
        assert dataset.train.tolist() == list(range(20))
        assert dataset.val.tolist() == list(range(20, 24))
        assert dataset.test.tolist() == list(range(24, 30))

    def test_a_class_with_too_few_images_is_named(self, tmp_path: Path) -> None:
        labels = np.array([0] * 17 + [1] * 3)
        path = npz_of(tmp_path / "a.npz", images=some_images(), labels=labels, classes=np.array(["cat", "dog"]))
        message = refused(data_of("npz", path=str(path), image_size=12))
        assert message == (
            "class 'dog' has 3 of the 20 images to train on and to split"
            " (data.test_fraction 0.2, data.val_fraction 0.2); give it at least 6, or leave the class out"
        )

    def test_a_class_without_training_images_is_refused(self, tmp_path: Path) -> None:
        path = npz_of(tmp_path / "a.npz", images=some_images(), labels=some_labels(), classes=np.array(list("abc")))
        assert "class 'c' has 0 of the 20" in refused(data_of("npz", path=str(path), image_size=12))


class TestDataset:
    def test_statistics_are_those_of_the_training_split(self, digits: Dataset) -> None:
        pixels = digits.images[digits.train] / 255
        assert digits.preprocessing.mean == pytest.approx([pixels.mean()], abs=1e-12)
        assert digits.preprocessing.std == pytest.approx([pixels.std()], abs=1e-12)

    def test_given_statistics_are_taken(self) -> None:
        dataset = load_data(data_of("digits", mean=[0.25], std=[0.5]))
        assert (dataset.preprocessing.mean, dataset.preprocessing.std) == ((0.25,), (0.5,))

    def test_statistics_of_other_channels_are_refused(self) -> None:
        data = data_of("digits", mean=[0.5, 0.5, 0.5], std=[0.5, 0.5, 0.5])
        assert refused(data) == "mean [0.5, 0.5, 0.5] must be one number a channel; there are 1"

    def test_travels_between_processes_without_a_copy(self, digits: Dataset) -> None:
        buffers: list[pickle.PickleBuffer] = []
        head = pickle.dumps(digits, protocol=5, buffer_callback=buffers.append)
        assert len(head) < 10_000
        again = pickle.loads(head, buffers=buffers)
        assert again.images.ctypes.data == digits.images.ctypes.data
        assert again.preprocessing == digits.preprocessing

    def test_cannot_be_written_to(self, digits: Dataset) -> None:
        with pytest.raises(ValueError, match="read-only"):
            digits.images[0] = 0

    def test_majority_rate_is_of_the_validation_split(self, digits: Dataset) -> None:
        assert digits.majority_rate == np.unique(digits.labels[digits.val], return_counts=True)[1].max() / 359

    def test_what_memory_cannot_hold_is_refused(self) -> None:
        with pytest.raises(InputError, match=r"9 images take 1048576\.0 GiB, .* use fewer images or a smaller"):
            refuse_too_big(2**50, "9 images")
