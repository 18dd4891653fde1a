"""Who goes on from a rung: the rule alone, on points that can be drawn on paper, and who waits for it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.pareto import Objectives
from search.study.halving import Halving, first
from search.study.ledger import Rung
from search.study.rungs import Rungs
from spaces.schema import Search

BOTH = (0, 1)
OBJECTIVES = Objectives(directions={"accuracy": "maximize", "macs": "minimize"})


def test_the_front_comes_first_and_its_ends_before_its_middle():
    front = [[0.0, 4.0], [1.0, 3.0], [2.0, 2.0], [4.0, 0.0]]
    behind = [[5.0, 5.0], [1.5, 3.5]]
    order = first(np.array(front + behind), 6)
    assert order[:2] == [0, 3]  # best in the first objective, then the farthest from it
    assert sorted(order[:4]) == [0, 1, 2, 3]
    assert order[4:] == [5, 4]  # dominated by one front, and by both


def test_a_cheap_model_survives_by_the_front_and_dies_by_accuracy_alone():
    error_and_cost = np.array([[0.1, 9.0], [0.2, 9.0], [0.3, 9.0], [0.4, 1.0]])
    assert Halving(reduction=2, objectives=BOTH).best(error_and_cost) == [0, 3]
    assert Halving(reduction=2, objectives=(0,)).best(error_and_cost) == [0, 1]


def test_a_front_of_everything_is_still_halved():
    """Rank alone stops nothing here; the spread keeps the ends and the middle."""
    points = np.array([[float(i), 8.0 - i] for i in range(9)])
    assert sorted(Halving(reduction=3, objectives=BOTH).best(points)) == [0, 4, 8]


@pytest.mark.parametrize("reduction", [2, 3, 8])
@given(size=st.integers(1, 30), seed=st.integers(0, 99))
def test_just_one_in_so_many_is_good_enough(reduction, size, seed):
    points = np.random.default_rng(seed).random((size, 2))
    best = Halving(reduction=reduction, objectives=BOTH).best(points)
    assert len(set(best)) == len(best) == -(-size // reduction)


# Who waits


def rungs(*, scheduler="pareto", reduction=2, fidelities=(1, 3, 9)):
    search = Search(trials=9, scheduler=scheduler, fidelity={"rungs": list(fidelities), "reduction": reduction})
    return Rungs(search, OBJECTIVES)


def arrive(seen, number, accuracy, macs):
    return seen.judge(number, {"accuracy": accuracy, "macs": macs}, ("accuracy",)).goes_on


def test_the_first_at_a_rung_goes_on_and_the_next_must_be_better_or_wait_for_the_others():
    seen = rungs()
    assert arrive(seen, 0, 0.5, 5.0)
    assert not arrive(seen, 1, 0.4, 6.0)  # dominated
    assert seen.promotion() is None
    assert arrive(seen, 2, 0.6, 4.0)  # the best of three: two may go on, and the first already has
    assert not arrive(seen, 3, 0.3, 9.0)
    assert not arrive(seen, 4, 0.1, 8.0)  # now three of five may, and number 1 is the third
    assert seen.promotion().number == 1
    assert seen.promotion() is None
    assert seen.verdict(3) == "not in the best 1/2 of 5 trials at epoch 1"


def test_the_highest_rung_comes_first():
    seen = rungs(reduction=3)
    falling = [(1.0 - number / 20, 1.0 + number) for number in range(13)]
    assert [arrive(seen, number, *falling[number]) for number in range(12)] == [True] + [False] * 11
    assert [seen.promotion().number for _ in range(3)] == [1, 2, 3]  # four of twelve
    assert seen.promotion() is None
    assert [arrive(seen, number, *falling[number]) for number in range(4)] == [True, False, False, False]
    assert not arrive(seen, 12, *falling[12])
    assert [(p.number, p.rung.fidelity) for p in (seen.promotion(), seen.promotion())] == [(1, 3), (4, 1)]
    assert seen.ahead(1) == (9,)
    assert seen.ahead(4) == (3, 9)
    seen.settle(())
    assert seen.promotion() is None


def test_who_has_ended_is_seen_but_never_goes_on():
    seen = rungs()
    arrive(seen, 0, 0.5, 5.0)
    arrive(seen, 1, 0.4, 6.0)
    seen.close(1)
    arrive(seen, 2, 0.3, 7.0)
    assert seen.promotion() is None


def test_a_rung_is_settled_once_none_of_those_that_run_is_to_come_there():
    seen = rungs(fidelities=(1, 3, 9), reduction=3)
    for number in range(4):
        arrive(seen, number, 0.1 + number / 10, 5.0 - number)  # each better than all before, so the last is the best
    assert [seen.ahead(number) for number in (0, 3)] == [(3, 9), (3, 9)]
    assert seen.promotion() is None  # two of four have gone on; the best two are others
    seen.settle({0, 9})
    assert seen.promotion() is None  # 9 has not come to the first rung
    seen.settle({0})
    assert seen.promotion().number == 2
    assert seen.promotion() is None


def test_asha_looks_at_the_first_measured_objective_and_none_lets_everyone_go_on():
    points = [(0.5, 5.0), (0.4, 6.0), (0.3, 1.0)]
    for scheduler, expected in (("pareto", [True, False, True]), ("asha", [True, False, False]), ("none", [True] * 3)):
        seen = rungs(scheduler=scheduler)
        assert [arrive(seen, number, *point) for number, point in enumerate(points)] == expected, scheduler


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=400), st.integers(2, 4))
def test_what_a_crash_forgets_is_found_again_from_what_was_written(points, reduction):
    """Beyond 200 arrivals a rung is not ranked at every one of them; a restart must not change at which."""
    seen, written, promoted = rungs(reduction=reduction), {}, []
    for number, (accuracy, macs) in enumerate(points):
        rung = seen.judge(number, {"accuracy": accuracy, "macs": macs}, ("accuracy",))
        written[number] = rung
        if number % 3 == 0 and (promotion := seen.promotion()) is not None:
            promoted.append(promotion.number)
            written[promotion.number] = promotion.rung
    again = rungs(reduction=reduction)
    for number, rung in sorted(written.items(), key=lambda item: item[1].place):
        again.enter(number, Rung(**vars(rung)))
    rest, expected = [], []
    while (promotion := again.promotion()) is not None:
        rest.append(promotion.number)
    while (promotion := seen.promotion()) is not None:
        expected.append(promotion.number)
    assert rest == expected
    assert not set(rest) & set(promoted)
    seen.settle(())
    went_on = sum(rung.goes_on for rung in written.values()) + len(expected)
    while seen.promotion() is not None:
        went_on += 1
    assert went_on >= -(-len(points) // reduction)
