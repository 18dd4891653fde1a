"""Architectures of a space that may still be trained, in random order; for when the sampler has run dry.

The order depends on the seed alone, so that a search which is resumed goes on in it. Knows spaces, no trials.
"""

import random
from collections.abc import Callable, Iterator, Mapping
from itertools import islice

from spaces import Architecture, SearchSpace
from spaces.questions import Label

Answers = Mapping[str, Label]

SHUFFLED = 20_000  # spaces up to this size are listed and shuffled: some 20 MB
MISSES = 2_000  # draws in a row without a find after which a larger space is gone through in order
LISTED = 100_000  # and how far: at a millisecond each, two minutes


def untried(
    space: SearchSpace, seed: int, wanted: Callable[[Architecture], bool], *, listed: int = LISTED
) -> Iterator[Answers | None]:
    """Yields the answers that lead to a wanted architecture; None after each that is not wanted.

    It ends when the space is exhausted: surely so up to `SHUFFLED` architectures, very likely beyond.

    Args:
        listed: of a larger space, how far it is gone through in the end.
    """

    def checked(answers: Answers) -> Answers | None:
        return answers if wanted(space.decide(lambda parameter: answers[parameter.name])) else None

    rng = random.Random(seed)
    if space.size <= SHUFFLED:
        walks = list(space.walks())
        rng.shuffle(walks)
        yield from map(checked, walks)
        return
    misses = 0
    while misses < MISSES:
        found = checked(space.answers(rng))
        misses = 0 if found else misses + 1
        yield found
    yield from map(checked, islice(space.walks(), listed))
