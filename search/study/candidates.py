"""Candidates: architectures of a space that a sampler which plans may choose from, with what is known of their costs.

Some thousands: random ones, the more the longer the search may be, and all that differ in one decision from the best
there are. Which they are depends on the seed, the budget and what was found alone, so that a search which is resumed
goes on with the same. Knows spaces and the gate, no trials.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import final

from search.gate import Gate
from search.study.untried import SHUFFLED, Answers
from spaces import Architecture, Parameter, SearchSpace, SpaceError
from spaces.questions import Label
from spaces.schema import Search

FEWEST, MOST = 1_000, 8_000  # random ones; what more of them bring is measured in the README
A_TRIAL, AN_HOUR = 40, 7_000  # random ones for each that there may be; so counting takes 1 to 2 % of the hours
DRAWS = 2  # architectures that are counted for each feasible one that is wanted: 5 ms each, so 10 s for the fewest
NEIGHBOURS = 64  # of one architecture


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """An architecture whose costs could be counted.

    Attributes:
        answers: that lead to it, in the order of the questions.
        feasible: as far as counting tells.
    """

    architecture: Architecture
    answers: tuple[tuple[Parameter, Label], ...]
    costs: Mapping[str, float]
    feasible: bool


@final
class Candidates:
    """Of one search.

    Args:
        search: whose budget says how many are worth being counted.
    """

    def __init__(self, space: SearchSpace, gate: Gate, seed: int, search: Search):
        self._space, self._gate, self._seed = space, gate, seed
        self._count = _worth(search)
        self._stream = self._random()
        self._drawn: list[Candidate] = []
        self._feasible: dict[str, Candidate] | None = None
        self._near: dict[str, list[Candidate]] = {}

    def sample(self) -> list[Candidate]:
        """Random ones, feasible or not."""
        return list(self._first(self._count))

    def some(self, best: Sequence[tuple[str, Answers]]) -> list[Candidate]:
        """Different feasible ones.

        Args:
            best: id and answers of architectures whose neighbours are wanted too.
        """
        if self._feasible is None:
            drawn = islice((one for one in self._first(DRAWS * self._count) if one.feasible), self._count)
            self._feasible = {one.architecture.id: one for one in drawn}
        found = dict(self._feasible)
        for architecture_id, answers in best:
            near = self._neighbours(architecture_id, answers)
            found |= {one.architecture.id: one for one in near if one.feasible}
        return list(found.values())

    def _first(self, count: int) -> Iterator[Candidate]:
        """Looks at as many as are taken."""
        for index in range(count):
            if index == len(self._drawn):
                self._drawn += islice(self._stream, 1)
            if index == len(self._drawn):
                return
            yield self._drawn[index]

    def _random(self) -> Iterator[Candidate]:
        """Without repetition; all there are of a small space."""
        rng, seen = random.Random(self._seed), set[str]()
        walks = list(self._space.walks()) if self._space.size <= SHUFFLED else []
        rng.shuffle(walks)
        given = iter(walks) if self._space.size <= SHUFFLED else ({} for _ in range(2 * DRAWS * self._count))
        for candidate in (self._looked_at(answers, rng) for answers in given):
            if candidate is not None and candidate.architecture.id not in seen:
                seen.add(candidate.architecture.id)
                yield candidate

    def _neighbours(self, architecture_id: str, answers: Answers) -> list[Candidate]:
        """Those that differ in one decision, and in what follows from it; some where there are many."""
        if architecture_id not in self._near:
            rng = random.Random(f"{self._seed} {architecture_id}")
            here = self._looked_at(answers, rng)
            changes = [
                (parameter.name, other)
                for parameter, label in (here.answers if here else ())
                for other in parameter.choices
                if other != label
            ]
            changes = rng.sample(changes, min(NEIGHBOURS, len(changes)))
            near = [self._looked_at({**answers, name: other}, rng) for name, other in changes]
            self._near[architecture_id] = [one for one in near if one is not None]
        return self._near[architecture_id]

    def _looked_at(self, answers: Answers, rng: random.Random) -> Candidate | None:
        """Where the answers lead, with any for what they do not say; None where that cannot be built."""
        given: list[tuple[Parameter, Label]] = []

        def choose(parameter: Parameter) -> Label:
            answer = answers.get(parameter.name)
            if answer is None or answer not in parameter.choices:
                answer = rng.choice(parameter.choices)
            given.append((parameter, answer))
            return answer

        try:
            architecture = self._space.decide(choose)
            counted = self._gate.count(architecture)
        except SpaceError:
            return None
        if not counted.costs and not counted.feasible:  # it cannot be built
            return None
        return Candidate(
            architecture=architecture, answers=tuple(given), costs=counted.costs, feasible=counted.feasible
        )


def _worth(search: Search) -> int:
    """How many random candidates, by the tightest limit of the budget."""
    limits = ((search.trials, A_TRIAL), (search.hours, AN_HOUR), (search.device_hours, AN_HOUR))
    return max(FEWEST, int(min(MOST, *(limit * each for limit, each in limits if limit is not None))))
