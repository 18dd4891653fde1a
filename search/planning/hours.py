"""Hours: what a search and the confirmation of its front will take, from the seconds of a few training steps.

The search is played through with accuracies by chance (`search.planning.game`). Knows costs and seconds, nothing of
architectures or trainings.
"""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from statistics import fmean
from typing import Any, final

import numpy as np
from sklearn.isotonic import IsotonicRegression

from search.pareto import Objectives
from search.planning.game import Candidate, Game
from spaces import InputError
from spaces.schema import Search

PLAYED = 100  # trials of a game at most; of more, the same share goes on from each rung
GAMES = 5  # the mean of so many
SEEDS = 5  # trainings of each member of the front in a confirmation
FORWARD = 1 / 3  # of the work of a training step: the way back has two products for each of the way forth


@final
class Pace:
    """Seconds of a training step by backbone and size: between what was measured straight in logarithms, never falling.

    Below the smallest it stays, above the largest it grows like the multiply-accumulates. A backbone of which nothing
    was measured is taken for all the others together. From the smallest, the median and the largest of each backbone,
    the sum over 30 architectures, of quickstart.yaml and of cnn.yaml on a CPU, was right within 15% in nine of ten
    resamplings; from three of all backbones together within 40%, since equal work does not take equal time.

    Args:
        measured: by backbone, device seconds of a step by multiply-accumulates of an image.

    Raises:
        InputError: nothing was measured, or something is not above 0.
    """

    def __init__(self, measured: Mapping[str, Mapping[float, float]]):
        every = [point for steps in measured.values() for point in steps.items()]
        if not every or not all(0 < number < math.inf for point in every for number in point):
            raise InputError(f"a pace needs macs and seconds above 0; given is {dict(measured)}")
        self._all = _Curve(every)
        self._own = {backbone: _Curve(list(steps.items())) for backbone, steps in measured.items() if steps}

    def seconds(self, backbone: str, macs: float) -> float:
        """Of a step of a network with so many multiply-accumulates an image."""
        return self._own.get(backbone, self._all).seconds(macs)


@final
class _Curve:
    """Where a larger network took less, both count as their mean (isotonic regression)."""

    def __init__(self, points: Sequence[tuple[float, float]]):
        logs = np.log(sorted(points))
        self._macs, self._seconds = logs[:, 0], IsotonicRegression().fit_transform(logs[:, 0], logs[:, 1])

    def seconds(self, macs: float) -> float:
        at = math.log(max(macs, 1.0))
        return math.exp(float(np.interp(at, self._macs, self._seconds)) + max(0.0, at - float(self._macs[-1])))


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What trainings take beside their epochs.

    Attributes:
        validation: what one takes, in training epochs; see `validation_share`.
        start_s: device seconds until a training starts, or goes on after a pause.
        devices: that train at the same time.
        architectures: feasible ones that there are; infinite where that is not known.
        seeds: trainings of each member of the front in a confirmation.
        parents_s: device seconds of training every backbone before the first trial, where trials start from that.
    """

    validation: float = 0.0
    start_s: float = 0.0
    devices: float = 1.0
    architectures: float = math.inf
    seeds: int = SEEDS
    parents_s: float = 0.0


def validation_share(train: int, val: int, *, recalibrated: int = 0) -> float:
    """What a validation takes, in training epochs.

    Args:
        train, val: images of the splits.
        recalibrated: images that BatchNorm is recalibrated on, at most.
    """
    return FORWARD * (val + min(recalibrated, train)) / train


@dataclass(frozen=True, kw_only=True)
class Range:
    """The least and the most of three estimates, and that for proposals from the whole space in the middle.

    The other two are for a search that keeps to the half of the space that trains faster, and to the slower half.
    """

    low: float
    middle: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What will be spent.

    Attributes:
        ends: by which limit: trials, hours, device_hours, or architectures where there are no more.
        trials: that start.
        complete: that train to the end.
        epochs: of all of them.
        device_hours: of the search, parents included; as `Measurement.device_s`.
        parents_device_hours: of these, what goes into backbones that trials start from.
        hours: the same on the clock, with all devices busy.
        front: members, each of which the confirmation trains to the end with every seed.
        seeds: of the confirmation.
        confirmation_device_hours: of all of that.
    """

    ends: str
    trials: Range
    complete: Range
    epochs: Range
    device_hours: Range
    hours: Range
    front: Range
    seeds: int
    confirmation_device_hours: Range
    parents_device_hours: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def estimate(search: Search, objectives: Objectives, candidates: Sequence[Candidate], terms: Terms) -> Estimate:
    """
    Args:
        candidates: a sample of what may be trained.

    Raises:
        InputError: there are none.
    """
    if not candidates:
        raise InputError("an estimate needs at least one architecture that may be trained")
    ordered = sorted(candidates, key=lambda each: each.epoch_s)
    half = math.ceil(len(ordered) / 2)
    middle, *others = (_spent(search, objectives, pool, terms) for pool in (ordered, ordered[:half], ordered[-half:]))

    def over(name: str, scale: float = 1.0) -> Range:
        values = [scale * getattr(spent, name) for spent in (middle, *others)]
        return Range(low=min(values), middle=values[0], high=max(values))

    return Estimate(
        ends=_ends(search, middle, terms),
        trials=over("trials"),
        complete=over("complete"),
        epochs=over("epochs"),
        device_hours=over("device_s", 1 / 3600),
        hours=over("device_s", 1 / 3600 / terms.devices),
        front=over("front"),
        seeds=terms.seeds,
        confirmation_device_hours=over("front_s", terms.seeds / 3600),
        parents_device_hours=terms.parents_s / 3600,
    )


@dataclass(frozen=True, kw_only=True)
class _Spent:
    """Of one search; front_s are the device seconds of training each member of its front once."""

    trials: float
    complete: float
    epochs: float
    device_s: float
    front: float
    front_s: float


def _spent(search: Search, objectives: Objectives, pool: Sequence[Candidate], terms: Terms) -> _Spent:
    """The mean of some games, extended to all trials of the search, or cut to those that its hours allow."""
    allowed = 3600 * min(search.device_hours or math.inf, (search.hours or math.inf) * terms.devices)
    allowed = max(0.0, allowed - terms.parents_s)
    limit = min(search.trials or math.inf, terms.architectures)
    played = int(min(limit, PLAYED))
    mean = _mean_game(search, objectives, pool, terms, played)
    fitting = math.inf if math.isinf(allowed) else max(1, math.floor(allowed / mean.device_s * played))
    trials = min(limit, fitting)
    if trials < played:
        mean = _mean_game(search, objectives, pool, terms, played := int(trials))
    scale = trials / played
    return _Spent(
        trials=trials,
        complete=mean.complete * scale,
        epochs=mean.epochs * scale,
        device_s=terms.parents_s + min(allowed, mean.device_s * scale),
        front=mean.front,
        front_s=mean.front_s,
    )


def _mean_game(search: Search, objectives: Objectives, pool: Sequence[Candidate], terms: Terms, trials: int) -> _Spent:
    games = [
        _spent_in(Game(search, objectives, pool, trials, random.Random(seed)), search, terms) for seed in range(GAMES)
    ]
    return _Spent(**{each.name: fmean(getattr(game, each.name) for game in games) for each in fields(_Spent)})


def _spent_in(game: Game, search: Search, terms: Terms) -> _Spent:
    units = [done + terms.validation * seen for done, seen in zip(game.epochs, game.validations, strict=True)]
    whole = search.fidelity.max + terms.validation
    return _Spent(
        trials=len(game.drawn),
        complete=game.complete,
        epochs=sum(game.epochs),
        device_s=sum(unit * each.epoch_s for unit, each in zip(units, game.drawn, strict=True))
        + game.starts * terms.start_s,
        front=len(game.front),
        front_s=sum(whole * each.epoch_s + terms.start_s for each in game.front),
    )


def _ends(search: Search, spent: _Spent, terms: Terms) -> str:
    if spent.trials == terms.architectures:
        return "architectures"
    if spent.trials == search.trials:
        return "trials"
    by_device = search.device_hours or math.inf
    return "device_hours" if by_device <= (search.hours or math.inf) * terms.devices else "hours"
