"""The sections `constraints`, `search` and `train`: how the budget is spent, how a network is trained."""

import itertools
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_serializer, model_validator
from timm.optim import list_optimizers

from spaces.errors import shown, unknown
from spaces.schema.complaint import GrammarError, Section

Seed = Annotated[int, Field(ge=0, lt=2**32)]

# Those that need no package beyond timm, and first derivatives only.
OPTIMIZERS = tuple(list_optimizers(exclude_filters=["bnb*", "fused*", "adahessian"]))


class Bound(Section):
    """A hard constraint on a cost, in the unit of the cost: outside it nothing is ever trained."""

    min: float | None = Field(default=None, ge=0)
    max: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.min is None and self.max is None:
            raise GrammarError("says neither min nor max; for example `{max: 3.0e6}`")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise GrammarError(f"min {self.min} is above max {self.max}, so nothing can satisfy it")
        return self


def _two_forms(schema: dict[str, Any]) -> None:
    schema["anyOf"] = [
        {"required": ["max"], "not": {"required": ["rungs"]}},
        {"required": ["rungs"], "not": {"anyOf": [{"required": ["min"]}, {"required": ["max"]}]}},
    ]


class Fidelity(Section):
    """How long trainings run: they pause at each rung, and only the better ones go on to the next.

    Written as `{min, max, reduction}` or as `{rungs, reduction}`; once read, all four are there.
    """

    model_config = ConfigDict(json_schema_extra=_two_forms)

    unit: str = Field(default="epoch", min_length=1)
    """What one unit is; in a space with backbones always `epoch`."""
    min: int = Field(default=1, ge=1)
    """The first rung."""
    max: int = Field(default=1, ge=1, examples=[9])
    """The last rung: full fidelity, and the horizon of the learning-rate schedule."""
    reduction: int = Field(default=3, ge=2)
    """One in so many goes on; without `rungs`, each rung is so many times the last."""
    rungs: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(strict=False)] = ()
    """Ascending; the last is full fidelity."""

    @model_validator(mode="before")
    @classmethod
    def _from_rungs(cls, given: object) -> object:
        """min and max out of the rungs; what is malformed is left to the checks of the fields."""
        if not isinstance(given, dict):
            return given
        rungs = given.get("rungs")
        if rungs is None:
            if "max" not in given:
                raise GrammarError("says neither max nor rungs; for example `{min: 3, max: 9, reduction: 3}`")
            return given
        for key in ("min", "max"):
            if key in given:
                raise GrammarError("rungs say it already; give min, max and reduction, or rungs", key)
        if isinstance(rungs, list | tuple) and not rungs:
            raise GrammarError("an empty list is not a list of rungs; for example `rungs: [3, 9]`", "rungs")
        if isinstance(rungs, list | tuple) and all(type(rung) is int for rung in rungs):
            for index, (low, high) in enumerate(itertools.pairwise(rungs)):
                if low >= high:
                    raise GrammarError(f"{high} does not come after {low}; rungs ascend", "rungs", index + 1)
            return {**given, "min": max(1, rungs[0]), "max": max(1, rungs[-1])}
        return given

    @model_validator(mode="after")
    def _rungs(self) -> Self:
        if self.min > self.max:
            raise GrammarError(f"min {self.min} is above max {self.max}")
        if not self.rungs:
            rungs = [self.min]
            while rungs[-1] < self.max:
                rungs.append(min(rungs[-1] * self.reduction, self.max))
            object.__setattr__(self, "rungs", tuple(rungs))  # while it is being built, frozen or not
        return self

    @model_serializer
    def _plain(self) -> dict[str, Any]:
        return {"unit": self.unit, "reduction": self.reduction, "rungs": list(self.rungs)}


def _some_limit(schema: dict[str, Any]) -> None:
    schema["anyOf"] = [{"required": [name]} for name in BUDGETS]


BUDGETS = ("trials", "hours", "device_hours")


class Search(Section):
    """How much is spent, and on what."""

    model_config = ConfigDict(json_schema_extra=_some_limit)

    trials: int | None = Field(default=None, ge=1, examples=[16])
    """Trainings to start: those that complete, are stopped, or fail. None: as many as the hours allow."""
    hours: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """On the clock, of all drivers together; then trainings pause after the epoch they are in."""
    device_hours: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Of all trainings together: GPU hours where trainings have GPUs, else core hours."""
    sampler: Literal["auto", "ehvi", "random", "nsga2", "tpe", "gp"] = "auto"
    """Who proposes."""
    seed: Seed = 0
    """Of the proposals and of the trainings."""
    scheduler: Literal["auto", "pareto", "asha", "none"] = "auto"
    """Who is stopped early: pareto by the whole front, asha by the first measured objective, none nobody.

    auto leaves it to the sampler where that plans (ehvi), and is pareto with the others.
    """
    fidelity: Fidelity = Field(default_factory=lambda: Fidelity(max=1), examples=["{min: 3, max: 9}"])
    """How long trainings run."""
    reference_point: Mapping[str, float] | None = None
    """Of the hypervolume, by objective; None: from the data and the constraints."""

    @model_validator(mode="after")
    def _limited(self) -> Self:
        if all(getattr(self, name) is None for name in BUDGETS):
            raise GrammarError("has no budget; give trials, hours or device_hours, for example `trials: 16`")
        return self


NONE: Final = "none"
PRETRAINED: Final = "pretrained"
PARENT: Final = "parent"
NEAREST: Final = "nearest"


def _shorthand(schema: dict[str, Any]) -> None:
    schema["properties"]["pretrained"] = {
        "type": "boolean",
        "default": False,
        "description": "true is short for `inherit: pretrained`.",
    }


class Train(Section):
    """The recipe, the same for every network: cosine schedule over fidelity.max epochs.

    `pretrained: true` is written in place of `inherit: pretrained` too; once read, there is only `inherit`.
    """

    model_config = ConfigDict(json_schema_extra=_shorthand)

    batch_size: int = Field(default=64, ge=1)
    """Images a step."""
    optimizer: str = Field(default="adamw", examples=["adamw"])
    """A name of timm.optim."""
    lr: float = Field(default=1e-3, gt=0)
    """Highest learning rate, reached after warm-up."""
    weight_decay: float = Field(default=0.05, ge=0)
    """0.05 is that of DeiT (2012.12877) and ConvNeXt (2201.03545) with AdamW."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Of SGD and its kin."""
    warmup_epochs: int = Field(default=1, ge=0)
    """Epochs over which the learning rate rises linearly; at most fidelity.max."""
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    """0.1 is that of 1512.00567, section 7."""
    clip_grad: float | None = Field(default=None, gt=0)
    """Largest norm of all gradients together; None: not clipped."""
    inherit: Literal["none", "pretrained", "parent", "nearest"] = NONE
    """What weights start from: drawn anew, those on disk, the backbone's own, or the nearest network's so far."""
    importance: Literal["l1", "l2", "bn_gamma", "taylor"] = "l2"
    """Of weights that are not new: which channels a narrower network keeps."""
    amp: Literal["auto", "off"] = "auto"
    """Mixed precision in training: auto where the device has it. Validation is always fp32."""

    @model_validator(mode="before")
    @classmethod
    def _one_word(cls, given: object) -> object:
        """`inherit` out of `pretrained`; what is malformed is left to the checks of the fields."""
        if not isinstance(given, dict) or "pretrained" not in given:
            return given
        rest = {key: value for key, value in given.items() if key != "pretrained"}
        pretrained, inherit = (
            given["pretrained"],
            rest.setdefault("inherit", PRETRAINED if given["pretrained"] else NONE),
        )
        if not isinstance(pretrained, bool):
            raise GrammarError(f"{shown(pretrained)} is not true or false", "pretrained")
        if pretrained != (inherit == PRETRAINED):
            reason = (
                f"is {str(pretrained).lower()}, but inherit is {inherit}; leave pretrained out, inherit says it all"
            )
            raise GrammarError(reason, "pretrained")
        return rest

    @field_validator("optimizer")
    @classmethod
    def _known(cls, optimizer: str) -> str:
        if optimizer not in OPTIMIZERS:
            raise GrammarError(unknown("optimizer", optimizer, OPTIMIZERS))
        return optimizer
