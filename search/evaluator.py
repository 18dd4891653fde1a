"""The port between the search and whatever is searched: cheap exact costs, dear uncertain values.

timm training (`search.trial`) is one evaluator, a table or another task of the user's can be another.
Knows architectures, nothing of Ray, Optuna or MLflow.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, final, runtime_checkable

from spaces import Architecture

Ancestor = int | str
"""Whose weights a training started from: a trial's, by its number, or `parent`: its own backbone's, as it is."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What one training has reached.

    Attributes:
        fidelity: units seen since the start of the training (epochs, where the space does not say otherwise).
        values: measured objectives by name, each in its own direction; empty between rungs.
        metrics: everything else worth a curve, by name (train_loss, lr, seconds, ...).
        time: seconds since 1970 when it was measured.
        device_s: what was spent since the last one: seconds of GPUs where the training has any (half a GPU counts
            half), else of CPU cores. Filled in by who runs the evaluator.
        inherited_from: what its weights started from, as of a `TrialRecord`. Filled in by who runs the evaluator.
        network: what the training has made of the architecture, where that is another one (blocks removed);
            `values` then may also have its costs.
    """

    fidelity: int
    values: Mapping[str, float] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    time: float = 0.0
    device_s: float = 0.0
    inherited_from: Ancestor | None = None
    network: Architecture | None = None


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a cost is.

    Attributes:
        value: in the unit of the cost; the median, where it was measured.
        spread: interquartile range of the measurements as a share of `value`; 0 where it was counted.
        steady: whether the spread became as small as was asked for before time ran out.
    """

    value: float
    spread: float = 0.0
    steady: bool = True


SPREAD, UNSTEADY = "_spread", "_unsteady"
"""After the name of a timed cost, among the costs of a trial: its spread; and whether that is too large, as 0 or 1."""


class Evaluator(Protocol):
    """Evaluates architectures. One instance serves many trials, one after the other; it must pickle."""

    def costs(self, architecture: Architecture) -> Mapping[str, float]:
        """Everything exact that is known before training: params, macs, ... by name.

        Raises:
            spaces.SpaceError: the architecture cannot be built; the message says why.
        """
        ...

    def evaluate(self, architecture: Architecture, fidelity: int, seed: int, checkpoint: Path) -> Iterator[Measurement]:
        """Train up to `fidelity` and measure; yield as often as there is news.

        Goes on from what it left in the directory `checkpoint` (at the first call of a trial empty, but for weights
        that it inherits), and leaves there all it needs to go on, in another process too, before the last yield.
        The last measurement has the asked fidelity and a value for every objective that is not a cost.
        Any exception fails the trial with its message as the reason.
        """
        ...


@runtime_checkable
class Meter(Protocol):
    """Measures, before training, those costs that take a clock: of one architecture at a time, with nothing beside."""

    def measure(self, architecture: Architecture) -> Mapping[str, Reading]:
        """By name.

        Raises:
            spaces.SpaceError: it cannot be built or run so; the message says why.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Guess:
    """What a timed cost may be; `error` is the median relative error of such guesses."""

    value: float
    error: float


@runtime_checkable
class Foreseer(Meter, Protocol):
    """A meter that also guesses what it would measure."""

    def foresee(self, architecture: Architecture) -> Mapping[str, Guess]:
        """By name; empty where it knows too little."""
        ...


@final
class Metered:
    """An evaluator whose timed costs somebody else measures, and guesses."""

    def __init__(self, evaluator: Evaluator, meter: Foreseer):
        self._evaluator, self._meter = evaluator, meter

    def costs(self, architecture: Architecture) -> Mapping[str, float]:
        return self._evaluator.costs(architecture)

    def measure(self, architecture: Architecture) -> Mapping[str, Reading]:
        return self._meter.measure(architecture)

    def foresee(self, architecture: Architecture) -> Mapping[str, Guess]:
        return self._meter.foresee(architecture)

    def evaluate(self, architecture: Architecture, fidelity: int, seed: int, checkpoint: Path) -> Iterator[Measurement]:
        return self._evaluator.evaluate(architecture, fidelity, seed, checkpoint)


@runtime_checkable
class Tester(Protocol):
    """An evaluator that also has held-out test data, used once, for the members of the front."""

    def test(self, architecture: Architecture, checkpoint: Path) -> float:
        """Test accuracy in [0, 1] of the finished training in `checkpoint`; `architecture` is what it left."""
        ...
