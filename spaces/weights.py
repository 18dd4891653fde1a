"""Where trained weights come from: a .safetensors file, or timm's own in the local cache of the Hugging Face Hub.

Nothing is ever downloaded here, and no pickle is opened. Knows timm's records of its weights, no networks.
"""

from pathlib import Path
from typing import Any

import timm
from huggingface_hub import constants, try_to_load_from_cache
from safetensors import SafetensorError, safe_open

from spaces.errors import SpaceError

_SAFE = {"pytorch_model.bin": "model.safetensors", "open_clip_pytorch_model.bin": "open_clip_model.safetensors"}


def cached(name: str) -> Path:
    """timm's own weights for a model (`resnet18`, or `resnet18.a1_in1k` for a certain tag) in the local cache.

    Raises:
        SpaceError: timm has none for it, or they are not there; the message says how to get them.
    """
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.hf_hub_id:
        raise SpaceError(f"timm has no weights of {name}; give a .safetensors file", key="weights")
    repository, _, revision = config.hf_hub_id.partition("@")
    given = config.hf_hub_filename or "model.safetensors"
    filename = _SAFE.get(given, given)
    found = try_to_load_from_cache(repository, filename, revision=revision or None)
    if not isinstance(found, str):
        raise SpaceError(
            f"the weights of {name} are not in the local cache ({constants.HF_HUB_CACHE}), and nothing is downloaded "
            f"here; get them once with `hf download {repository} {filename}`, or give a .safetensors file",
            key="weights",
        )
    return Path(found)


def normalisation(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation per channel, of values in [0, 1], that images had when timm's weights of a model were trained.

    A pretrained tag counts: `vit_base_patch16_224.augreg_in21k` and `vit_base_patch16_224.mae` were trained on others.
    """
    config = timm.get_pretrained_cfg(name)
    return tuple(config.mean), tuple(config.std)


def overlay_of(name: str, path: Path) -> dict[str, Any]:
    """What timm needs to know to load a file into a model: where it is, and how many classes its classifier has.

    None of them, where the file has no classifier under timm's name.

    Raises:
        SpaceError: no such file, or it is no readable .safetensors file.
    """
    if path.suffix != ".safetensors":
        raise SpaceError(f"{path} is no .safetensors file; other formats can run code and are not read", key="weights")
    if not path.is_file():
        raise SpaceError(f"there is no file {path}", key="weights")
    try:
        with safe_open(path, framework="pt") as file:
            classes = _classes(name, file)
    except (OSError, SafetensorError) as error:
        raise SpaceError(f"{path} is not a readable .safetensors file: {error}", key="weights") from None
    return {"file": str(path), "custom_load": False, "num_classes": classes}


def _classes(name: str, file: Any) -> int:
    """Rows of the classifier in a file, 0 where none is stored under timm's name."""
    config = timm.get_pretrained_cfg(name)
    heads = [] if config is None or not config.classifier else config.classifier
    first = heads if isinstance(heads, str) else next(iter(heads), "")
    key = f"{first}.weight"
    return int(file.get_slice(key).get_shape()[0]) if key in file.keys() else 0  # noqa: SIM118


def weights_of(name: str, given: str | None) -> Path:
    """The file to start a backbone from, looked into: the one given, else timm's own in the local cache.

    Raises:
        SpaceError: it is not there, or not readable.
    """
    path = cached(name) if given is None else Path(given)
    overlay_of(name, path)
    return path
