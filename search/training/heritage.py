"""What a training inherits: the weights of another network, put into its directory before it begins.

    inherited/model.safetensors    as they were when it began, whatever has become of the other since
    inherited/donor.json           whose they are

Both are there, or neither. Knows files, nothing of what is trained.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from search.training.checkpoint import STATE, WEIGHTS, check_whole

INHERITED, DONOR = "inherited", "donor.json"


def begun(directory: Path) -> bool:
    """Whether a training has left anything there that it goes on from."""
    return any((directory / name).exists() for name in (WEIGHTS, STATE))


def put_inherited(directory: Path, weights: Path, donor: Mapping[str, Any]) -> None:
    """
    Args:
        weights: a .safetensors file.
        donor: JSON values.

    Raises:
        FileNotFoundError: it is not there.
        InputError: it is damaged.
    """
    check_whole(weights)
    part = directory / f"{INHERITED}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    shutil.copyfile(weights, part / WEIGHTS)
    (part / DONOR).write_text(json.dumps(dict(donor)) + "\n")
    part.rename(directory / INHERITED)


def inherited(directory: Path) -> tuple[Path, dict[str, Any]] | None:
    """The weights and whose they are; None where nothing was inherited."""
    folder = directory / INHERITED
    if not folder.is_dir():
        return None
    return folder / WEIGHTS, json.loads((folder / DONOR).read_text())
