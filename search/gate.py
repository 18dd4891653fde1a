"""Gate: what is known of an architecture before a second of training, and whether it may be trained at all.

Asks the evaluator for exact costs, once for each architecture, and holds them against the hard constraints; what
takes a clock is measured only where they allow it. Knows nothing of trials.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from search.evaluator import SPREAD, UNSTEADY, Evaluator, Foreseer, Meter, Reading
from spaces import Architecture, InputError, SpaceError
from spaces.errors import unknown
from spaces.schema import Bound

DOUBT = 3.0  # median errors beyond a limit at which a guess is believed: 2 deviations of normal errors, 0.67 each


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What the gate says of an architecture.

    Attributes:
        costs: by name; empty where it cannot be built.
        reason: why it must not be trained; empty where it may be.
    """

    costs: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""

    @property
    def feasible(self) -> bool:
        return not self.reason


class Gate:
    """Checks architectures; remembers every answer."""

    def __init__(self, evaluator: Evaluator, constraints: Mapping[str, Bound]):
        self._evaluator, self._limits = evaluator, limits(constraints)
        self._counted: dict[str, Checked] = {}
        self._known: dict[str, Checked] = {}

    def check(self, architecture: Architecture) -> Checked:
        """What is known once all costs are.

        Raises:
            InputError: a constraint is on something that the evaluator neither counts nor measures.
        """
        if architecture.id not in self._known:
            self._known[architecture.id] = self._check(architecture)
        return self._known[architecture.id]

    def count(self, architecture: Architecture) -> Checked:
        """What is known without a clock: feasible is what may be so."""
        if architecture.id not in self._counted:
            try:
                costs = {name: float(value) for name, value in self._evaluator.costs(architecture).items()}
            except Exception as error:  # SpaceError, or whatever the builder of a strange architecture raises
                self._counted[architecture.id] = Checked(reason=f"cannot be built: {said(error)}")
            else:
                counted = [limit for limit in self._limits if limit.name in costs]
                self._counted[architecture.id] = _held(costs, counted)
        return self._counted[architecture.id]

    def measure(self, architecture: Architecture) -> dict[str, float]:
        """What takes a clock; see `flat`.

        Raises:
            SpaceError: it cannot be built or run so.
        """
        return flat(self._evaluator.measure(architecture)) if isinstance(self._evaluator, Meter) else {}

    def held(self, costs: Mapping[str, float]) -> Checked:
        """All costs, as they are known already, against the constraints."""
        return _held(costs, self._limits)

    def open(self, architecture: Architecture) -> bool:
        """Whether it may be feasible as far as is known, with nothing counted or measured for it."""
        known = self._known.get(architecture.id) or self._counted.get(architecture.id)
        return known is None or known.feasible

    def promising(self, architecture: Architecture) -> bool:
        """Whether it may be feasible as far as can be said without a clock: by counting, and by what others took."""
        if architecture.id in self._known:
            return self._known[architecture.id].feasible
        if not self.count(architecture).feasible:
            return False
        open_ = any(limit.name not in self.count(architecture).costs for limit in self._limits)
        foreseen = self._evaluator.foresee(architecture) if open_ and isinstance(self._evaluator, Foreseer) else {}
        return all(
            limit.excess({limit.name: foreseen[limit.name].value}) <= DOUBT * foreseen[limit.name].error
            for limit in self._limits
            if limit.name in foreseen
        )

    def _check(self, architecture: Architecture) -> Checked:
        counted = self.count(architecture)
        if not counted.feasible:
            return counted
        try:
            timed = self.measure(architecture)
        except SpaceError as error:
            return replace(counted, reason=f"cannot be measured: {said(error)}")
        return self.held({**counted.costs, **timed})


def _held(costs: Mapping[str, float], limits: Iterable["Limit"]) -> Checked:
    """Costs against limits."""
    for name, value in costs.items():
        if not math.isfinite(value):
            return Checked(reason=f"its {name} is {value}")
    reasons = [
        f"{limit.name} {costs[limit.name]:.6g} is {limit.word} {limit.side} {limit.value:.6g}"
        for limit in limits
        if limit.excess(costs) > 0
    ]
    return Checked(costs=costs, reason="; ".join(reasons))


def flat(readings: Mapping[str, Reading]) -> dict[str, float]:
    """Readings as costs of a trial: each with its spread, and whether that is too large."""
    costs: dict[str, float] = {}
    for name, reading in readings.items():
        costs |= {name: reading.value, name + SPREAD: reading.spread, name + UNSTEADY: float(not reading.steady)}
    return costs


class Limit(NamedTuple):
    """One side of a constraint."""

    name: str
    side: str
    value: float

    @property
    def word(self) -> str:
        return "above" if self.side == "max" else "below"

    def excess(self, costs: Mapping[str, float]) -> float:
        """How far the cost is beyond the limit, as a share of the limit; 0 or less within.

        Raises:
            InputError: the evaluator does not count this cost.
        """
        if self.name not in costs:
            raise InputError(unknown("constraint", self.name, costs))
        beyond = costs[self.name] - self.value
        return (beyond if self.side == "max" else -beyond) / (abs(self.value) or 1.0)


def limits(constraints: Mapping[str, Bound]) -> list[Limit]:
    return [
        Limit(name, side, value)
        for name, bound in constraints.items()
        for side, value in (("max", bound.max), ("min", bound.min))
        if value is not None
    ]


def said(error: BaseException) -> str:
    """An exception in one line: its message, after its type where the message alone says too little."""
    message = " ".join(str(error).split())
    return message if isinstance(error, InputError) else f"{type(error).__name__}: {message}".rstrip(": ")
