"""The one door to timm: a backbone by name and keyword arguments, checked before it is made.

Names and arguments may come from a stranger's file, so only registered models and plain arguments pass:
nothing that names a source, a file or a cache. Knows timm, nothing of techniques.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from spaces.errors import SpaceError, unknown
from spaces.weights import overlay_of

MOST_MODULES = 20_000  # ten times what the deepest models of timm have
LARGEST_NUMBER = 65_536  # in an argument: above any width, depth or image

LONGEST_REASON = 300  # characters

REFUSED_KWARGS = {
    "num_classes": "the data decide the number of classes",
    "in_chans": "the data decide the number of channels",
    "pretrained": "weights are asked for by train.pretrained",
    "checkpoint_path": "weights are asked for by train.pretrained",
    "cache_dir": "a space file names no place to read from",
    "pretrained_cfg": "a space file names no place to read from",
    "pretrained_cfg_overlay": "a space file names no place to read from",
    "pretrained_model_args": "a space file names no place to read from",
    "pretrained_strict": "weights are asked for by train.pretrained",
    "features_only": "a backbone here is a whole classifier",
    "scriptable": "it is a setting of the process, not of the network",
    "exportable": "it is a setting of the process, not of the network",
    "no_jit": "it is a setting of the process, not of the network",
}


def check_backbone(name: str, kwargs: Mapping[str, Any]) -> None:
    """Refuse what is no registered timm model, and arguments that are not a network's own.

    Raises:
        SpaceError: with the nearest registered name, or the reason why an argument is refused.
    """
    architecture, _, tag = name.partition(".")
    if architecture not in timm.list_models(architecture) or ":" in name:
        raise SpaceError(unknown("backbone", name, timm.list_models()))
    if tag and name not in timm.list_pretrained(f"{architecture}.*"):
        raise SpaceError(unknown("pretrained tag", name, timm.list_pretrained(f"{architecture}.*")))
    for key in kwargs:
        if key in REFUSED_KWARGS:
            raise SpaceError(f"{key!r} cannot be set here: {REFUSED_KWARGS[key]}", key=f"kwargs.{key}")
        for number in _numbers(kwargs[key]):
            if abs(number) > LARGEST_NUMBER:
                raise SpaceError(
                    f"{number} is too large; allowed are numbers up to {LARGEST_NUMBER}", key=f"kwargs.{key}"
                )


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, list | tuple):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, int | float):
        yield value


def create(
    name: str, kwargs: Mapping[str, Any], *, num_classes: int, in_chans: int, weights: Path | None = None
) -> nn.Module:
    """`timm.create_model` on the default device, with initial weights or with those of a file.

    Args:
        weights: a .safetensors file, loaded as timm loads its own: the classifier is new where the number of
            classes differs, the first layer is adapted to `in_chans`.

    Raises:
        SpaceError: no such backbone, it cannot be built with these arguments, or the file does not fit it.
    """
    check_backbone(name, kwargs)
    source = {}
    if weights is not None:
        source = {"pretrained_cfg_overlay": (overlay := overlay_of(name, weights))}
        if num_classes != overlay["num_classes"]:  # then timm lets tensors be missing or left over: try it as it is
            with torch.random.fork_rng(devices=[]):
                create(name, kwargs, num_classes=overlay["num_classes"], in_chans=in_chans, weights=weights)
    given = ", ".join(f"{key}={value!r}" for key, value in kwargs.items())
    try:
        with _bounded():
            model: nn.Module = timm.create_model(
                name, pretrained=weights is not None, num_classes=num_classes, in_chans=in_chans, **source, **kwargs
            )
    except Exception as error:  # whatever a constructor raises for arguments that do not fit together
        if weights is not None and isinstance(error, RuntimeError | KeyError):
            raise SpaceError(f"{weights} does not fit {name}({given}): {shortened(error)}", key="weights") from None
        raise SpaceError(f"timm cannot build {name}({given}): {first_line(error)}") from None
    return model


@contextmanager
def _bounded() -> Iterator[None]:
    """Ends a construction that would never end, as of a stranger's `depth: 100000`."""
    count = 0

    def hook(*_: object) -> None:
        nonlocal count
        count += 1
        if count > MOST_MODULES:
            raise ValueError(f"it has more than {MOST_MODULES} modules")

    handle = register_module_module_registration_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def shortened(error: Exception) -> str:
    """What torch says of a state dict that does not fit, in one line."""
    text = " ".join(str(error).split())
    return text if len(text) <= LONGEST_REASON else f"{text[:LONGEST_REASON]} ..."


def first_line(error: Exception) -> str:
    """What went wrong inside timm or torch, in one line that names the kind of error."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}".removesuffix(": ")


@lru_cache(maxsize=4096)
def _fingerprint(name: str, kwargs_json: str) -> str:
    """A hash of everything that makes a network: modules, their settings, shapes, and how weights start."""
    digest = hashlib.sha256()
    with torch.device("meta"), _Recorder(digest.update):
        model = create(name, json.loads(kwargs_json), num_classes=10, in_chans=3)
    for path, module in model.named_modules():
        settings = {
            key: value
            for key, value in vars(module).items()
            if isinstance(value, bool | int | float | str | tuple | list | None) and not key.startswith("_")
        }
        digest.update(f"{path}:{type(module).__qualname__}:{sorted(settings.items())}".encode())
    return digest.hexdigest()


def same_network(name: str, one: Mapping[str, Any], two: Mapping[str, Any]) -> bool:
    """Whether two sets of keyword arguments give the same network with the same initial distribution.

    Raises:
        SpaceError: the first cannot be built; where only the second cannot, they are not the same.
    """
    first = _fingerprint(name, json.dumps(dict(one), sort_keys=True))
    try:
        return first == _fingerprint(name, json.dumps(dict(two), sort_keys=True))
    except SpaceError:
        return False


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Feeds every operator of a construction, with its scalars and shapes, to a hash."""

    def __init__(self, update: Any):
        super().__init__()  # type: ignore[no-untyped-call]
        self._update = update

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        leaves = tree_flatten((args, kwargs))[0]
        words = [tuple(leaf.shape) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
        self._update(f"{func}{words}".encode())
        return func(*args, **(kwargs or {}))
