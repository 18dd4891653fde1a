"""Study: the only truth of a search. Proposes, is told, counts, and can be read again after any crash.

An Optuna study holds every proposal and what became of it; all that is kept in memory is rebuilt from it. It
does not know who trains: `next` hands out work, `report` takes measurements and says whether to train on.
"""

import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, final

from optuna.trial import FrozenTrial, TrialState

from search.evaluator import Evaluator, Measurement
from search.pareto import Objectives
from search.record import Front, State, TrialRecord
from search.samplers import telling
from search.samplers.dialogue import Dialogue, Proposal
from search.study import ledger
from search.study.book import Book
from search.study.budget import Clock, left_s, overspent, shares
from search.study.lease import Lease
from search.study.ledger import Diary, Rung
from search.study.lineage import Lineage, Parent
from search.study.proposer import Proposer
from search.study.rungs import Rungs
from search.study.untried import Answers
from search.study.work import Assignment, Idle, Observer, reaches
from spaces import SpaceError, SpaceFile

CLOCK = "clock"  # attribute of the study: hours that drivers have spent on it
PARENTS = "parents"  # and what has become of the backbones that trials start from, by number


@final
class Study:
    """One search, from its first proposal to its last. `search.study.studies` makes it.

    Args:
        reference_point: of the hypervolume, by objective, in its own direction.
        key: no other search has it.
        data: what tells the evaluator's data from others, in words.
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
        data: Mapping[str, str],
        directory: Path,
        evaluator: Evaluator | None = None,
        lease: Lease | None = None,
    ):
        self.key, self.directory, self._lease = key, directory, lease
        self.file, self.reference_point, self.data = file, reference_point, data
        self.objectives = Objectives(directions=file.objectives)
        self.observers: list[Observer] = []
        self._dialogue = dialogue
        self._book = Book(self.objectives, reference_point, Lineage(file.train.inherit))
        self._rungs = Rungs(file.search, self.objectives)
        self._clock = Clock(dialogue.noted(CLOCK), partial(dialogue.note, CLOCK))
        self._diary = Diary(dialogue.write)
        self._waiting: dict[int, None] = {}  # at a rung, in the order in which they came to
        self._adopted: deque[int] = deque()  # trainings that were cut short, by a driver's death or the end of time
        self._proposer = None if evaluator is None else Proposer(dialogue, self._book, file, evaluator)
        self._restore()

    def close(self) -> None:
        """Writes what is still to be written, and lets another driver have the search."""
        lease, self._lease = self._lease, None
        if lease is None:
            return  # only read, or closed already
        try:
            self._diary.close()
            self._clock.close()
        finally:
            lease.release()

    # Reading

    @property
    def front(self) -> Front:
        """Of complete trials only."""
        return self._book.front

    @property
    def ended(self) -> int:
        """Trainings of the budget that are over."""
        return self._book.ended

    @property
    def spent(self) -> dict[str, float]:
        """What share of each limit of the budget is spent, by its name; of the trials, those that have ended."""
        return shares(
            self.file.search, trials=self._book.ended, hours=self._clock.hours, device_hours=self._device_hours
        )

    @property
    def _device_hours(self) -> float:
        return (self._book.device_s + self._book.lineage.device_s) / 3600

    @property
    def overspent(self) -> str:
        """Why nothing more may be trained though trials are left; empty while there is time."""
        return overspent(self.file.search, self.spent)

    @property
    def remaining(self) -> float:
        """Trainings that are not running and may still run: not yet started, or left; infinite without a limit."""
        unstarted = (self.file.search.trials or math.inf) - self._book.started
        return max(0, unstarted) + len(self._adopted) + len(self._waiting)

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

    def answers(self, number: int) -> Answers:
        """What was decided to come to the architecture of a trial."""
        return self._dialogue.answers(number)

    def decided(self) -> list[FrozenTrial]:
        """What was decided in every trial, and among what, by number: as Optuna holds it; not to be changed."""
        return self._dialogue.trials()

    # Whose weights trials start from

    @property
    def parents(self) -> dict[int, Parent]:
        """Those that have been trained, or have failed, by number."""
        return self._book.lineage.parents

    @property
    def spared(self) -> set[int]:
        """Trials whose weights others may still start from, though they have ended and are not on the front."""
        return self._book.lineage.spared

    def raised(self, parent: Parent) -> None:
        """Keeps what has become of a parent; its seconds count as those of trials."""
        self.parents[parent.number] = parent
        self._dialogue.note(PARENTS, {str(number): one.to_dict() for number, one in self.parents.items()})
        self._clock.tick()

    def tick(self) -> str:
        """To be called now and then while parents are trained; why that has to end, as `overspent`."""
        self._clock.tick()
        return self.overspent

    # Starting from what is known

    def inherit(self, earlier: TrialRecord, answers: Answers, origin: str) -> TrialRecord:
        """Takes over a trial of another search, whose values hold here; it costs nothing of the budget.

        Called for the same trials again after a crash, it takes over the rest.

        Args:
            earlier: complete or stopped.
            answers: in this space, that lead to its architecture.
            origin: `NAME/NUMBER`.
        """
        assert self._proposer is not None
        number = self._proposer.given(answers).number
        record = replace(earlier, number=number, origin=origin, mlflow_run_id=None)
        for measurement in record.history:
            self._diary.add(number, measurement, at_once=False)
            ahead = self._rungs.ahead(number)
            if ahead and reaches(measurement, ahead[0], self._measured(record)):
                goes_on = record.state is State.COMPLETE or record.fidelity > ahead[0]
                values = self._values(record, measurement)
                rung = self._rungs.arrive(number, values, goes_on=goes_on, guest=True)
                self._dialogue.write(number, *ledger.rung_attribute(rung))
        self._diary.flush(number)
        for attribute, value in [("origin", origin), *ledger.ending(record), *ledger.proposal(record)]:
            self._dialogue.write(number, attribute, value)
        self._rungs.close(number)
        self._book.put(record)
        self._tell(record)
        return record

    def propose(self, answers: Sequence[Answers]) -> None:
        """Makes these the next proposals, in their order; but for as many as wait already, from before a crash."""
        assert self._proposer is not None
        for given in answers[self._dialogue.waiting() :]:
            self._proposer.settle(given)

    # Proposing

    def next(self, patience_s: float = math.inf, *, devices: float = 1.0) -> Assignment | Idle:
        """Work for one worker: what was cut short, then what may go on from a rung, then what the sampler proposes.

        Where the sampler plans, what cannot come to the end in time gives way to what can.

        When nothing is left to start and nothing runs, what still waits at a rung is stopped.

        Args:
            patience_s: how long to go on, about, over proposals that need no training.
            devices: that the training will have, as for `Measurement.device_s`.
        """
        if self.overspent:
            return Idle.TIME
        if self._adopted:
            return self._assignment(self._adopted.popleft())
        if (promoted := self._promoted(devices)) is not None:
            return self._assignment(promoted)
        found = self._propose(time.monotonic() + patience_s)
        if isinstance(found, Assignment) or found is Idle.LATER:
            return found
        self._rungs.settle(self._book.running)
        if (promoted := self._promoted(devices)) is not None:
            return self._assignment(promoted)
        if self._book.running:
            return Idle.LATER  # until they have come to their rungs
        for number in tuple(self._waiting):
            self._end(replace(self._book[number], state=State.STOPPED, reason=self._rungs.verdict(number)))
        return found

    def _promoted(self, devices: float) -> int | None:
        """Lets the best go on that may; where the sampler plans, only if it promises more than anything new."""
        if self._rungs.planned:
            assert self._proposer is not None
            unspent = self._book.started < (self.file.search.trials or math.inf)
            left = left_s(
                self.file.search,
                hours=self._clock.hours,
                device_hours=self._device_hours,
                running=len(self._book.running),
                devices=devices,
            )
            waiting, due = self._rungs.free(self._waiting), self._rungs.due()
            number = self._proposer.goes_on(waiting, due, new=unspent, left_s=left)
            promotion = None if number is None else self._rungs.let_go(number)
        else:
            promotion = self._rungs.promotion()
        if promotion is None:
            return None
        self._dialogue.write(promotion.number, *ledger.rung_attribute(promotion.rung))
        return promotion.number

    def _propose(self, deadline: float) -> Assignment | Idle:
        """The next proposal that is to be trained."""
        assert self._proposer is not None
        while self._book.started < (self.file.search.trials or math.inf):
            proposal = self._proposer.next(deadline)
            if isinstance(proposal, Idle):
                return proposal
            if self._judge(proposal).state is State.RUNNING:
                return self._assignment(proposal.number)
            if time.monotonic() > deadline:
                return Idle.LATER
        return Idle.BUDGET

    def _judge(self, proposal: Proposal) -> TrialRecord:
        """Stores a proposal, and ends it here if it is not to be trained."""
        assert self._proposer is not None
        architecture, now = proposal.architecture, time.time()
        checked, earlier = self._proposer.check(architecture), self._book.training_of(architecture.id)
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
        else:
            record = replace(record, inherited_from=self._book.lineage.ancestor(record))
        for attribute, value in ledger.ending(record) + ledger.proposal(record):
            self._dialogue.write(record.number, attribute, value)
        self._book.put(record)
        self._proposer.judged(record, drawn=proposal.drawn)
        if record.state is not State.RUNNING:
            self._tell(record)
        return record

    def _assignment(self, number: int) -> Assignment:
        record = self._book[number]
        if record.state is State.PAUSED:
            self._waiting.pop(number, None)
            self._dialogue.write(number, ledger.PAUSED, "")
            record = replace(record, state=State.RUNNING, reason="")
            self._book.put(record)
        for observer in self.observers:
            observer.started(record)
        return Assignment(
            number=number,
            architecture=record.architecture,
            seed=record.seed,
            rungs=self._rungs.ahead(number),
            measured=self._measured(record),
            donors=self._book.lineage.donors(record),
        )

    def _measured(self, record: TrialRecord) -> tuple[str, ...]:
        """The objectives that are not known before training."""
        return tuple(name for name in self.objectives.names if name not in record.costs)

    # Being told

    def report(self, number: int, measurement: Measurement) -> bool:
        """Takes a measurement of a running trial; says whether it goes on training.

        At a rung all is stored before this returns, and the trial may be paused, or end: complete, or failed where
        an objective is not a number. Between rungs it is stored within about a second. Where the hours of the
        budget are spent it is paused in any case.
        """
        record = self._book[number]
        if record.state is not State.RUNNING:
            return False
        measurement = replace(measurement, time=measurement.time or time.time())
        if measurement.network is not None and self._proposer is not None:
            try:
                costs = self._proposer.costs(measurement.network)
            except SpaceError as error:
                self.fail(number, f"what is left cannot be measured: {error}")
                return False
            measurement = replace(measurement, values={**costs, **measurement.values})
        if measurement.inherited_from != record.inherited_from:  # what it was to start from was gone
            record = replace(record, inherited_from=measurement.inherited_from)
            self._dialogue.write(number, ledger.INHERITED, measurement.inherited_from)
        history = ledger.joined(record.history, measurement)
        record = replace(record, history=history, costs=ledger.costs_after(record.costs, history))
        self._book.put(record)
        at_rung = reaches(measurement, self._rungs.ahead(number)[0], self._measured(record))
        self._diary.add(number, measurement, at_once=at_rung)
        goes_on = not at_rung or self._pass(record, measurement)
        if goes_on and self.overspent:
            self._pause(self._book[number], self.overspent)
        if self._book[number].state.open:
            for observer in self.observers:
                observer.measured(self._book[number])
        return self._book[number].state is State.RUNNING

    def _pass(self, record: TrialRecord, measurement: Measurement) -> bool:
        """Judges a trial at a rung; whether it goes on."""
        values = self._values(record, measurement)
        for name, value in values.items():
            if not math.isfinite(value):
                unit = self.file.search.fidelity.unit
                self.fail(record.number, f"{name} is {value} at {unit} {measurement.fidelity}")
                return False
        rung = self._rungs.judge(record.number, values, self._measured(record))
        self._dialogue.write(record.number, *ledger.rung_attribute(rung))
        self._act(record.number, rung)
        return rung.goes_on

    def _values(self, record: TrialRecord, measurement: Measurement) -> dict[str, float]:
        """Every objective, as a rung has it."""
        known = {**measurement.values, **record.costs}
        return {name: float(known[name]) for name in self.objectives.names}

    def _act(self, number: int, rung: Rung) -> None:
        """Ends a trial at full fidelity; below, shows it to the sampler, and pauses it if it must wait."""
        record = self._book[number]
        if rung.fidelity == self._rungs.last:
            self._end(replace(record, state=State.COMPLETE, values=rung.values))
            return
        if not rung.goes_on:
            self._waiting[number] = None
            if not record.reason:
                self._pause(record, self._rungs.verdict(number))
        history = tuple(measurement for measurement in record.history if measurement.fidelity <= rung.fidelity)
        self._dialogue.show(number, **self._told(replace(record, state=State.STOPPED, history=history)))

    def _pause(self, record: TrialRecord, reason: str) -> TrialRecord:
        """Interrupts a training; its checkpoint stays."""
        self._diary.flush(record.number)
        record = replace(record, state=State.PAUSED, reason=reason)
        self._dialogue.write(record.number, ledger.PAUSED, reason)
        self._book.put(record)
        return record

    def interrupt(self, reason: str) -> None:
        """Says of trainings that still count as running that nobody trains them: whoever resumes goes on with them."""
        for record in self._book.records():
            if record.state is State.RUNNING:
                paused = self._pause(record, reason)
                for observer in self.observers:
                    observer.measured(paused)

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
        self._rungs.close(record.number)
        self._waiting.pop(record.number, None)
        self._book.put(record)
        self._clock.tick()
        self._tell(record)

    def _tell(self, record: TrialRecord) -> None:
        for observer in self.observers:
            observer.ended(record)
        self._dialogue.tell(record.number, **self._told(record))

    def _told(self, record: TrialRecord) -> dict[str, Any]:
        """A trial as the sampler is to hear of it."""
        same = record if record.duplicate_of is None else self._book[record.duplicate_of]
        known = telling.learnable(same, self.reference_point)
        return {
            "state": record.state,
            "values": [known[name] for name in self.objectives.names],
            "violations": telling.violations(record, self.file.constraints, full=self._rungs.last),
        }

    # After a crash

    def _restore(self) -> None:
        """Reads every trial; with an evaluator also ends, adopts or keeps for later what was cut short."""
        for number, parent in (self._dialogue.noted(PARENTS) or {}).items():
            self._book.lineage.parents[int(number)] = Parent.from_dict(parent)
        arrivals: list[tuple[int, Rung]] = []
        for frozen in self._dialogue.trials():
            record = None
            if ledger.PROPOSAL in frozen.user_attrs:
                record = ledger.read(frozen.number, self._dialogue.annotated(frozen))
                if record.state.open and frozen.state.is_finished():
                    record = replace(record, state=State.FAILED, reason="ended by another program")
                self._book.put(record)
                arrivals += [(frozen.number, rung) for rung in ledger.rungs(frozen.user_attrs)]
                if not record.state.open:
                    self._rungs.close(record.number)
            if self._proposer is not None:
                self._proposer.found(frozen, record)
        for number, rung in sorted(arrivals, key=lambda arrival: arrival[1].place):
            self._rungs.enter(number, rung, guest=self._book[number].origin is not None)
        if self._proposer is not None:
            for frozen in self._dialogue.trials():
                if frozen.state is TrialState.RUNNING and ledger.PROPOSAL in frozen.user_attrs:
                    self._take_up(frozen)

    def _take_up(self, frozen: FrozenTrial) -> None:
        """Goes on with a trial where a driver left it."""
        record, reached = self._book[frozen.number], ledger.rungs(frozen.user_attrs)
        self._dialogue.reopen(frozen)
        self._diary.resume(frozen.number, frozen.user_attrs)
        if not record.state.open:
            self._tell(record)
            return
        if reached:
            self._act(record.number, reached[-1])
        if self._book[record.number].state.open and record.number not in self._waiting:
            self._adopted.append(record.number)
