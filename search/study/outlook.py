"""Outlook: for a sampler that plans, what to train next: a trial that waits at a rung, or a new architecture.

Brings together what such a sampler's planner wants to know. Knows candidates, records and the planner; nothing of
storage or who trains.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection
from typing import final

import numpy as np

from search.gate import Gate
from search.record import State, TrialRecord
from search.samplers.ehvi.planner import Planner
from search.samplers.seeded import derive
from search.study.book import Book
from search.study.candidates import Candidate, Candidates
from search.study.halving import first
from search.study.untried import Answers
from spaces import SearchSpace, SpaceFile

PARENTS = 16  # of those measured at each rung, how many have their neighbours looked at
TRAINED = (State.COMPLETE, State.STOPPED, State.FAILED)  # of those that have ended
DOUBTED = 20  # candidates that guesses of what takes a clock speak against, before one is measured all the same


@final
class Outlook:
    """Of one search.

    Args:
        answers: what was decided in the trial of a number.
    """

    def __init__(self, file: SpaceFile, space: SearchSpace, gate: Gate, book: Book, answers: Callable[[int], Answers]):
        self._file, self._gate, self._book, self._answers = file, gate, book, answers
        self._candidates = Candidates(space, gate, derive(file.search.seed, "candidates"), file.search)
        self._planner: Planner | None = None
        self._asked: tuple[object, ...] = ()
        self._left_s = math.inf
        self._found: int | None = None
        self._chosen: Candidate | None = None

    def decide(self, waiting: Collection[int], due: int | None, *, new: bool, left_s: float) -> int | None:
        """The number of a trial that is to go on; None where something new promises more, or nothing is left.

        Args:
            waiting: numbers of the trials that may go on.
            due: the one of them that goes on by a rule, where nothing is known to decide by.
            new: whether anything new may begin.
            left_s: device seconds until time is up.
        """
        asked = (self._book.changes, tuple(sorted(waiting)), due, new)
        if asked != self._asked:
            self._asked, self._left_s = asked, left_s
            self._found = self._decide(waiting, due, new)
        return self._found

    def choose(self) -> Candidate | None:
        """What is best of what is new; None where nothing is known."""
        if self._chosen is None or self._asked[0] != self._book.changes:
            self.decide((), None, new=True, left_s=self._left_s)
        return self._chosen

    def _decide(self, waiting: Collection[int], due: int | None, new: bool) -> int | None:
        self._chosen = None
        records = [r for r in self._book.records() if r.state.open or r.state in TRAINED]
        planner = self._planner = self._planner or self._made(self._candidates.sample())
        if planner is None:
            return due
        proposals = self._book.proposals
        parents = [(r.network.id, self._answers(r.number)) for r in self._parents(planner, records)] if new else []
        fresh = [one for one in self._candidates.some(parents) if self._untried(one)] if new else []
        for _ in range(DOUBTED):
            rng = np.random.default_rng(derive(self._file.search.seed, "plan", proposals, len(fresh)))
            known = [(one.architecture, one.costs) for one in fresh]
            plan = planner.plan(records, known, waiting, rng, due, self._left_s)
            if plan is None or plan.fresh is None:
                return None if plan is None else plan.waiting
            self._chosen = fresh[plan.fresh]
            if self._gate.promising(self._chosen.architecture):
                break
            fresh.pop(plan.fresh)
        return None

    def _made(self, sample: list[Candidate]) -> Planner | None:
        """Dimensions of plain choices that have the same ones are alike; None where nothing can be built."""
        if not sample:
            return None
        choices = {} if self._file.backbones else {n: str(d.choices) for n, d in self._file.dimensions.items()}
        shared = Counter(choices.values())
        return Planner(
            self._book.objectives,
            self._book.reference_point,
            self._file.search.fidelity.rungs,
            [(one.architecture, one.costs) for one in sample],
            {name: labels for name, labels in choices.items() if shared[labels] > 1},
        )

    def _untried(self, candidate: Candidate) -> bool:
        return self._book.training_of(candidate.architecture.id) is None and self._gate.open(candidate.architecture)

    def _parents(self, planner: Planner, records: Collection[TrialRecord]) -> list[TrialRecord]:
        """The best at each rung."""
        seen = planner.seen(records)
        best: set[int] = set()
        for fidelity in {one.fidelity for one in seen}:
            here = [one for one in seen if one.fidelity == fidelity]
            best |= {here[index].number for index in first(np.array([one.point for one in here]), PARENTS)}
        return [record for record in records if record.number in best]
