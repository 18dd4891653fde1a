"""Luggage: what workers on other machines get of this one, as Ray's runtime environment. Knows nothing of Ray.

They get the packages `search` and `spaces` as they are here, so that both sides run the same code and the nodes need
torch, timm, pydantic and Ray only; and from the environment of the driver the variables in `TAKEN`, where they are
set. Nothing else: what gives access to anything (AWS_*, tokens) the nodes must have of their own, or the user must
write it into the file given as `--runtime-env`, which is added to ours and wins.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

import search
import spaces
from spaces import InputError
from spaces.errors import shown, unknown

ALWAYS = {"RAY_CHDIR_TO_TRIAL_DIR": "0"}  # workers stay in their directory
TAKEN = ("HF_HUB_OFFLINE", "HF_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION")

# The keys of Ray's runtime environment for Python, as in its documentation (Ray 2.60).
KEYS = (
    "working_dir",
    "py_modules",
    "excludes",
    "pip",
    "uv",
    "conda",
    "py_executable",
    "env_vars",
    "container",
    "image_uri",
    "config",
    "worker_process_setup_hook",
)
IMAGES = ("container", "image_uri")  # Ray ships no code into these: the image has to have ours


def luggage(address: str | None, file: str | Path | None = None) -> dict[str, Any]:
    """The runtime environment for workers at `address`; workers on this machine need nothing that is not in `file`.

    Raises:
        InputError: the file cannot be read, or is no runtime environment.
    """
    asked = {} if file is None else _read(Path(file))
    if address is None:
        return asked
    variables = {name: os.environ[name] for name in TAKEN if name in os.environ}
    packed = {**asked, "env_vars": {**ALWAYS, **variables, **asked.get("env_vars", {})}}
    if not any(name in asked for name in IMAGES):
        ours = [str(Path(package.__path__[0])) for package in (search, spaces)]
        packed["py_modules"] = [*ours, *asked.get("py_modules", [])]
        packed["excludes"] = ["__pycache__", *asked.get("excludes", [])]
    return packed


def _read(file: Path) -> dict[str, Any]:
    """A file in Ray's own format; paths in it are relative to its folder."""
    try:
        content = YAML(typ="safe").load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"--runtime-env {file}: {error.strerror}") from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"--runtime-env {file} is neither YAML nor JSON: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise InputError(f"--runtime-env {file}: a mapping is needed, not {shown(content)}")
    for key in content:
        if key not in KEYS:
            raise InputError(f"--runtime-env {file}: {unknown('key', key, KEYS)}")
    for key, kind, word in (
        ("env_vars", Mapping, "a mapping"),
        ("py_modules", list, "a list"),
        ("excludes", list, "a list"),
    ):
        if key in content and not isinstance(content[key], kind):
            raise InputError(f"--runtime-env {file}: {key} must be {word}, not {shown(content[key])}")
    for name, value in content.get("env_vars", {}).items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise InputError(f"--runtime-env {file}: env_vars.{name} must be a text in quotes, not {shown(value)}")
    for key in ("working_dir", "py_modules"):
        if key in content:
            content[key] = _placed(content[key], file)
    return content


def _placed(value: Any, file: Path) -> Any:
    """A path, or each of several, made absolute; addresses stay what they are.

    Raises:
        InputError: nothing is there.
    """
    if isinstance(value, list):
        return [_placed(one, file) for one in value]
    if not isinstance(value, str) or "://" in value:
        return value
    place = (file.parent / Path(value).expanduser()).resolve()
    if not place.exists():
        raise InputError(f"--runtime-env {file}: {place} is not there")
    return str(place)
