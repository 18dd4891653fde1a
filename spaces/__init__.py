"""What an architecture is: spaces over timm backbones, and the networks they stand for.

Useful alone: `spaces.build(architecture, num_classes, in_chans)` works in any training script. Needs torch,
timm, pydantic and a YAML parser; knows nothing of searches, Ray, Optuna or MLflow.
"""

import spaces.cifar  # noqa: F401  # timm knows them from now on
from spaces.architecture import Architecture
from spaces.build import Start, build, skeleton
from spaces.errors import InputError, SpaceError
from spaces.questions import Parameter
from spaces.schema import SpaceFile, load
from spaces.space import SearchSpace

__all__ = [
    "Architecture",
    "InputError",
    "Parameter",
    "SearchSpace",
    "SpaceError",
    "SpaceFile",
    "Start",
    "build",
    "load",
    "skeleton",
]
