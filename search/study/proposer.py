"""Proposer: what is proposed next. The sampler decides, or chance where it runs dry; settled ones come first.

Knows spaces, the gate and who has been trained; nothing of trainings, rungs or what trials are told as.
"""

import time
from collections.abc import Collection, Iterator
from typing import final

from optuna.trial import FrozenTrial, TrialState

from search.evaluator import Evaluator, Foreseer
from search.gate import Checked, Gate
from search.record import State, TrialRecord
from search.samplers import plans
from search.samplers.dialogue import DRAWN, Dialogue, Proposal
from search.study.book import Book
from search.study.outlook import Outlook
from search.study.untried import Answers, untried
from search.study.work import Idle
from spaces import Architecture, SearchSpace, SpaceFile

DOUBTED = 200  # measured in a row in spite of a guess, and rightly guessed: then it is believed of the rest
FREE_IN_A_ROW = 50  # proposals that need no training after which the driver draws by itself


@final
class Proposer:
    """Asks for proposals, one at a time; each is to be judged before the next."""

    def __init__(self, dialogue: Dialogue, book: Book, file: SpaceFile, evaluator: Evaluator):
        self._dialogue, self._book, self._space = dialogue, book, SearchSpace(file)
        self._gate = Gate(evaluator, file.constraints)
        self._foresees = isinstance(evaluator, Foreseer)
        self._doubted = 0  # of those that guesses speak against, how many were measured, and are too slow
        self._untried = self._candidates(file.search.seed)
        self._cut: FrozenTrial | None = None  # a proposal that a crash cut in half
        self._drawn = False  # the next proposal is settled
        self._row = 0  # proposals of the sampler in a row that needed no training
        planned = plans(file.search.sampler)
        self._outlook = Outlook(file, self._space, self._gate, book, dialogue.answers) if planned else None

    def goes_on(self, waiting: Collection[int], due: int | None, *, new: bool, left_s: float) -> int | None:
        """Of a sampler that plans: the number of a trial that is to go on; None where something new promises more.

        Args:
            waiting: those that may go on.
            due: the one of them that goes on by the rule of halving.
            new: whether anything new may begin.
            left_s: device seconds until time is up.
        """
        if self._outlook is None or self._drawn or self._cut is not None:
            return None
        return self._outlook.decide(waiting, due, new=new, left_s=left_s)

    def next(self, deadline: float) -> Proposal | Idle:
        """A proposal of any kind, to be trained or not.

        Args:
            deadline: by the monotonic clock; for the search for one that can be trained, where the sampler has none.
        """
        if self._row >= FREE_IN_A_ROW and self._cut is None and not self._drawn:
            idle = self._draw(deadline)
            if idle is not None:
                return idle
        return self._ask()

    def given(self, answers: Answers) -> Proposal:
        """The proposal that these answers lead to; the one that a crash cut in half, if there is one."""
        if not self._drawn and self._cut is None:
            self._dialogue.enqueue(answers)
        return self._ask()

    def _ask(self) -> Proposal:
        chosen = None if self._outlook is None or self._drawn else self._outlook.choose()
        proposal = self._dialogue.ask(self._space, self._cut, chosen.answers if chosen else ())
        self._cut, self._drawn = None, False
        return proposal

    def settle(self, answers: Answers) -> None:
        """Makes these answers the next proposal, after those that are settled already."""
        self._dialogue.enqueue(answers)
        self._drawn = True

    def check(self, architecture: Architecture) -> Checked:
        return self._gate.check(architecture)

    def costs(self, architecture: Architecture) -> dict[str, float]:
        """Of what a training has left, feasible or not.

        Raises:
            SpaceError: it cannot be measured.
        """
        return {**self._gate.count(architecture).costs, **self._gate.measure(architecture)}

    def _draw(self, deadline: float) -> Idle | None:
        """Makes a feasible untried architecture the next proposal."""
        for drawn in self._untried:
            if drawn is not None:
                self._dialogue.enqueue(drawn)
                return None
            if time.monotonic() > deadline:
                return Idle.LATER
        return Idle.EXHAUSTED

    def _candidates(self, seed: int) -> Iterator[Answers | None]:
        """What guesses speak against comes last, for they may be wrong; and only some of it, for they seldom are."""
        if self._foresees:
            yield from untried(self._space, seed, self._hopeful, listed=0)
        for drawn in untried(self._space, seed, self._wanted):
            if self._doubted >= DOUBTED:
                return
            yield drawn

    def _hopeful(self, architecture: Architecture) -> bool:
        return self._gate.promising(architecture) and self._wanted(architecture)

    def _wanted(self, architecture: Architecture) -> bool:
        if self._book.training_of(architecture.id) is not None:
            return False
        doubt = self._foresees and not self._gate.promising(architecture) and self._gate.count(architecture).feasible
        feasible = self.check(architecture).feasible
        self._doubted = 0 if feasible else self._doubted + doubt
        return feasible

    def judged(self, record: TrialRecord, *, drawn: bool) -> None:
        """Hears what became of a proposal."""
        if drawn:
            self._row = min(self._row, FREE_IN_A_ROW - 1)  # the sampler may try again
        elif record.state in (State.INFEASIBLE, State.DUPLICATE):
            self._row += 1
        else:
            self._row = 0

    def found(self, frozen: FrozenTrial, record: TrialRecord | None) -> None:
        """Hears of a trial that a driver has left, in the order of their numbers; None where it was not judged."""
        if frozen.state is TrialState.WAITING:
            self._drawn = True
        if record is None:
            self._cut = frozen if frozen.state is TrialState.RUNNING else None
        else:
            self.judged(record, drawn=DRAWN in frozen.user_attrs)
