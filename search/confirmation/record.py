"""Confirmation: what trainings with several seeds, and the test split, have found of a front.

The driver of a confirmation makes it from what it has written down; tracking, reports and the command line read it.
Knows architectures and numbers, nothing of training, Ray or MLflow.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from search.evaluator import SPREAD, UNSTEADY
from spaces import Architecture

TESTED = "test_accuracy"  # the value that every training of a confirmation has
TESTS = (TESTED, "test_calibration_error", "test_corruption_accuracy")  # worth a column


@dataclass(frozen=True, kw_only=True)
class Retraining:
    """One training to full fidelity, with one seed, and its test.

    Attributes:
        seed: number `k` of the confirmation is the same training seed for every contender: results are paired by it.
        number: of its checkpoint, among those of the confirmation.
        network: what the training has made of the architecture: the same, but for what was removed.
        values: `test_accuracy`, `test_calibration_error`, `test_corruption_accuracy` on the test split; and
            `val_accuracy`, where the validation split was not trained on.
    """

    seed: int
    number: int
    network: Architecture
    values: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean over seeds and, where there are two or more, where it lies with a confidence of 95% (Student's t).

    Of one seed all three are the same, as nothing is known of how far it is off.
    """

    mean: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A member of the front, or an unmodified backbone of the space.

    Attributes:
        trial: number of the member's trial; None for an unmodified backbone.
        costs: by name, of the network that the median seed left; with its measured latency.
        retrainings: in order of seeds; one at least.
        summary: by name of a value.
        verdict: what the test data say of it beside the others, in one sentence.
    """

    architecture: Architecture
    trial: int | None
    costs: Mapping[str, float]
    retrainings: tuple[Retraining, ...]
    summary: Mapping[str, Interval]
    verdict: str

    @property
    def unmodified(self) -> bool:
        """Whether it is a backbone as timm has it, on the front or not."""
        return not self.architecture.canonical.choices

    @property
    def median(self) -> Retraining:
        """The training of median validation accuracy, of two in the middle the lower; the first where none is known."""
        ranked = sorted(self.retrainings, key=lambda training: training.values.get("val_accuracy", 0.0))
        known = all("val_accuracy" in training.values for training in self.retrainings)
        return ranked[(len(ranked) - 1) // 2] if known else self.retrainings[0]


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A training that gave no values; of the same architecture and seed it would fail again."""

    architecture: Architecture
    seed: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class Confirmation:
    """
    Attributes:
        trained_on: `train`, or `train+val`.
        images: in the test split.
        margin: of accuracy; members whose difference surely is within it count as equal.
        contenders: members first, in the order of the front; then backbones. Those that have failed with every seed
            are not among them.
        gain: what the search has won over the unmodified backbones, in one sentence.
        failures: of any contender.
    """

    trained_on: str
    seeds: tuple[int, ...]
    images: int
    margin: float
    contenders: tuple[Contender, ...]
    gain: str = ""
    failures: tuple[Failure, ...] = ()

    def costs(self, objectives: Iterable[str]) -> list[str]:
        """Those worth a column: objectives, and latency."""
        known = dict.fromkeys(name for one in self.contenders for name in one.costs)
        names = [name for name in known if not name.endswith((SPREAD, UNSTEADY))]
        return [name for name in names if name in objectives or name.startswith("latency")]

    def of(self, trial: int) -> Contender | None:
        """The member of that trial."""
        return next((one for one in self.contenders if one.trial == trial), None)
