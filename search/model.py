"""The model folder: one network of a search as plain files, to be rebuilt, run, logged and exported.

    model.safetensors    the weights; tied ones stand there once
    architecture.json    `Architecture.to_dict()`
    classes.json         class names, in the order of the model's outputs
    preprocessing.json   `Preprocessing.to_dict()`
    examples.safetensors some validation images to try the model on, uint8 `[N, S, S, C]`; may be missing
    predict.py           rebuilds the model and names what is on a picture
    README.md            what the model is and what it reached

Reading a folder takes data from it, never code. `search.tracking.mlflow` logs such a folder to MLflow, which comes
back through `_load_pyfunc`. Knows nothing of searches, Ray, Optuna or MLflow.
"""

import json
import re
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

from search.data.dataset import check_classes, file_faults
from search.data.preprocessing import Preprocessing
from search.examples import EXAMPLES, read_examples, write_examples
from search.folder import Kind, fresh
from spaces import Architecture, InputError, SpaceError, build

WEIGHTS = "model.safetensors"
DATA = ("architecture.json", "classes.json", "preprocessing.json")
FILES = (WEIGHTS, *DATA, EXAMPLES, "predict.py", "README.md")
KIND = Kind(name="a model folder", files=FILES, needed=(WEIGHTS, *DATA))
MAX_JSON_BYTES = 4_000_000  # ImageNet-21k's class names take 1 MB; nothing here is longer
MAX_RESIZE = 4096  # pixels a side; timm's largest pretrained models take 1024
BATCH = 64  # images that `Model.predict` holds as tensors at once
_MEASURED = "| measured | |\n|---|---|\n"
_ROW = re.compile(r"\| [\w ,:;%().+-]+ \| [\w ,:;%().+-]+ \|")

PREDICT = '''"""Say what is on a picture: python predict.py IMAGE"""

import json
import sys
from pathlib import Path

from PIL import Image
from safetensors.torch import load_model

from search.data.preprocessing import Preprocessing
from spaces import Architecture, build

if len(sys.argv) != 2:
    sys.exit(__doc__)
HERE, NAMES = Path(__file__).parent, ("architecture", "classes", "preprocessing")

architecture, classes, preprocessing = (json.loads((HERE / f"{name}.json").read_text()) for name in NAMES)
preprocess = Preprocessing.from_dict(preprocessing)
model = build(Architecture.from_dict(architecture), len(classes), preprocess.in_chans).eval()
load_model(model, HERE / "model.safetensors")
print(max(zip(model(preprocess(Image.open(sys.argv[1]))).softmax(1)[0].tolist(), classes)))
'''


@dataclass(frozen=True, kw_only=True)
class Model:
    """A trained classifier with all that its use needs.

    Attributes:
        module: float32 `[N, C, H, W]` to logits `[N, len(classes)]`.
        classes: names, in the order of the logits.
        examples: uint8 `[N, S, S, C]`, S = `preprocessing.resize_size`: a few real images (`search.examples`); None
            where there are none.
    """

    module: nn.Module
    architecture: Architecture
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    examples: NDArray[np.uint8] | None = field(default=None, compare=False)

    def data(self) -> dict[str, Any]:
        """What there is to know beside the weights, as JSON values; in the order of DATA."""
        return {
            "architecture": self.architecture.to_dict(),
            "classes": list(self.classes),
            "preprocessing": self.preprocessing.to_dict(),
        }

    def predict(self, images: Iterable[Image.Image | NDArray[np.uint8]]) -> Tensor:
        """Class probabilities `[N, len(classes)]`, on the CPU, of PIL images or uint8 arrays of any size."""
        device = next(self.module.parameters()).device
        waiting, done = list(images), [torch.empty(0, len(self.classes))]
        self.module.eval()
        with torch.inference_mode():
            for start in range(0, len(waiting), BATCH):
                batch = torch.cat([self.preprocessing(image) for image in waiting[start : start + BATCH]])
                done.append(self.module(batch.to(device)).softmax(dim=1).cpu())
        return torch.cat(done)


def write_model(folder: Path, model: Model, results: Mapping[str, float | str]) -> None:
    """Write the model folder at once or not at all; an empty folder or an older model folder there is replaced.

    Args:
        results: what the README tells of the model, by name: objectives, costs, test accuracy.

    Raises:
        InputError: the folder holds something else than a model folder, or cannot be written.
    """
    with fresh(folder, KIND) as new:
        fill(new, model, results)


def fill(folder: Path, model: Model, results: Mapping[str, float | str]) -> None:
    """Write the files of a model folder into an empty one; as `write_model`."""
    try:
        save_model(model.module, str(folder / WEIGHTS))
    except SafetensorError as error:
        raise InputError(f"the weights cannot be written ({error})") from None
    if model.examples is not None:
        write_examples(folder / EXAMPLES, model.examples)
    write_data(folder, model)
    (folder / "predict.py").write_text(PREDICT)
    (folder / "README.md").write_text(_card(model, results), encoding="utf-8")


def write_data(folder: Path, model: Model) -> None:
    """All that is JSON."""
    for name, content in zip(DATA, model.data().values(), strict=True):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")


def _card(model: Model, results: Mapping[str, float | str]) -> str:
    side = model.preprocessing.image_size
    told = {name: value if isinstance(value, str) else f"{value:.6g}" for name, value in results.items()}
    rows = "\n".join(f"| {name} | {value} |" for name, value in told.items())
    return (
        f"# {model.architecture.label}\n\n"
        f"An image classifier found by archsearch: {len(model.classes)} classes, {side} x {side} pixels,"
        f" {model.preprocessing.in_chans} channels. Architecture {model.architecture.id}.\n\n"
        f"{_MEASURED}{rows}\n\n"
        "`python predict.py IMAGE` says what is on a picture and how likely it is. From Python:\n\n"
        "    from search.model import read_model\n"
        '    probabilities = read_model("FOLDER").predict([PIL.Image.open("IMAGE")])\n'
        + (f"\n`{EXAMPLES}` holds images of the validation split.\n" if model.examples is not None else "")
    )


def measured(folder: Path) -> tuple[str, ...]:
    """The rows of the table in a model folder's README, where they are plain words and numbers; none without it."""
    path = folder / "README.md"
    with file_faults(path):
        if not path.is_file() or path.stat().st_size > MAX_JSON_BYTES:
            return ()
        text = path.read_text(encoding="utf-8", errors="replace")
    return tuple(takewhile(_ROW.fullmatch, text.partition(_MEASURED)[2].splitlines()))


def read_model(folder: Path | str) -> Model:
    """Rebuild the model of a folder from anywhere, in eval mode, on the CPU.

    The weights' names and shapes are compared with the architecture's before memory is taken for it.

    Raises:
        InputError: not a model folder, a damaged one, or one whose files contradict each other.
    """
    folder = Path(folder)
    with file_faults(folder):
        if missing := [name for name in (WEIGHTS, *DATA) if not (folder / name).is_file()]:
            raise InputError(f"{folder} is not a model folder: {', '.join(missing)} missing")
    names, preparation, path = (folder / name for name in ("classes.json", "preprocessing.json", "architecture.json"))
    classes = read_classes(read_json(names), names)
    preprocessing = read_preprocessing(read_json(preparation), preparation)
    try:
        architecture = Architecture.from_dict(read_json(path))
        with torch.device("meta"):
            outline = build(architecture, len(classes), preprocessing.in_chans)
        _check_weights(folder / WEIGHTS, outline)
        module = build(architecture, len(classes), preprocessing.in_chans)
    except SpaceError as error:
        raise SpaceError(error.reason, key=error.key, file=str(path)) from None
    read_weights(module, folder / WEIGHTS)
    return Model(
        module=module.eval(),
        architecture=architecture,
        classes=classes,
        preprocessing=preprocessing,
        examples=read_examples(folder / EXAMPLES, preprocessing),
    )


def read_json(path: Path) -> Any:
    """What a JSON file holds; InputError where it cannot be read, is over MAX_JSON_BYTES or no JSON."""
    with file_faults(path):
        size = path.stat().st_size
        if size > MAX_JSON_BYTES:
            raise InputError(f"{path} has {size} bytes; at most {MAX_JSON_BYTES} are read")
        content = path.read_bytes()
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: {error}") from None


def read_classes(given: object, where: Path | str) -> tuple[str, ...]:
    """Class names from JSON; InputError where they are no two or more distinct names."""
    if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
        raise InputError(f"{where} must be a list of class names, not {reprlib.repr(given)}")
    check_classes(given, str(where))
    return tuple(given)


def read_preprocessing(given: object, where: Path | str) -> Preprocessing:
    """The inverse of `Preprocessing.to_dict`, from JSON of any origin; InputError where it is something else."""
    if not isinstance(given, dict):
        raise InputError(f"{where} must be a mapping, not {reprlib.repr(given)}")
    try:
        preprocessing = Preprocessing.from_dict(given)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    if preprocessing.resize_size > MAX_RESIZE:
        raise InputError(f"{where}: resize_size {preprocessing.resize_size} must be at most {MAX_RESIZE}")
    return preprocessing


def read_weights(module: nn.Module, path: Path) -> None:
    """Load a safetensors file into the network it was written from, in place.

    Raises:
        InputError: no such file, a damaged one, or one of another network.
    """
    _check_weights(path, module)
    try:
        load_model(module, path)
    except (SafetensorError, OSError, RuntimeError) as error:
        raise InputError(f"{path} cannot be loaded: {error}") from None


def _check_weights(path: Path, outline: nn.Module) -> None:
    """Each tensor of `outline` (which may be on the meta device) is in the file once, in its shape."""
    try:
        with safe_open(path, framework="pt") as file:
            given = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is not a safetensors file: {error}") from None
    tied: dict[int, list[str]] = {}
    tensors: dict[str, Tensor] = outline.state_dict(keep_vars=True)
    for name, tensor in tensors.items():
        tied.setdefault(id(tensor), []).append(name)
    for names in tied.values():
        if not any(name in given for name in names):
            raise InputError(f"{path}: the architecture's {names[0]!r} is missing")
    for name, shape in given.items():
        if name not in tensors:
            raise InputError(f"{path}: the architecture has no {name!r}")
        if shape != tuple(tensors[name].shape):
            wanted = list(tensors[name].shape)
            raise InputError(f"{path}: {name!r} is {list(shape)}, the architecture has {wanted}")


class Classifier:
    """What MLflow calls `model_impl`: arrays in, an array out."""

    def __init__(self, model: Model):
        self.model = model

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> NDArray[np.float32]:
        """Class probabilities, float32 `[N, classes]`, of uint8 images `[N, H, W, C]`.

        Raises:
            InputError: anything else than whole numbers in 0..255 of four dimensions; any `params`.
        """
        if params:
            raise InputError(f"the model takes no params, given {sorted(params)}")
        images = np.asarray(model_input)
        whole = images.ndim == 4 and images.dtype.kind in "iu"
        if not whole or (images.size and (images.min() < 0 or images.max() > 255)):
            raise InputError(
                f"given {images.dtype} {list(images.shape)};"
                " allowed are images [N, height, width, channels] of whole numbers in 0..255"
            )
        probabilities: NDArray[np.float32] = self.model.predict(images.astype(np.uint8)).numpy()
        return probabilities


def _load_pyfunc(data_path: str) -> Classifier:
    """The entry point of `mlflow.pyfunc.load_model` for a model logged with `loader_module="search.model"`."""
    return Classifier(read_model(data_path))
