"""The section `costs`: which costs there are, how each is measured, and costs of the user's own.

What they measure, and how, is found where they are implemented.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import ConfigDict, Field, ValidationInfo, field_validator, model_validator

from spaces.errors import shown, unknown
from spaces.schema.complaint import GrammarError, Section

ACCURACY = "accuracy"

_CLOCK = ("device", "batch", "image_size", "dtype", "runtime", "threads", "spread", "limit_s")
_STEP = tuple(name for name in _CLOCK if name != "runtime")

COUNTED: Mapping[str, tuple[str, ...]] = {
    "params": (),
    "macs": (),
    "model_bytes": (),
    "peak_bytes": ("batch",),
    "train_peak_bytes": ("batch",),
}
"""The same on every machine; with the settings of each."""
TIMED: Mapping[str, tuple[str, ...]] = {"latency_ms": _CLOCK, "throughput": _CLOCK, "train_seconds": _STEP}
"""Measured with a clock, before training."""
JUDGED: Mapping[str, tuple[str, ...]] = {"corruption_accuracy": ("kinds", "severities"), "calibration_error": ()}
"""Known only after training, from validation data."""
KINDS: Mapping[str, tuple[str, ...]] = {**COUNTED, **TIMED, **JUDGED}

ALWAYS = ("params", "macs")
"""Counted in any case."""
BETTER_HIGH = ("throughput", "corruption_accuracy")
"""All others are better the lower they are."""

CorruptionKind = Literal["gaussian_noise", "gaussian_blur", "brightness", "contrast", "jpeg"]
CORRUPTIONS: tuple[CorruptionKind, ...] = get_args(CorruptionKind)
_FUNCTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)


def _function_alone(schema: dict[str, Any]) -> None:
    mapping = dict(schema)
    mapping["properties"] = {name: at for name, at in schema["properties"].items() if name != "function"}
    schema.clear()
    schema["anyOf"] = [{"type": "string", "pattern": _FUNCTION.pattern}, mapping]


class CostEntry(Section):
    """A cost and its setting, under its own name or, with `cost:`, under another; or a function of the user's own."""

    model_config = ConfigDict(json_schema_extra=_function_alone)

    cost: str = ""
    """Which one, where the name is another: `{gpu_ms: {cost: latency_ms, device: cuda}}`."""
    function: str | None = None
    """`package.module:function`, called as `function(model, (channels, height, width))`; written alone."""
    batch: int | None = Field(default=None, ge=1)
    """Images at once; None: 1 for latency_ms and peak_bytes, 64 for throughput, else `train.batch_size`."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where; of GPUs one that no training uses."""
    image_size: int | None = Field(default=None, ge=1)
    """Side of the images in pixels; None: that of the data."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of weights and images; in training, of the autocast."""
    runtime: Literal["eager", "compile", "onnxruntime"] = "eager"
    """Who runs it: PyTorch, torch.compile, or ONNX Runtime (`pip install 'archsearch[onnx]'`)."""
    threads: int = Field(default=1, ge=1, le=1024)
    """CPU cores, which no training of the search uses."""
    spread: float = Field(default=0.05, gt=0)
    """Measured until the interquartile range is this share of the median ..."""
    limit_s: float = Field(default=5.0, gt=0)
    """... or for so many seconds; the value is then marked as unsteady."""
    kinds: Annotated[tuple[CorruptionKind, ...], Field(strict=False)] = CORRUPTIONS
    """Corruptions of 1903.12261; the accuracy is the mean over kinds and severities."""
    severities: Annotated[tuple[Annotated[int, Field(ge=1, le=5)], ...], Field(strict=False)] = (3,)
    """How strong, from 1 to 5."""

    @model_validator(mode="before")
    @classmethod
    def _alone(cls, given: object) -> object:
        if isinstance(given, str):
            return {"function": given}
        if isinstance(given, CostEntry):
            return given
        if not isinstance(given, Mapping):
            allowed = "neither settings such as {batch: 8} nor a function such as mypackage.flash:estimate"
            raise GrammarError(f"{shown(given)} is {allowed}")
        words = ("cost", *KINDS.get(str(given.get("cost")), cls.model_fields))
        for key in given:
            if key not in cls.model_fields:
                raise GrammarError(unknown("key", key, words), key)
        return given

    @field_validator("function")
    @classmethod
    def _importable(cls, function: str | None) -> str | None:
        if function is not None and not _FUNCTION.fullmatch(function):
            raise GrammarError(f"{function!r} does not name a function; for example mypackage.flash:estimate")
        return function

    @model_validator(mode="after")
    def _taken(self) -> Self:
        for key in ("kinds", "severities"):
            if not getattr(self, key):
                raise GrammarError("an empty list; give at least one, or leave the key out", key)
        if self.function is not None and self.model_fields_set != {"function"}:
            raise GrammarError("a function is written alone, as `flash_kb: mypackage.flash:estimate`", "function")
        if self.function is None and self.cost:
            if self.cost not in KINDS:
                raise GrammarError(unknown("cost", self.cost, KINDS), "cost")
            for key in sorted(self.model_fields_set - {"cost", "function"}):
                if key not in KINDS[self.cost]:
                    allowed = ", ".join(KINDS[self.cost]) or "nothing"
                    raise GrammarError(f"{key} is no setting of {self.cost}; allowed: {allowed}", key)
        if self.runtime == "onnxruntime" and self.dtype != "float32":
            raise GrammarError(f"{self.dtype} is not run by onnxruntime; allowed is float32", "dtype")
        return self

    def to_plain(self) -> Any:
        """As it may be written, with every setting that counts."""
        if self.function is not None:
            return self.function
        plain = self.model_dump(mode="json", include={"cost", *KINDS[self.cost]})
        return {key: value for key, value in plain.items() if value is not None}


def named(given: object, info: ValidationInfo) -> object:
    """The section with the name of each entry said in it."""
    if not isinstance(given, Mapping):
        return given
    return {
        name: {"cost": name, **value} if isinstance(value, Mapping) and isinstance(name, str) else value
        for name, value in given.items()
    }


def checked(costs: Mapping[str, CostEntry]) -> Mapping[str, CostEntry]:
    """The section once its entries are read.

    Raises:
        GrammarError: a name that means something else.
    """
    for name, entry in costs.items():
        if name.endswith(("_spread", "_unsteady")):
            raise GrammarError("what ends so is said of a measured cost; give yours another name", name)
        if name == ACCURACY or (name in KINDS and entry.cost != name):
            raise GrammarError(f"{name} has its meaning already; give yours another name", name)
    return costs
