"""The ONE grammar of a space file, as YAML or as the same object from Python.

`spaces/README.md` is its reference; `load` is the way in.
"""

from spaces.schema.backbone import Backbone
from spaces.schema.costs import ACCURACY, ALWAYS, JUDGED, KINDS, CostEntry
from spaces.schema.data import Data
from spaces.schema.dimension import Dimension
from spaces.schema.file import NAMES, SpaceFile, is_name, json_schema, load, locate
from spaces.schema.recipe import BUDGETS, NEAREST, NONE, PARENT, PRETRAINED, Bound, Fidelity, Search, Train

__all__ = [
    "ACCURACY",
    "ALWAYS",
    "BUDGETS",
    "JUDGED",
    "KINDS",
    "NAMES",
    "NEAREST",
    "NONE",
    "PARENT",
    "PRETRAINED",
    "Backbone",
    "Bound",
    "CostEntry",
    "Data",
    "Dimension",
    "Fidelity",
    "Search",
    "SpaceFile",
    "Train",
    "is_name",
    "json_schema",
    "load",
    "locate",
]
