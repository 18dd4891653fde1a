"""What a benchmark ran on and with: kept beside its numbers."""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "timm", "ray", "optuna", "mlflow", "numpy")
SHARED = Path(__file__).resolve().parents[2].parent / "shared"  # data that is not part of the project


def circumstances() -> dict[str, Any]:
    """The CPU with its cores and memory, and the versions of what does the work. No GPU takes part."""
    models = [
        line.partition(": ")[2] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": f"{models[0] if models else platform.machine()}, {os.cpu_count()} cores",
        "memory_gib": round(pages * size / 2**30, 1),
        "load": os.getloadavg()[0],
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
    }
