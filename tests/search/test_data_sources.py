"""Where images come from: arrays, folders, torchvision; and what is said of what is wrong with them."""

import struct
import zipfile
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image

from search.data import load_data
from search.data.vision import SETS
from spaces.schema.data import VisionName
from tests.search.pictures import (
    data_of,
    folder_of,
    needs,
    npz_of,
    png_header,
    refused,
    some_images,
    some_labels,
)


def npy_header(shape: str) -> bytes:
    """An array of bytes that promises a shape and has no content."""
    head = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head


@pytest.mark.parametrize(
    "keys", [{"source": "folder"}, {"source": "npz"}, {"source": "torchvision", "name": "Food101"}]
)
def test_a_path_that_the_system_refuses(tmp_path: Path, keys: dict[str, str]) -> None:
    path = tmp_path / ("a" * 300)
    assert refused(data_of(**keys, path=str(path), image_size=16)) == f"{path}: File name too long"


class TestNpz:
    def test_cifar(self) -> None:
        path = needs("cifar10_20k.npz")
        dataset = load_data(data_of("npz", path=str(path), image_size=32))
        with np.load(path) as arrays:
            assert np.array_equal(dataset.images[dataset.test], arrays["test_images"])
            assert np.array_equal(dataset.labels[dataset.test], arrays["test_labels"])
        assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (12_000, 3_000, 5_000)
        assert dataset.classes[:2] == ("airplane", "automobile")
        assert set(np.bincount(dataset.labels[dataset.val])) == {300}

    @pytest.mark.parametrize("shape", [(12, 12), (12, 12, 1), (12, 16, 3)])
    def test_shapes(self, tmp_path: Path, shape: tuple[int, ...]) -> None:
        path = npz_of(tmp_path / "a.npz", images=some_images(20, *shape), labels=some_labels()[:, None])
        dataset = load_data(data_of("npz", path=str(path), image_size=8))
        assert dataset.images.shape == (20, 9, 9, 3 if shape[2:] == (3,) else 1)  # 8 / 0.875: room to crop

    def test_labels_may_be_names(self, tmp_path: Path) -> None:
        path = npz_of(tmp_path / "a.npz", x=some_images(), y=np.array(["dog", "cat"] * 10))
        dataset = load_data(data_of("npz", path=str(path), image_size=12))
        assert dataset.classes == ("cat", "dog")
        assert dataset.labels[:2].tolist() == [1, 0]

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"images": some_images() / 255, "labels": some_labels()}, "images is float64 [20, 12, 12, 3]; allowed"),
            ({"images": some_images(20, 3, 12, 12), "labels": some_labels()}, "images is uint8 [20, 3, 12, 12]"),
            ({"images": some_images(), "labels": some_labels(19)}, "labels is int64 [19]; images has 20 images"),
            ({"images": some_images(), "labels": some_labels() / 2}, "labels is float64 [20]"),
            ({"images": some_images()}, "has images, but no labels"),
            ({"pictures": some_images()}, "has pictures; exactly one of train_images and train_labels, or"),
            ({"images": some_images(20, 0, 5), "labels": some_labels()}, "images [20, 0, 5] has no pixels"),
            (
                {"images": some_images(), "labels": some_labels(), "classes": np.array(["cat"])},
                "labels run from 0 to 1; with 1 classes named, 0 to 0 are allowed",
            ),
            (
                {"images": some_images(), "labels": np.array(["cat", "dgo"] * 10), "classes": np.array(["cat", "dog"])},
                "unknown label 'dgo'; did you mean 'dog'? (allowed: cat, dog); classes must name all labels",
            ),
            (
                {
                    "train_images": some_images(),
                    "train_labels": some_labels(),
                    "test_images": some_images(),
                    "test_labels": np.array(["cat", "dog"] * 10),
                },
                "must be whole numbers or all be names, not train int64, test <U3",
            ),
            (
                {"images": some_images(), "labels": np.array([None, "a"] * 10, dtype=object)},
                "not a NumPy .npz file of plain arrays (Object arrays cannot be loaded when allow_pickle=False)",
            ),
            (
                {
                    "train_images": some_images(),
                    "train_labels": some_labels(),
                    "test_images": some_images(4, 8, 8, 3),
                    "test_labels": some_labels(4),
                },
                "must have one shape, not train [20, 12, 12, 3], test [4, 8, 8, 3]",
            ),
        ],
    )
    def test_what_is_wrong_is_said(self, tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
        path = npz_of(tmp_path / "a.npz", **arrays)
        found = refused(data_of("npz", path=str(path), image_size=12))
        assert found.startswith(f"{path}: ")
        assert message in found

    def test_names_are_found_in_classes(self, tmp_path: Path) -> None:
        labels = np.array(["dog", "cat"] * 10)
        path = npz_of(tmp_path / "a.npz", x=some_images(), y=labels, classes=np.array(["dog", "cat"]))
        dataset = load_data(data_of("npz", path=str(path), image_size=12))
        assert (dataset.classes, dataset.labels[:2].tolist()) == (("dog", "cat"), [0, 1])

    @pytest.mark.parametrize(
        ("labels", "classes", "message"),
        [
            (np.zeros(20, int), None, "has 1 classes ['0']; two or more are needed"),
            (some_labels(), np.array(["cat", "cat"]), "names the class 'cat' 2 times; each name must be there once"),
        ],
    )
    def test_classes_are_two_or_more_and_distinct(
        self, tmp_path: Path, labels: np.ndarray, classes: np.ndarray | None, message: str
    ) -> None:
        arrays = {"images": some_images(), "labels": labels} | ({} if classes is None else {"classes": classes})
        path = npz_of(tmp_path / "a.npz", **arrays)
        assert refused(data_of("npz", path=str(path), image_size=12)) == f"data.path {path}: {message}"

    @pytest.mark.parametrize(
        ("member", "message"),
        [
            (b"hello", "images is no array"),
            (npy_header("(1000000000000000,)"), "Unable to allocate 909. TiB"),
            (npy_header("(99999999999999999999999,)"), "Python int too large"),
            (npy_header("(3,")[:-20], "EOF"),
        ],
    )
    def test_broken_members_are_refused(self, tmp_path: Path, member: bytes, message: str) -> None:
        name = "images" if member == b"hello" else "images.npy"
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
            archive.writestr(name, member)
        found = refused(data_of("npz", path=str(tmp_path / "a.npz"), image_size=12))
        assert found.startswith(f"{tmp_path / 'a.npz'}: not a NumPy .npz file of plain arrays (")
        assert message in found

    @pytest.mark.parametrize(
        ("place", "value", "message"),
        [((6, 8), 1, "is encrypted, password required"), ((8, 10), 97, "compression method is not supported")],
    )
    def test_archives_that_cannot_be_unpacked(
        self, tmp_path: Path, place: tuple[int, int], value: int, message: str
    ) -> None:
        """A field of the local and of the central header, changed as other packers set it."""
        path = npz_of(tmp_path / "a.npz", images=some_images())
        content = bytearray(path.read_bytes())
        for start, field in ((0, place[0]), (content.rfind(b"PK\x01\x02"), place[1])):
            struct.pack_into("<H", content, start + field, value)
        path.write_bytes(content)
        assert message in refused(data_of("npz", path=str(path), image_size=12))

    def test_other_files_are_refused(self, tmp_path: Path) -> None:
        (tmp_path / "a.npz").write_bytes(b"not a zip")
        assert "not a NumPy .npz file" in refused(data_of("npz", path=str(tmp_path / "a.npz"), image_size=12))
        assert "is not a file" in refused(data_of("npz", path=str(tmp_path / "b.npz"), image_size=12))


class TestFolder:
    def test_flowers(self) -> None:
        dataset = load_data(data_of("folder", path=str(needs("flowers12")), image_size=64))
        assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (576, 144, 240)
        assert dataset.images.shape == (960, 73, 73, 3)
        assert len(dataset.classes) == 12
        assert set(np.bincount(dataset.labels[dataset.val])) == {12}
        assert set(np.bincount(dataset.labels[dataset.test])) == {20}

    def test_plain_class_folders_are_split(self, tmp_path: Path) -> None:
        (folder_of(tmp_path) / "notes.txt").write_text("ignored")
        dataset = load_data(data_of("folder", path=str(tmp_path), image_size=16))
        assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (12, 4, 4)
        assert dataset.classes == ("cat", "dog")

    def test_grey_pictures_have_one_channel(self, tmp_path: Path) -> None:
        dataset = load_data(data_of("folder", path=str(folder_of(tmp_path, mode="L")), image_size=16))
        assert (dataset.in_chans, dataset.images.shape[3]) == (1, 1)

    def test_a_given_validation_split_is_kept(self, tmp_path: Path) -> None:
        folder_of(tmp_path / "train")
        folder_of(tmp_path / "valid", 3)
        dataset = load_data(data_of("folder", path=str(tmp_path), image_size=16))
        assert dataset.val.tolist() == list(range(20, 26))
        assert (len(dataset.train), len(dataset.test)) == (16, 4)

    def test_a_class_may_be_called_train(self, tmp_path: Path) -> None:
        (folder_of(tmp_path) / "dog").rename(tmp_path / "train")
        assert load_data(data_of("folder", path=str(tmp_path), image_size=16)).classes == ("cat", "train")

    def test_pictures_are_turned_upright(self, tmp_path: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = 3  # upside down
        pixels = np.zeros((32, 32, 3), np.uint8)
        pixels[:16] = 255
        Image.fromarray(pixels).save(folder_of(tmp_path) / "cat" / "00.png", exif=exif)
        dataset = load_data(data_of("folder", path=str(tmp_path), image_size=16))
        first = dataset.images[1]  # after 0.png
        assert first[0].mean() < first[-1].mean()

    @pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0"])
    def test_an_unreadable_orientation_is_ignored(self, tmp_path: Path, exif: bytes) -> None:
        Image.fromarray(some_images(1, 32, 32, 3)[0]).save(folder_of(tmp_path) / "cat" / "a.png", exif=exif)
        assert len(load_data(data_of("folder", path=str(tmp_path), image_size=16)).images) == 21

    @pytest.mark.parametrize("name", ["val", "test"])
    def test_an_empty_split_is_refused(self, tmp_path: Path, name: str) -> None:
        folder_of(tmp_path / "train")
        (tmp_path / name).mkdir()
        message = refused(data_of("folder", path=str(tmp_path), image_size=16))
        assert message == (
            f"{tmp_path / name}: has no picture in a class folder (cat, dog); fill it, or remove it and"
            f" {name} pictures are drawn from train/"
        )

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("a.jpg", b"no picture", "a.jpg: not a picture that can be read (cannot identify image file"),
            ("a.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "a.jpg: not a picture that can be read"),
            ("a.png", "truncated", "a.png: a broken picture ("),
            ("a.png", (10_000, 10_000), "a.png: 10000x10000 pixels; at most 89478485 are allowed"),
            ("a.png", (60_000, 60_000), "a.png: Image size (3600000000 pixels) exceeds limit"),
            ("a.png", "16 bits", "a.png: mode I;16 is not 8 bits a channel"),
        ],
    )
    @pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
    def test_a_bad_picture_is_named(self, tmp_path: Path, name: str, content: Any, message: str) -> None:
        path = folder_of(tmp_path) / "cat" / name
        if content == "truncated":
            path.write_bytes((tmp_path / "cat" / "0.png").read_bytes()[:700])
        elif content == "16 bits":
            Image.fromarray(np.full((20, 20), 300, np.uint16)).save(path)
        elif isinstance(content, tuple):
            path.write_bytes(png_header(*content))
        else:
            path.write_bytes(content)
        assert message in refused(data_of("folder", path=str(tmp_path), image_size=16))

    def test_a_class_without_pictures_is_named(self, tmp_path: Path) -> None:
        (folder_of(tmp_path) / "emu").mkdir()
        assert f"{tmp_path / 'emu'}: no picture in this class folder" in refused(
            data_of("folder", path=str(tmp_path), image_size=16)
        )

    def test_other_folders_are_refused(self, tmp_path: Path) -> None:
        data = data_of("folder", path=str(tmp_path / "data"), image_size=16)
        assert "data is not a folder" in refused(data)
        (tmp_path / "data").mkdir()
        assert "has 0 sub-folders; at least two" in refused(data)
        folder_of(tmp_path / "data" / "train")
        folder_of(tmp_path / "data" / "tset")
        assert "unknown folder beside train/ 'tset'; did you mean 'test'?" in refused(data)
        (tmp_path / "data" / "tset").rename(tmp_path / "data" / "test")
        (tmp_path / "data" / "test" / "cat").rename(tmp_path / "data" / "test" / "cta")
        assert "unknown class 'cta'; did you mean 'cat'?" in refused(data)


class TestTorchvision:
    def test_reads_what_is_on_disk(self, tmp_path: Path) -> None:
        digits = load_data(data_of("digits"))
        raw = tmp_path / "FashionMNIST" / "raw"
        raw.mkdir(parents=True)
        for name, indices in (("train", digits.train), ("t10k", digits.test)):
            for kind, array in (
                ("images-idx3", digits.images[indices, :, :, 0]),
                ("labels-idx1", digits.labels[indices]),
            ):
                head = struct.pack(f">I{array.ndim}I", 0x0800 + array.ndim, *array.shape)
                (raw / f"{name}-{kind}-ubyte").write_bytes(head + array.astype(np.uint8).tobytes())
        dataset = load_data(data_of("torchvision", name="FashionMNIST", path=str(tmp_path), image_size=32))
        assert np.array_equal(dataset.images[dataset.test], digits.images[digits.test])
        assert np.array_equal(dataset.labels[dataset.test], digits.labels[digits.test])
        assert (len(dataset.train), len(dataset.val)) == (863, 216)
        assert dataset.classes[0] == "T-shirt/top"

    def test_never_downloads_and_says_how(self, tmp_path: Path) -> None:
        message = refused(data_of("torchvision", name="CIFAR10", path=str(tmp_path), image_size=32))
        assert f"torchvision cannot read CIFAR10 in data.path {tmp_path}" in message
        assert f"torchvision.datasets.CIFAR10('{tmp_path}', download=True)" in message
        assert list(tmp_path.iterdir()) == []

    def test_broken_files_are_refused(self, tmp_path: Path) -> None:
        raw = tmp_path / "MNIST" / "raw"
        raw.mkdir(parents=True)
        for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
            (raw / f"{name}-ubyte").write_bytes(b"garbage")
        message = refused(data_of("torchvision", name="MNIST", path=str(tmp_path), image_size=32))
        assert f"torchvision cannot read MNIST in data.path {tmp_path} (" in message

    @pytest.mark.parametrize(
        ("images", "labels", "message"),
        [
            (some_images(20, 8, 8), np.full(20, 11), "labels of MNIST run from 11 to 11; it has 10 classes"),
            (some_images(20, 8, 8), np.zeros(19), "image 19 of torchvision's MNIST cannot be read (index 19 is out"),
        ],
    )
    def test_contents_that_do_not_fit_are_refused(
        self, tmp_path: Path, images: np.ndarray, labels: np.ndarray, message: str
    ) -> None:
        raw = tmp_path / "MNIST" / "raw"
        raw.mkdir(parents=True)
        for name in ("train", "t10k"):
            for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
                head = struct.pack(f">I{array.ndim}I", 0x0800 + array.ndim, *array.shape)
                (raw / f"{name}-{kind}-ubyte").write_bytes(head + array.astype(np.uint8).tobytes())
        assert message in refused(data_of("torchvision", name="MNIST", path=str(tmp_path), image_size=32))

    def test_a_split_without_images_is_refused(self, tmp_path: Path) -> None:
        for name in ("images", "labels"):
            (tmp_path / "dtd" / "dtd" / name).mkdir(parents=True)
        for name in ("train", "val", "test"):
            (tmp_path / "dtd" / "dtd" / "labels" / f"{name}1.txt").touch()
        message = refused(data_of("torchvision", name="DTD", path=str(tmp_path), image_size=32))
        assert message == f"data.path {tmp_path}: DTD has no images in its train split"

    def test_the_grammar_names_the_same_sets(self) -> None:
        assert set(SETS) == set(get_args(VisionName))
