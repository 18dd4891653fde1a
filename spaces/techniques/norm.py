"""norm: the normalisation layers. Only `keep` can be chosen so far."""

from collections.abc import Mapping
from typing import ClassVar

from spaces.techniques.base import Choice, Reserved


class Norm(Reserved):
    name: ClassVar[str] = "norm"
    default: ClassVar[Choice] = "keep"
    choices: ClassVar[Mapping[str, str]] = {"keep": "the normalisation of the backbone"}
    paper: ClassVar[str] = "1502.03167 (BatchNorm), 1607.06450 (LayerNorm)"
