"""The command line in a process of its own, as a user has it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from search import results

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
COMMAND = [sys.executable, "-m", "search.cli"]

TINY: dict[str, Any] = {
    "name": "tiny",
    "data": {"source": "digits", "image_size": 16},
    "backbones": [
        "resnet10t",
        {"name": "vit_tiny_patch16_224", "kwargs": {"img_size": 16, "patch_size": 4, "depth": 1}},
    ],
    "dimensions": {"width": [0.125, 0.25, 0.5], "scaling": ["none", "rezero"]},
    "objectives": {"accuracy": "maximize", "macs": "minimize"},
    "constraints": {"params": {"max": 1.0e6}},
    "search": {"trials": 6, "seed": 0, "fidelity": {"min": 1, "max": 3, "reduction": 3}},
    "train": {"lr": 2.0e-3},
}


def space_file(folder: Path, **changes: Any) -> Path:
    """Write a space file; `search__trials=3` changes one key of a section."""
    content = json.loads(json.dumps(TINY))
    for key, value in changes.items():
        section, _, name = key.partition("__")
        if name:
            content[section][name] = value
        else:
            content[section] = value
    path = folder / f"{content['name']}.yaml"
    YAML(typ="safe").dump(content, path)
    return path


def archsearch(folder: Path, *words: object, timeout: float = 500) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, words)], cwd=folder, capture_output=True, text=True, timeout=timeout, check=False
    )


def start(folder: Path, *words: object) -> subprocess.Popen[str]:
    """The same in the background, in a process group of its own."""
    return subprocess.Popen(
        [*COMMAND, *map(str, words)],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for(condition: Any, process: subprocess.Popen[str], seconds: float = 200) -> None:
    """Wait until a search that runs in `process` has come so far."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "it does not come so far"
        time.sleep(0.2)


def trained(folder: Path, name: str) -> int:
    """How many trials have come to a rung, by the study on disk."""
    try:
        records = results.opened(folder / "runs", name).records()
    except Exception:  # nothing there yet, or half written: not one
        return 0
    return sum(any(measurement.values for measurement in record.history) for record in records)


def kill(process: subprocess.Popen[str]) -> None:
    """kill -9 of the driver alone."""
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
