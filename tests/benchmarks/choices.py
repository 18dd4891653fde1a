"""What each choice costs: parameters and multiply-accumulates against the backbone as it is, exact.

python -m tests.benchmarks.choices [--backbone NAME ...] [--json OUT]
"""

import argparse
import json
import platform
from pathlib import Path
from typing import Any

import timm
import torch

from search.costs import macs, params
from spaces import Architecture, SpaceError, build
from spaces.anatomy import anatomy_of
from spaces.techniques import TECHNIQUES

CLASSES = 1000


def costs(backbone: str, **choices: Any) -> dict[str, float]:
    side = anatomy_of(backbone, {}).image_size
    with torch.device("meta"):
        model = build(Architecture(backbone=backbone, choices=choices), CLASSES)
    return {"params": params(model), "macs": macs(model, (3, side, side))}


def measured(backbone: str) -> list[dict[str, Any]]:
    """A row a choice that applies and changes something."""
    plain = costs(backbone)
    rows: list[dict[str, Any]] = [{"backbone": backbone, "dimension": "", "choice": "as it is", **plain}]
    for name, technique in TECHNIQUES.items():
        for choice in technique.offers(anatomy_of(backbone, {})):
            architecture = Architecture(backbone=backbone, choices={name: choice})
            try:
                if architecture.id == Architecture(backbone=backbone).id:
                    continue
                found = costs(backbone, **{name: choice})
            except SpaceError:
                continue
            rows.append({"backbone": backbone, "dimension": name, "choice": choice, **found})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", nargs="+", default=["resnet50", "vit_small_patch16_224"])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    rows = [row for backbone in given.backbone for row in measured(backbone)]
    plain = {row["backbone"]: row for row in rows if not row["dimension"]}
    for row in rows:
        before = plain[row["backbone"]]
        change = "  ".join(f"{name} {row[name]:>14,} {row[name] / before[name] - 1:+8.2%}" for name in before)
        print(f"{row['backbone']:22} {row['dimension']:16} {row['choice']!s:40} {change}")
    if given.json:
        versions = {"torch": torch.__version__, "timm": timm.__version__, "python": platform.python_version()}
        given.json.write_text(json.dumps({"versions": versions, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
