"""What is left to try: all of it, once each, in an order that the seed decides."""

from itertools import islice

from search.study.untried import LISTED, MISSES, untried
from spaces import SearchSpace
from tests.search.plain import plain_space

SMALL = SearchSpace(plain_space(trials=1))
WIDE = SearchSpace(plain_space(trials=1, dimensions={f"x{i}": list(range(10)) for i in range(9)}))


def drawn(space, seed, wanted, most=10**6):
    found = []

    def is_wanted(architecture):
        return wanted(architecture) and architecture.id not in found

    for answers in islice(untried(space, seed, is_wanted), most):
        if answers is not None:
            found.append(space.decide(lambda parameter, answers=answers: answers[parameter.name]).id)
    return found


def anything(architecture):
    return True


def test_a_small_space_is_drawn_to_its_last_architecture():
    found = drawn(SMALL, 0, anything)
    assert len(found) == len(set(found)) == SMALL.size == 192
    assert set(found) == {architecture.id for architecture in SMALL}


def test_the_seed_decides_the_order():
    assert drawn(SMALL, 0, anything) == drawn(SMALL, 0, anything) != drawn(SMALL, 1, anything)
    assert sorted(drawn(SMALL, 0, anything)) == sorted(drawn(SMALL, 1, anything))


def test_what_was_drawn_before_a_restart_is_passed_over():
    before = drawn(SMALL, 0, anything)[:50]
    after = drawn(SMALL, 0, lambda architecture: architecture.id not in before)
    assert before + after == drawn(SMALL, 0, anything)


def test_only_what_is_wanted_comes():
    found = drawn(SMALL, 0, lambda architecture: architecture.choices["a"] == 3)
    assert len(found) == 48


def test_a_large_space_is_sampled_without_being_listed():
    found = drawn(WIDE, 0, lambda architecture: architecture.choices["x0"] == 7, most=300)
    assert 10 < len(found) < 60
    assert len(set(found)) == len(found)


def test_a_large_space_with_nothing_wanted_comes_to_an_end():
    answers = list(untried(WIDE, 0, lambda architecture: False))
    assert answers == [None] * (MISSES + LISTED)
