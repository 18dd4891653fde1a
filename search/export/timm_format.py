"""timm: a folder that plain `timm.create_model("local-dir:FOLDER", pretrained=True)` makes the network of."""

from pathlib import Path
from typing import Any, final

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from timm.data import create_transform, resolve_model_data_config
from timm.models import save_for_hf

from search.data.preprocessing import Preprocessing, as_image
from search.export.format import Format
from search.export.predict import Run
from search.export.timm_arguments import refusal, said
from search.folder import Kind
from search.model import Model
from spaces import InputError
from spaces.anatomy.meta import InputSize
from spaces.simplify import Simple

FILES = ("config.json", "model.safetensors")


@final
class Timm(Format):
    name = "timm"
    kind = Kind(name="an export to timm", files=(*FILES, "README.md"), needed=FILES)
    usage = (
        '    model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()\n'
        "    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))\n"
        '    model(transform(PIL.Image.open("IMAGE").convert("RGB"))[None]).softmax(1)  # "L" of one channel\n'
        '    model.pretrained_cfg["label_names"]  # the classes, in the order of the outputs\n\n'
        "It needs timm 1.0.31 or newer, and nothing else of ours. Elongated pictures lose their ends, as in training."
    )

    def write(self, folder: Path, model: Model, simple: Simple) -> tuple[str, ...]:
        preprocessing = model.preprocessing
        size = (preprocessing.in_chans, preprocessing.image_size, preprocessing.image_size)
        found = said(model.module, simple, model.architecture, size)
        if found is None:
            raise InputError(refusal(model.architecture, len(model.classes), size))
        network, arguments, notes = found
        save_for_hf(
            network,
            str(folder),
            model_config={"label_names": list(model.classes)},
            model_args=arguments,
            data_config=_data_config(preprocessing, size),
            safe_serialization=True,
        )
        listed = ", ".join(f"{name}={value!r}" for name, value in arguments.items()) or "no arguments"
        return (*notes, f"timm's {model.architecture.canonical.backbone} with {listed}")

    def load(self, folder: Path) -> Run:
        model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        transform = create_transform(**resolve_model_data_config(model), is_training=False)

        def run(squares: NDArray[np.uint8]) -> NDArray[np.float32]:
            images = torch.stack([transform(as_image(square)) for square in squares])
            with torch.inference_mode():
                probabilities: NDArray[np.float32] = model(images).softmax(dim=1).numpy()
            return probabilities

        return run


def _data_config(preprocessing: Preprocessing, size: InputSize) -> dict[str, Any]:
    """timm resizes to floor(image size / crop_pct), which half a pixel keeps away from the next whole number."""
    whole = preprocessing.image_size == preprocessing.resize_size
    return {
        "input_size": size,
        "mean": preprocessing.mean,
        "std": preprocessing.std,
        "interpolation": preprocessing.interpolation,
        "crop_pct": 1.0 if whole else preprocessing.image_size / (preprocessing.resize_size + 0.5),
        "crop_mode": "center",
    }
