"""What a training leaves on disk: weights for anyone, and the state to go on from; both written atomically.

`model.safetensors` holds the weights of the last validated epoch, with that epoch in its metadata.
`training.pt` holds weights, optimiser state and epoch, and is there until the horizon is reached. `reduced/`
holds the weights of what is left of the network where blocks were removed. None can run code when it is read.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model, save_model
from torch import nn

from spaces import InputError

WEIGHTS = "model.safetensors"
STATE = "training.pt"
REDUCED = "reduced"
STRENGTHS = "strengths.json"


def save_weights(model: nn.Module, directory: Path, epoch: int) -> None:
    """Tied weights are stored once. What was made of earlier weights in the directory goes."""
    shutil.rmtree(directory / REDUCED, ignore_errors=True)
    _replace(directory / WEIGHTS, lambda path: save_model(model, str(path), metadata={"epoch": str(epoch)}))


def load_weights(model: nn.Module, directory: Path) -> None:
    """Into a model of the same architecture; every tensor must be there and fit."""
    load_model(model, directory / WEIGHTS, strict=True)


def finished(directory: Path) -> Path:
    """Where the weights of the finished network are: apart, where the training made it a smaller one."""
    return directory / REDUCED if (directory / REDUCED / WEIGHTS).exists() else directory


def check_whole(weights: Path) -> None:
    """
    Raises:
        FileNotFoundError: it is not there.
        InputError: it is no whole .safetensors file.
    """
    try:
        with safe_open(weights, framework="pt"):
            pass
    except SafetensorError as error:
        raise InputError(f"{weights} is damaged: {error}") from None


def saved_epoch(directory: Path) -> int:
    """Epochs that the weights in `directory` were trained for; 0 where there are none."""
    if not (directory / WEIGHTS).exists():
        return 0
    with safe_open(directory / WEIGHTS, framework="pt") as file:
        return int(file.metadata()["epoch"])


def save_state(state: dict[str, Any], directory: Path) -> None:
    _replace(directory / STATE, lambda path: torch.save(state, path))


def load_state(directory: Path, device: torch.device) -> dict[str, Any] | None:
    """None where there is none."""
    if not (directory / STATE).exists():
        return None
    state: dict[str, Any] = torch.load(directory / STATE, map_location=device, weights_only=True)
    return state


def drop_state(directory: Path) -> None:
    (directory / STATE).unlink(missing_ok=True)


def save_strengths(strengths: Mapping[str, Sequence[float]], directory: Path) -> None:
    """Which layers and channels count how much, by place; a network without scales leaves nothing."""
    if strengths:
        _replace(directory / STRENGTHS, lambda path: path.write_text(json.dumps(strengths) + "\n"))


def load_strengths(directory: Path) -> dict[str, list[float]]:
    """By place, in order of execution; empty where there are none."""
    path = directory / STRENGTHS
    found: dict[str, list[float]] = json.loads(path.read_text()) if path.is_file() else {}
    return found


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """A reader, and a process killed at any moment, sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")  # one writer a directory; what a killed one left is overwritten
    try:
        write(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
