"""The space file of the documentation, and ways to write it with a mistake."""

from pathlib import Path
from typing import Any

import pytest

from spaces.errors import SpaceError
from spaces.schema import load

QUICKSTART = Path(__file__).resolve().parents[2] / "spaces" / "catalog" / "quickstart.yaml"

# Line numbers in the tests are lines of this text.
TEXT = """\
name: digits-quickstart
data: {source: digits, image_size: 32}
backbones:
  - resnet10t
  - convnext_atto
  - {name: vit_tiny_patch16_224, kwargs: {img_size: 32, patch_size: 8, depth: [2, 4]}}
dimensions:
  scaling: [none, rezero, layerscale]
  width: {choices: [0.25, 0.5, 1.0], per: network}      # or per: stage
  group_size: [keep]
  sharing: [none, stage]
  norm: [keep]
  layer_attention:
    kind: [none]                                          # later: mrla_base, mrla_light, ela
    # skip_threshold: {low: 0.1, high: 0.6}               # asked only where kind is ela
objectives:
  accuracy: maximize                                      # validation top-1 in [0, 1], last epoch, fp32
  macs: minimize
constraints:
  params: {max: 3.0e6}
search: {trials: 16, sampler: auto, seed: 0, fidelity: {unit: epoch, min: 3, max: 9, reduction: 3}}
train: {batch_size: 64, optimizer: adamw, lr: 1.0e-3, pretrained: false}
"""
PLAIN: dict[str, Any] = {
    "name": "plain",
    "dimensions": {"edge 0-1": ["skip", "conv"], "rate": [1, 2.5], "on": [True, False]},
    "objectives": {"error": "minimize"},
    "search": {"trials": 3},
}


def written(folder: Path, old: str, new: str) -> Path:
    assert TEXT.count(old) == 1, f"{old!r} must stand once in the text"
    path = folder / "space.yaml"
    path.write_text(TEXT.replace(old, new), encoding="utf-8")
    return path


def refused(source: Any) -> SpaceError:
    with pytest.raises(SpaceError) as caught:
        load(source)
    assert "\n" not in str(caught.value), "one message is one line"
    return caught.value


def with_changes(**changes: Any) -> dict[str, Any]:
    return {**PLAIN, **changes}
