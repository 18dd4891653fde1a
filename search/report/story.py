"""Story: all that is told of a search. Knows records, nothing of studies, or of where it is told."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from search.confirmation.record import Confirmation
from search.record import Front, TrialRecord

Importance = Mapping[str, Mapping[str, float]]
"""By objective, then by decision: how much of what is good and bad there the decision explains; sums to 1."""


@dataclass(frozen=True, kw_only=True)
class Story:
    """
    Attributes:
        name: of the search.
        records: every trial, by number.
        importance: worked out when it is asked for; empty while too little is known.
        confirmation: None before there is one.
        start: what weights its trainings start from, as a sentence; empty where all start from scratch.
    """

    name: str
    records: Sequence[TrialRecord]
    front: Front
    importance: Callable[[], Importance] = dict
    confirmation: Confirmation | None = None
    start: str = ""
