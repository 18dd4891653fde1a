"""layer_attention: layers that attend to the layers before them. Only `none` can be chosen so far."""

from collections.abc import Mapping
from typing import ClassVar

from spaces.techniques.base import Choice, Reserved


class LayerAttention(Reserved):
    name: ClassVar[str] = "layer_attention"
    default: ClassVar[Choice] = "none"
    choices: ClassVar[Mapping[str, str]] = {"none": "no attention between layers"}
    paper: ClassVar[str] = "2302.03985 (MRLA), 2503.06473 (ELA)"
