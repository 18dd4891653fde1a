"""Planner: of all that may be trained next, new or waiting at a rung, what promises most for a second of training.

n measurements, m candidates, d objectives, of which u are learnt by training and the others are known.
"""

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, Ridge

from search.pareto import Floats, Objectives
from search.record import State, TrialRecord
from search.samplers.ehvi.encoding import Encoding, Known
from search.samplers.ehvi.gain import Boxes, Gain, expected_gain, reservation_rates
from search.samplers.ehvi.surrogate import FIT, MOST, Moments, Surrogate, Warp, learnt

STARTUP = 4, 8  # measurements before which nothing is believed: half a full training's worth, but within these
GROWTH = 1.25  # hyperparameters are learnt anew once there are so many times as many measurements
SHORTLIST = 500  # candidates whose next measurement is thought through
MANY = 1_500_000  # candidates times measurements, beyond which all are first judged by fewer measurements
ROUGH, SCREENED = 150, 1_500  # by how many, and how many of the candidates are then judged by all
PENALTY = 0.1  # of the squared weights of seconds by costs


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to do next: one of the two.

    Attributes:
        waiting: number of the trial that is to go on.
        fresh: index of the new candidate that is to begin.
    """

    waiting: int | None = None
    fresh: int | None = None


class Seen(NamedTuple):
    """A measurement at a rung."""

    time: float
    number: int
    fidelity: float
    point: Floats  # (d,) to be minimised


class _Judge(NamedTuple):
    """Of some candidates."""

    gain: Gain
    beliefs: list[Moments]


class _Belief(NamedTuple):
    """Of one objective that is learnt by training."""

    column: int
    warp: Warp
    surrogate: Surrogate


@final
class Planner:
    """Decides as a function of what it is told alone, so that a search which is resumed goes on as it would have.

    Args:
        reference_point: of the hypervolume, by objective, in its own direction.
        rungs: fidelities, ascending; the last is full training.
        sample: of the space, for the encoding; the same for a whole search.
        alike: as for `Encoding`.

    Attributes:
        startup: measurements before which nothing is believed.
    """

    def __init__(
        self,
        objectives: Objectives,
        reference_point: Mapping[str, float],
        rungs: Sequence[int],
        sample: Sequence[Known],
        alike: Mapping[str, str],
    ):
        self._objectives, self._rungs = objectives, tuple(rungs)
        self._reference = objectives.minimised([reference_point])[0]
        self._encoding = Encoding(sample, alike)
        self.startup = int(np.clip(self._rungs[-1] // (2 * self._rungs[0]), *STARTUP))
        self._theta: dict[tuple[int, int], Floats] = {}
        self._read: dict[int, tuple[TrialRecord, tuple[Seen, ...]]] = {}

    def plan(
        self,
        records: Collection[TrialRecord],
        fresh: Sequence[Known],
        waiting: Collection[int],
        rng: np.random.Generator,
        due: int | None = None,
        left_s: float = math.inf,
    ) -> Plan | None:
        """What to train next; None where there is nothing, or nothing to decide by.

        Args:
            records: everything that was ever trained, or is.
            fresh: feasible networks that were not, with what is known of their costs.
            waiting: numbers of the trials that may go on.
            due: the one that goes on by a rule, where nothing is known that speaks for any.
            left_s: device seconds until time is up; what cannot come to the end by then gives way to what can.
        """
        told = {record.number: record for record in records}
        seen = self.seen(records)
        if not fresh and not waiting:
            return None
        by_rule = None if due is None else Plan(waiting=due)
        if len(seen) < self.startup:
            return Plan(fresh=_drawn(fresh, records, rng)) if fresh else by_rule
        waits = [told[number] for number in sorted(waiting)]
        rates = self._rates(told, seen, waits, fresh, left_s)
        best = int(np.argmax(rates))
        if rates[best] <= 0.0:  # nothing promises anything; what is new may at least teach
            return by_rule or (Plan(fresh=_drawn(fresh, records, rng)) if fresh else None)
        return Plan(waiting=waits[best].number) if best < len(waits) else Plan(fresh=best - len(waits))

    def _rates(
        self,
        told: Mapping[int, TrialRecord],
        seen: Sequence[Seen],
        waits: Sequence[TrialRecord],
        fresh: Sequence[Known],
        left_s: float,
    ) -> Floats:
        """(waits + fresh) expected hypervolume in a second."""
        rows = self._encoding([*(_known(record) for record in waits), *fresh])
        now = np.array([record.fidelity for record in waits] + [0] * len(fresh), dtype=np.float64)
        ahead = self._next(now)
        per_unit = self._seconds_per_unit(told.values(), rows)
        step_s, rest_s = (ahead - now) * per_unit, (self._rungs[-1] - ahead) * per_unit
        exact = self._exact(told.values(), waits, fresh, rows)
        if not np.isnan(exact).any():
            return np.zeros(len(rows))  # nothing is learnt by training
        running = [record for record in told.values() if record.state is State.RUNNING]

        def judge(which: NDArray[np.int64], most: int) -> _Judge:
            return self._judge(told, seen, running, exact[which], rows[which], ahead[which], most)

        survival, in_time = self._survival(told.values(), rows), step_s + rest_s <= left_s
        every = np.flatnonzero(in_time) if in_time.any() else np.arange(len(rows))
        if len(every) * min(len(seen), MOST) > MANY:
            roughly, beliefs = judge(every, ROUGH)
            among = np.arange(len(every))
            promised = survival[every] * expected_gain(roughly, beliefs, among) / (step_s + rest_s)[every]
            every = every[_top(promised, SCREENED)]
        gain, beliefs = judge(every, MOST)
        step_s, rest_s, survival = step_s[every], rest_s[every], survival[every]
        among = np.arange(len(every))
        best = _top(survival * expected_gain(gain, beliefs, among) / (step_s + rest_s), SHORTLIST)
        rates = np.zeros(len(rows))
        rates[every[best]] = survival[best] * reservation_rates(gain, beliefs, best, step_s[best], rest_s[best])
        return rates

    def _judge(
        self,
        told: Mapping[int, TrialRecord],
        seen: Sequence[Seen],
        running: Sequence[TrialRecord],
        exact: Floats,
        rows: Floats,
        ahead: Floats,
        most: int,
    ) -> "_Judge":
        """What to believe of m candidates by so many measurements, and what their outcomes would gain."""
        known = np.asarray(~np.isnan(exact).all(axis=0))
        beliefs, under_way = self._believing(self._beliefs(told, seen, np.flatnonzero(~known), most), running)
        front = [one.point for one in seen if one.fidelity == self._scale(self._rungs[-1])]
        boxes = Boxes.beyond(np.vstack([*front, under_way]), self._reference)

        def gain(outcomes: Floats, which: NDArray[np.int64]) -> Floats:
            back = np.stack([each.warp.back(outcomes[..., u]) for u, each in enumerate(beliefs)], axis=-1)
            return boxes.gain(exact[which][:, known], known, back)

        return _Judge(gain, [each.surrogate.moments(rows, self._scales(ahead)) for each in beliefs])

    # What is known

    def _scale(self, fidelity: float) -> float:
        """0 at the first rung, 1 at the last, logarithmic between; 0 where there is one rung."""
        first, last = self._rungs[0], self._rungs[-1]
        return 0.0 if first == last else float(np.clip(math.log(fidelity / first) / math.log(last / first), 0.0, 1.0))

    def _scales(self, fidelities: Floats) -> Floats:
        different, places = np.unique(fidelities, return_inverse=True)
        return np.array([self._scale(fidelity) for fidelity in different])[places]

    def _next(self, fidelities: Floats) -> Floats:
        """The rung after each."""
        rungs = np.array(self._rungs, dtype=np.float64)
        return rungs[np.minimum(np.searchsorted(rungs, fidelities, side="right"), len(rungs) - 1)]

    def seen(self, records: Collection[TrialRecord]) -> list[Seen]:
        """Every measurement at a rung, in the order in which they came."""
        for record in records:
            if record.number not in self._read or self._read[record.number][0] is not record:
                self._read[record.number] = record, tuple(self._measured(record))
        return sorted((one for record in records for one in self._read[record.number][1]), key=lambda one: one[:3])

    def _measured(self, record: TrialRecord) -> list[Seen]:
        found = []
        for measurement in record.history:
            known = {**measurement.values, **record.costs}
            values = [known.get(name, math.nan) for name in self._objectives.names]
            if measurement.fidelity in self._rungs and np.isfinite(values).all():
                point = self._objectives.minimised([known])[0]
                found.append(Seen(measurement.time, record.number, self._scale(measurement.fidelity), point))
        return found

    def _exact(
        self, told: Collection[TrialRecord], waits: Sequence[TrialRecord], fresh: Sequence[Known], rows: Floats
    ) -> Floats:
        """(m, d) objectives to be minimised, known before training; NaN in columns that are learnt by it.

        What takes a clock and was not measured for a candidate goes by what others took.
        """
        costs = [*(record.costs for record in waits), *(costs for _, costs in fresh)]
        columns = []
        for name in self._objectives.names:
            sign = 1.0 if self._objectives.directions[name] == "minimize" else -1.0
            values = np.array([sign * each.get(name, math.nan) for each in costs])
            others = [record for record in told if name in record.costs]
            if others and np.isnan(values).any():
                measured = np.array([sign * record.costs[name] for record in others])
                guessed = _guessed(self._encoding([_known(record) for record in others]), measured, rows)
                values = np.where(np.isnan(values), guessed, values)
            columns.append(values)
        return np.stack(columns, axis=1)

    def _seconds_per_unit(self, told: Collection[TrialRecord], rows: Floats) -> Floats:
        """(m,) device seconds that a unit of fidelity takes, from what others took, by their costs."""
        timed = [record for record in told if record.fidelity and record.device_s > 0]
        if not timed:
            return np.ones(len(rows))
        took = np.log([record.device_s / record.fidelity for record in timed])
        if not self._encoding.costs:
            return np.full(len(rows), np.exp(took.mean()))
        costs = slice(-self._encoding.costs, None)
        fitted = Ridge(alpha=PENALTY).fit(self._encoding([_known(record) for record in timed])[:, costs], took)
        return np.asarray(np.exp(fitted.predict(rows[:, costs])))

    def _survival(self, told: Collection[TrialRecord], rows: Floats) -> Floats:
        """(m,) how likely a training does not fail, by which others did: an unknown constraint (arXiv:1403.5607)."""
        tried = [record for record in told if record.state is State.FAILED or record.fidelity]
        failed = np.array([record.state is State.FAILED for record in tried])
        if failed.all() or not failed.any():
            return np.ones(len(rows))
        fitted = LogisticRegression().fit(self._encoding([_known(record) for record in tried]), failed)
        return np.asarray(fitted.predict_proba(rows)[:, 0])

    # What is believed

    def _beliefs(
        self, told: Mapping[int, TrialRecord], seen: Sequence[Seen], columns: NDArray[np.int64], most: int
    ) -> list[_Belief]:
        enough = self.startup  # the hyperparameters are those that the first so many measurements speak for
        while enough * GROWTH <= len(seen):
            enough = math.ceil(enough * GROWTH)
        found = []
        for column in columns:
            if (enough, int(column)) not in self._theta:
                rows, fidelity, values, _ = self._data(told, _latest(seen[:enough], FIT), column)
                self._theta[enough, int(column)] = learnt(self._encoding.places, rows, fidelity, values)
            rows, fidelity, values, warp = self._data(told, _latest(seen, most), column)
            theta = self._theta[enough, int(column)]
            full = self._scale(self._rungs[-1])
            found.append(
                _Belief(int(column), warp, Surrogate(theta, self._encoding.places, rows, fidelity, values, full))
            )
        return found

    def _data(
        self, told: Mapping[int, TrialRecord], seen: Sequence[Seen], column: int
    ) -> tuple[Floats, Floats, Floats, Warp]:
        """Rows, fidelities and warped values."""
        values = np.array([one.point[column] for one in seen])
        warp, rows = Warp.of(values), self._encoding([_known(told[one.number]) for one in seen])
        return rows, np.array([one.fidelity for one in seen]), warp(values), warp

    def _believing(self, beliefs: Sequence[_Belief], running: Sequence[TrialRecord]) -> tuple[list[_Belief], Floats]:
        """As if all trainings under way had come to what is expected; and the points (n, d) of full training of them.

        The points keep many workers from all trying the same place of the front.
        """
        if not running:
            return list(beliefs), np.empty((0, len(self._reference)))
        rows = self._encoding([_known(record) for record in running])
        ahead = self._scales(self._next(np.array([record.fidelity for record in running], dtype=np.float64)))
        full = np.full(len(running), self._scale(self._rungs[-1]))
        known = [{name: record.costs.get(name, 0.0) for name in self._objectives.names} for record in running]
        points = self._objectives.minimised(known)
        for each in beliefs:
            points[:, each.column] = each.warp.back(each.surrogate.mean(rows, full))
        return [each._replace(surrogate=each.surrogate.believing(rows, ahead)) for each in beliefs], points


def _top(rates: Floats, count: int) -> NDArray[np.int64]:
    """Indices of the highest, equal ones in their order."""
    return np.argsort(-rates, kind="stable")[:count]


def _known(record: TrialRecord) -> Known:
    return record.architecture, record.costs


def _latest(seen: Sequence[Seen], most: int) -> Sequence[Seen]:
    """So many of them: those at the highest fidelities first, then the newest."""
    if len(seen) <= most:
        return seen
    return sorted(sorted(seen, key=lambda one: (one.fidelity, *one[:2]))[-most:], key=lambda one: one[:3])


def _guessed(rows: Floats, values: Floats, wanted: Floats) -> Floats:
    """Values of one sign by those of others, as products of powers of costs."""
    sign = math.copysign(1.0, float(np.median(values)))
    fitted = Ridge(alpha=PENALTY).fit(rows, np.log(np.maximum(sign * values, 1e-9)))
    return np.asarray(sign * np.exp(fitted.predict(wanted)))


def _drawn(fresh: Sequence[Known], records: Collection[TrialRecord], rng: np.random.Generator) -> int:
    """Any of the backbones that were tried least, but a network of a quarter the multiply-accumulates twice as often.

    A backbone may have a hundredth of the networks of another; and the first steps are to cost little.
    """
    tried = Counter(record.architecture.backbone for record in records)
    least = min(tried[architecture.backbone] for architecture, _ in fresh)
    among = [place for place, (architecture, _) in enumerate(fresh) if tried[architecture.backbone] == least]
    weights = np.array([max(fresh[place][1].get("macs", 1.0), 1e-9) ** -0.5 for place in among])
    return int(among[rng.choice(len(among), p=weights / weights.sum())])
