"""group_size: channels per group of the spatial convolutions. Only `keep` can be chosen so far."""

from collections.abc import Mapping
from typing import ClassVar

from spaces.techniques.base import Choice, Reserved


class GroupSize(Reserved):
    name: ClassVar[str] = "group_size"
    default: ClassVar[Choice] = "keep"
    choices: ClassVar[Mapping[str, str]] = {"keep": "the groups of the backbone"}
    paper: ClassVar[str] = "1611.05431 (ResNeXt), 2003.13678 (RegNet)"
