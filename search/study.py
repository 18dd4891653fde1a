"""Study: the only truth of a search. Proposes, is told, counts, and can be read again after any crash.

An Optuna study holds every proposal and what became of it; all that is kept in memory is rebuilt from it. It
does not know who trains: `next` hands out work, `report` takes measurements and says whether to train on.
"""

import math
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, final

from optuna.trial import FrozenTrial, TrialState

from search import ledger
from search.book import Book
from search.evaluator import Evaluator, Measurement
from search.gate import Gate
from search.lease import Lease
from search.ledger import Diary, Rung
from search.pareto import Objectives
from search.record import Front, State, TrialRecord
from search.rungs import Rungs
from search.samplers import telling
from search.samplers.dialogue import DRAWN, Dialogue, Proposal
from search.untried import untried
from search.work import Assignment, Idle, Observer, reaches
from spaces import Architecture, SearchSpace, SpaceFile

FREE_IN_A_ROW = 50  # proposals that need no training after which the driver draws by itself


@final
class Study:
    """One search, from its first proposal to its last. `search.studies` makes it.

    Args:
        reference_point: of the hypervolume, by objective, in its own direction.
        key: no other search has it.
        directory: of the search.
        evaluator: for the costs; without one the study can only be read.
        lease: on the directory of the search; held until `close`.
    """

    def __init__(
        self,
        dialogue: Dialogue,
        file: SpaceFile,
        *,
        reference_point: Mapping[str, float],
        key: str,
        directory: Path,
        evaluator: Evaluator | None = None,
        lease: Lease | None = None,
    ):
        self.key, self.directory, self._lease = key, directory, lease
        self.file, self.reference_point = file, reference_point
        self.objectives = Objectives(directions=file.objectives)
        self.observers: list[Observer] = []
        self._dialogue = dialogue
        self._book = Book(self.objectives, reference_point)
        self._rungs = Rungs(file.search, self.objectives)
        self._diary = Diary(dialogue.write)
        self._adopted: deque[int] = deque()  # trainings left by a driver that died
        self._cut: FrozenTrial | None = None  # a proposal that a crash cut in half
        self._drawn = False  # the next proposal is settled
        self._row = 0  # proposals of the sampler in a row that needed no training
        if evaluator is not None:
            self._gate = Gate(evaluator, file.constraints)
            self._space = SearchSpace(file)
            self._untried = untried(self._space, file.search.seed, self._wanted)
        self._restore(writing=evaluator is not None)

    def checkpoint(self, number: int) -> Path:
        """The directory, absolute, that the training of a trial has for itself."""
        return self.directory.resolve() / "trials" / str(number)

    def close(self) -> None:
        """Writes what is still to be written, and lets another driver have the search."""
        self._diary.close()
        if self._lease is not None:
            self._lease.release()

    # Reading

    @property
    def front(self) -> Front:
        """Of complete trials only."""
        return self._book.front

    @property
    def remaining(self) -> int:
        """Trainings to be handed out: not yet started, or left by a driver that died."""
        return max(0, self.file.search.trials - self._book.started) + len(self._adopted)

    def records(self) -> list[TrialRecord]:
        """All trials in the order of their numbers."""
        return self._book.records()

    def counts(self) -> dict[State, int]:
        return self._book.counts()

    def annotate(self, number: int, **found: Any) -> TrialRecord:
        """Keeps what is found out about a trial, even after its end: `test_accuracy`, `mlflow_run_id`."""
        record = replace(self._book[number], **found)
        self._dialogue.annotate(number, found)
        self._book.put(record)
        return record

    # Proposing

    def next(self, patience_s: float = math.inf) -> Assignment | Idle:
        """Work for one worker: first what a dead driver left, then what the sampler proposes.

        Args:
            patience_s: how long to go on, about, over proposals that need no training.
        """
        if self._adopted:
            return self._assignment(self._adopted.popleft())
        deadline = time.monotonic() + patience_s
        while self._book.started < self.file.search.trials:
            if self._row >= FREE_IN_A_ROW and self._cut is None and not self._drawn:
                idle = self._draw(deadline)
                if idle is not None:
                    return idle
            proposal = self._dialogue.ask(self._space, self._cut)
            self._cut, self._drawn = None, False
            if self._judge(proposal).state is State.RUNNING:
                return self._assignment(proposal.number)
            if time.monotonic() > deadline:
                return Idle.LATER
        return Idle.BUDGET

    def _draw(self, deadline: float) -> Idle | None:
        """Makes a feasible untried architecture the next proposal."""
        for drawn in self._untried:
            if drawn is not None:
                self._dialogue.enqueue(drawn)
                return None
            if time.monotonic() > deadline:
                return Idle.LATER
        return Idle.EXHAUSTED

    def _wanted(self, architecture: Architecture) -> bool:
        untrained = self._book.training_of(architecture.id) is None
        return untrained and self._gate.check(architecture).feasible

    def _judge(self, proposal: Proposal) -> TrialRecord:
        """Stores a proposal, and ends it here if it is not to be trained."""
        architecture, now = proposal.architecture, time.time()
        checked, earlier = self._gate.check(architecture), self._book.training_of(architecture.id)
        record = TrialRecord(
            number=proposal.number,
            architecture=architecture,
            state=State.RUNNING,
            seed=self.file.search.seed,
            costs=checked.costs,
            started=now,
        )
        if not checked.feasible:
            record = replace(record, state=State.INFEASIBLE, reason=checked.reason, ended=now)
        elif earlier is not None:
            reason = f"the same as trial {earlier}"
            record = replace(record, state=State.DUPLICATE, reason=reason, duplicate_of=earlier, ended=now)
        for attribute, value in ledger.ending(record) + ledger.proposal(record):
            self._dialogue.write(record.number, attribute, value)
        self._remember(record, drawn=proposal.drawn)
        if record.state is not State.RUNNING:
            self._tell(record)
        return record

    def _remember(self, record: TrialRecord, *, drawn: bool) -> None:
        self._book.put(record)
        if drawn:
            self._row = min(self._row, FREE_IN_A_ROW - 1)  # the sampler may try again
        elif record.state in (State.INFEASIBLE, State.DUPLICATE):
            self._row += 1
        else:
            self._row = 0

    def _assignment(self, number: int) -> Assignment:
        record = self._book[number]
        for observer in self.observers:
            observer.started(record)
        return Assignment(
            number=number,
            architecture=record.architecture,
            seed=record.seed,
            rungs=self._rungs.ahead(number),
            measured=self._measured(record),
        )

    def _measured(self, record: TrialRecord) -> tuple[str, ...]:
        """The objectives that are not known before training."""
        return tuple(name for name in self.objectives.names if name not in record.costs)

    # Being told

    def report(self, number: int, measurement: Measurement) -> bool:
        """Takes a measurement of a running trial; says whether it goes on training.

        At a rung all is stored before this returns, and the trial may end: complete, stopped, or failed where
        an objective is not a number. Between rungs it is stored within about a second.
        """
        record = self._book[number]
        if record.state is not State.RUNNING:
            return False
        measurement = replace(measurement, time=measurement.time or time.time())
        history = ledger.joined(record.history, measurement)
        record = replace(record, history=history, costs=ledger.costs_after(record.costs, history))
        self._book.put(record)
        at_rung = reaches(measurement, self._rungs.ahead(number)[0], self._measured(record))
        self._diary.add(number, measurement, at_once=at_rung)
        for observer in self.observers:
            observer.measured(record)
        return self._pass(record, measurement) if at_rung else True

    def _pass(self, record: TrialRecord, measurement: Measurement) -> bool:
        """Judges a trial at a rung."""
        known = {**measurement.values, **record.costs}
        values = {name: float(known[name]) for name in self.objectives.names}
        for name, value in values.items():
            if not math.isfinite(value):
                unit = self.file.search.fidelity.unit
                self.fail(record.number, f"{name} is {value} at {unit} {measurement.fidelity}")
                return False
        rung = self._rungs.judge(record.number, values, self._measured(record))
        self._dialogue.write(record.number, *ledger.rung_attribute(rung))
        self._act(record.number, rung)
        return rung.goes_on

    def _act(self, number: int, rung: Rung) -> None:
        """Ends a trial that does not go on."""
        if rung.fidelity == self._rungs.last:
            self._end(replace(self._book[number], state=State.COMPLETE, values=rung.values))
        elif not rung.goes_on:
            reason = self._rungs.why_stopped(rung)
            self._end(replace(self._book[number], state=State.STOPPED, reason=reason))

    def give_back(self, number: int) -> None:
        """Takes a running trial back from a worker that is gone; `next` hands it out again."""
        if self._book[number].state is State.RUNNING:
            self._adopted.append(number)

    def fail(self, number: int, reason: str) -> None:
        """Ends a running trial as failed; does nothing to one that has ended."""
        if self._book[number].state is State.RUNNING:
            self._end(replace(self._book[number], state=State.FAILED, reason=reason))

    def _end(self, record: TrialRecord) -> None:
        self._diary.flush(record.number)
        record = replace(record, ended=time.time())
        for attribute, value in ledger.ending(record):
            self._dialogue.write(record.number, attribute, value)
        self._book.put(record)
        self._tell(record)

    def _tell(self, record: TrialRecord) -> None:
        for observer in self.observers:
            observer.ended(record)
        same = record if record.duplicate_of is None else self._book[record.duplicate_of]
        known = telling.learnable(same, self.reference_point)
        self._dialogue.tell(
            record.number,
            record.state,
            values=[known[name] for name in self.objectives.names],
            violations=telling.violations(record, self.file.constraints, full=self._rungs.last),
        )

    # After a crash

    def _restore(self, *, writing: bool) -> None:
        """Reads every trial; with `writing` also ends, adopts or keeps for later what was cut short."""
        for frozen in self._dialogue.trials():
            if frozen.state is TrialState.WAITING:
                self._drawn = True
            if ledger.PROPOSAL not in frozen.user_attrs:
                self._cut = frozen if frozen.state is TrialState.RUNNING else None
                continue
            record = ledger.read(frozen.number, self._dialogue.annotated(frozen))
            if record.state is State.RUNNING and frozen.state.is_finished():
                record = replace(record, state=State.FAILED, reason="ended by another program")
            self._remember(record, drawn=DRAWN in frozen.user_attrs)
            reached = ledger.rungs(frozen.user_attrs)
            for rung in reached:
                self._rungs.enter(frozen.number, rung)
            if writing and frozen.state is TrialState.RUNNING:
                self._dialogue.reopen(frozen)
                self._diary.resume(frozen.number, frozen.user_attrs)
                if record.state is not State.RUNNING:
                    self._tell(record)
                elif reached and not reached[-1].goes_on:
                    self._act(frozen.number, reached[-1])
                else:
                    self._adopted.append(frozen.number)
