"""How far a search had come when: the hypervolume of its front, over trainings and over hours.

Knows records and Pareto laws, nothing of who draws.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from search.pareto import hypervolume, non_dominated
from search.record import Front, State, TrialRecord


@dataclass(frozen=True, kw_only=True)
class Moment:
    """A training has ended.

    Attributes:
        trainings: that have ended so far, this one included; 0 for what an earlier search has left.
        hours: since the first one began, breaks between two runs of the search included.
        hypervolume: of the front as it is now.
    """

    trainings: int
    hours: float
    hypervolume: float


def hypervolume_history(records: Sequence[TrialRecord], front: Front) -> list[Moment]:
    """In order of time; first, where there is any, what an earlier search has left."""
    own = [record for record in records if record.state.counts and not record.origin]
    own.sort(key=lambda record: (record.ended or 0.0, record.number))
    began = min((record.started for record in own if record.started is not None), default=0.0)
    growing = _Growing(front)
    inherited = [record for record in records if record.origin]
    for record in inherited:
        growing.add(record)
    moments = [Moment(trainings=0, hours=0.0, hypervolume=growing.volume)] if inherited else []
    for count, record in enumerate(own, start=1):
        growing.add(record)
        hours = max(0.0, (record.ended or began) - began) / 3600
        moments.append(Moment(trainings=count, hours=hours, hypervolume=growing.volume))
    return moments


class _Growing:
    """A front to which points are added, with its hypervolume.

    A new point adds its box up to the reference point, less what the others dominate of that box; the others
    are pushed into the box, where few of them stay non-dominated (WFG, doi 10.1109/TEVC.2010.2077298).
    """

    def __init__(self, front: Front):
        self._objectives = front.objectives
        self._reference = front.objectives.minimised([front.reference_point])[0]
        self._points = np.empty((0, len(self._reference)))
        self.volume = 0.0

    def add(self, record: TrialRecord) -> None:
        if record.state is not State.COMPLETE:
            return
        point = self._objectives.minimised([record.values])[0]
        if not (point < self._reference).all() or (self._points <= point).all(axis=1).any():
            return
        pushed = np.unique(np.maximum(self._points, point), axis=0)
        others = hypervolume(pushed[non_dominated(pushed)], self._reference) if len(pushed) else 0.0
        self.volume += float(np.prod(self._reference - point)) - others
        stay = ~(point <= self._points).all(axis=1)
        self._points = np.vstack([self._points[stay], point])
