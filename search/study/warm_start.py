"""Warm start: what an earlier search has found that helps this one, and how far it holds here.

Where data, objectives, rungs and recipe are the same, what the earlier search measured is as good as measured
here. Where they are not, its values mean nothing, but the order of its architectures is a good guess: the best
of them are proposed first. Knows studies and checkpoints, nothing of who trains.
"""

import shutil
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from search.checkpoints.checkpoints import checkpoints_of
from search.evaluator import Measurement
from search.gate import limits
from search.record import State, TrialRecord, front_of
from search.study.halving import first
from search.study.study import Study
from search.study.untried import Answers
from spaces import Architecture, SearchSpace, SpaceError, SpaceFile
from spaces.questions import Label, Parameter
from spaces.schema import ACCURACY, ALWAYS, NEAREST, PRETRAINED, CostEntry

TRIES = 100  # ways to answer what the earlier space did not ask, before an architecture counts as not in this one
SHARE = 4  # one in so many of the budget's trials is proposed by an order that may not hold
FEW = 10  # and so many where the budget has no trials


@dataclass(frozen=True, kw_only=True)
class Known:
    """A trial of an earlier search, and the answers in this space that lead to its architecture."""

    answers: Answers
    record: TrialRecord


@dataclass(frozen=True, kw_only=True)
class WarmStart:
    """What to begin with.

    Attributes:
        name: of the earlier search.
        known: complete and stopped trials whose values hold here.
        first: answers to be proposed before the sampler proposes, the best first.
        note: what was taken over and what not, in one line for the user.
    """

    name: str
    known: tuple[Known, ...] = ()
    first: tuple[Answers, ...] = ()
    note: str

    def put(self, study: Study) -> None:
        """Into a study that has proposed nothing yet; after a crash on the way, what is missing there."""
        there = {record.origin for record in study.records()}
        for known in self.known:
            origin = f"{self.name}/{known.record.number}"
            if origin not in there:
                study.inherit(known.record, known.answers, origin)
        study.propose(self.first)

    def bring(self, study: Study, earlier: Study) -> None:
        """Copies what the earlier search keeps of the members of the front."""
        new, old = checkpoints_of(study.directory), checkpoints_of(earlier.directory)
        for member in study.front.members:
            if member.origin is not None and member.number not in new.held():
                with old.fetched(int(member.origin.rpartition("/")[2])) as folder:
                    deque(new.trained(member.number, partial(_copied, member, folder)), maxlen=0)


def _copied(member: TrialRecord, folder: Path, directory: Path) -> Iterator[Measurement]:
    """As if trained."""
    shutil.copytree(folder, directory, dirs_exist_ok=True)
    yield member.history[-1]


def warm_start(earlier: Study, space: SearchSpace, data: Mapping[str, str]) -> WarmStart:
    """What a search of `space` on `data` (see `studies.begin`) takes over from an earlier one."""
    name, file = earlier.directory.name, space.file
    trained = [r for r in earlier.records() if r.state in (State.COMPLETE, State.STOPPED)]
    here = [
        Known(answers=answers, record=record)
        for record in trained
        if (answers := leading_to(space, record.architecture, earlier.answers(record.number))) is not None
        and all(limit.excess(record.costs) <= 0 for limit in limits(file.constraints) if limit.name in record.costs)
    ]
    others = f"{len(trained) - len(here)} of its {len(trained)} are not in this space"
    differ = _differences(earlier, file, data)
    if differ:
        best = [known.answers for known in _in_order(earlier, here)]
        best = best[: max(1, file.search.trials // SHARE) if file.search.trials else FEW]
        first = "its best is" if len(best) == 1 else f"its {len(best)} best are"
        note = f"from {name}: its values do not hold here ({'; '.join(differ)}), {first} tried first"
        return WarmStart(name=name, first=tuple(best), note=f"{note}; {others}")
    kept = checkpoints_of(earlier.directory).held()
    front = {r.number for r in front_of((k.record for k in here), earlier.objectives, earlier.reference_point).members}
    again = [known for known in here if known.record.number in front - kept]  # whose weights are gone
    known = [known for known in here if known not in again]
    return WarmStart(
        name=name,
        known=tuple(known),
        first=tuple(known.answers for known in again),
        note=f"from {name}: {len(known)} trials whose values hold here; {others}",
    )


def _differences(earlier: Study, file: SpaceFile, data: Mapping[str, str]) -> list[str]:
    """Why values of the earlier search would not be measured here."""
    before = earlier.file
    weights = [
        {entry.name: str(entry.weights) for entry in searched.backbones if searched.train.inherit == PRETRAINED}
        for searched in (before, file)
    ]
    same = {
        "other data": all(earlier.data.get(name) == value for name, value in data.items()),
        "other objectives": dict(before.objectives) == dict(file.objectives),
        "other costs": _costs(file).items() <= _costs(before).items(),
        "other rungs": before.search.fidelity.rungs == file.search.fidelity.rungs
        and before.search.fidelity.unit == file.search.fidelity.unit,
        "another recipe": before.train.model_copy(update={"inherit": file.train.inherit}) == file.train,
        "other weights to start from": before.train.inherit == file.train.inherit
        and before.train.inherit != NEAREST  # which are those of what was trained there before
        and all(weights[1].get(name, path) == path for name, path in weights[0].items()),
    }
    return [what for what, is_same in same.items() if not is_same]


def _costs(file: SpaceFile) -> dict[str, CostEntry | None]:
    """Every cost of timm networks that a file asks for, with its setting; None for the usual one."""
    if not file.backbones:
        return {}
    asked = {*ALWAYS, *file.objectives, *file.constraints, *file.costs} - {ACCURACY}
    return {name: file.costs.get(name) for name in asked}


def _in_order(earlier: Study, here: Sequence[Known]) -> list[Known]:
    """Complete trials, the best of the earlier front first."""
    complete = [known for known in here if known.record.state is State.COMPLETE]
    if not complete:
        return []
    points = earlier.objectives.minimised(known.record.values for known in complete)
    return [complete[index] for index in first(points, len(complete))]


def leading_to(space: SearchSpace, wanted: Architecture, before: Mapping[str, Label]) -> Answers | None:
    """Answers in a space that lead to an architecture; None where none of the first `TRIES` ways does.

    Args:
        before: answers in another space that led to it; those that this one knows too stand.
    """
    ways: list[tuple[Label, ...]] = [()]
    for _ in range(TRIES):
        if not ways:
            break
        way = _Way(before, ways.pop())
        with suppress(SpaceError):  # a guess may lead to what cannot be built
            if space.decide(way.choose).id == wanted.id:
                return way.answers
        ways += way.others
    return None


class _Way:
    """One way through the questions of a space: known answers where there are any, guesses for the rest.

    Attributes:
        answers: by name of the parameter, as far as was asked.
        others: the guesses of ways that part from this one.
    """

    def __init__(self, before: Mapping[str, Label], guesses: tuple[Label, ...]):
        self.answers: dict[str, Label] = {}
        self.others: list[tuple[Label, ...]] = []
        self._before, self._guesses, self._made = before, guesses, 0

    def choose(self, parameter: Parameter) -> Label:
        answer = self._before.get(parameter.name)
        if answer is None or answer not in parameter.choices:
            answer = self._guess(parameter)
        self.answers[parameter.name] = answer
        return answer

    def _guess(self, parameter: Parameter) -> Label:
        if self._made == len(self._guesses):
            self.others += [(*self._guesses, other) for other in reversed(parameter.choices[1:])]
            self._guesses = (*self._guesses, parameter.choices[0])
        self._made += 1
        return self._guesses[self._made - 1]
