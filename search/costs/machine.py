"""The machine that a measured cost is true for, in words. Knows nothing of what is measured."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch


def machine() -> str:
    """CPU, cores, the GPU that this process sees, and versions: where one differs, readings are not the same."""
    words = [processor(), f"{os.cpu_count()} cores", f"torch {torch.__version__}"]
    if torch.cuda.is_available():
        words += [torch.cuda.get_device_name(), f"cuda {torch.version.cuda}"]
    for package in ("onnxruntime", "onnxruntime-gpu"):
        try:
            words.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(words)


def processor() -> str:
    """The model of the CPU, as the system names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
