"""Say what is on pictures: python predict.py IMAGE ...

Needs numpy, pillow, and what runs the model beside it: onnxruntime for model.onnx, torch for model.pt2.
"""

import importlib
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

Run = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Squares [N, S, S, C] to probabilities [N, classes]."""


def load(folder: Path) -> Run:
    if (folder / "model.onnx").is_file():
        runtime = importlib.import_module("onnxruntime")
        session = runtime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
        return lambda squares: session.run(["probabilities"], {"images": squares})[0]
    torch = importlib.import_module("torch")
    module = torch.export.load(folder / "model.pt2").module()
    return lambda squares: module(torch.from_numpy(squares)).numpy()


def square(image: Image.Image, preprocessing: Mapping[str, Any]) -> NDArray[np.uint8]:
    """The largest centred square of a picture, upright and resized: uint8 [S, S, C] with S = resize_size."""
    if image.mode[0] in "IF":
        raise SystemExit(f"a picture of mode {image.mode} is not 8 bits a channel; convert it to RGB or L")
    side, channels = preprocessing["resize_size"], preprocessing["in_chans"]
    upright = ImageOps.exif_transpose(image).convert("L" if channels == 1 else "RGB")
    resampling = Image.Resampling[preprocessing["interpolation"].upper()]
    return np.array(ImageOps.fit(upright, (side, side), resampling)).reshape(side, side, channels)


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    here = Path(__file__).parent
    classes, preprocessing = (json.loads((here / f"{name}.json").read_text()) for name in ("classes", "preprocessing"))
    squares = np.stack([square(Image.open(path), preprocessing) for path in sys.argv[1:]])
    for path, probabilities in zip(sys.argv[1:], load(here)(squares), strict=True):
        best = int(probabilities.argmax())
        print(f"{path}: {classes[best]} ({probabilities[best]:.6f})")  # noqa: T201


if __name__ == "__main__":
    main()
