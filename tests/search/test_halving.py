"""Who goes on from a rung: the rule alone, on points that can be drawn on paper."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.halving import Halving, position

BOTH = (0, 1)


def test_the_front_comes_first_and_its_ends_before_its_middle():
    front = [[0.0, 4.0], [1.0, 3.0], [2.0, 2.0], [4.0, 0.0]]
    behind = [[5.0, 5.0], [1.5, 3.5]]
    points = np.array(front + behind)
    places = [position(points, index) for index in range(len(points))]
    assert places[0] == 0  # best in the first objective
    assert places[3] == 1  # farthest from it
    assert sorted(places[:4]) == [0, 1, 2, 3]
    assert places[5] == 4  # dominated by one front
    assert places[4] == 5  # by both


def test_the_first_at_a_rung_goes_on_and_the_second_must_win():
    rule = Halving(reduction=3, objectives=BOTH)
    assert rule.goes_on(np.array([[5.0, 5.0]]), 0)
    assert rule.goes_on(np.array([[5.0, 5.0], [4.0, 4.0]]), 1)
    assert not rule.goes_on(np.array([[5.0, 5.0], [6.0, 6.0]]), 1)


def test_a_cheap_model_survives_by_the_front_and_dies_by_accuracy_alone():
    error_and_cost = np.array([[0.1, 9.0], [0.2, 9.0], [0.3, 9.0], [0.4, 1.0]])
    assert Halving(reduction=2, objectives=BOTH).goes_on(error_and_cost, 3)
    assert not Halving(reduction=2, objectives=(0,)).goes_on(error_and_cost, 3)
    assert Halving(reduction=2, objectives=()).goes_on(error_and_cost, 2)  # nobody is stopped


def test_a_front_of_everything_is_still_halved():
    """Rank alone stops nothing here; the spread keeps the ends and the middle."""
    points = np.array([[float(i), 8.0 - i] for i in range(9)])
    rule = Halving(reduction=3, objectives=BOTH)
    assert [index for index in range(9) if rule.goes_on(points, index)] == [0, 4, 8]


@pytest.mark.parametrize("reduction", [2, 3, 8])
@given(size=st.integers(1, 30), seed=st.integers(0, 99))
def test_just_one_in_so_many_is_good_enough(reduction, size, seed):
    points = np.random.default_rng(seed).random((size, 2))
    rule = Halving(reduction=reduction, objectives=BOTH)
    assert sum(rule.goes_on(points, index) for index in range(size)) == -(-size // reduction)
