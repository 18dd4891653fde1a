"""Closed forms, brute force, and the laws that any points must obey."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from search.pareto import Objectives, hypervolume, knee, non_dominated, ranks, spread_order

OBJECTIVES = Objectives(directions={"accuracy": "maximize", "macs": "minimize"})


@st.composite
def points(draw, dimensions=(1, 2, 3, 4), most=14):
    """Few distinct values, so that ties, equal points and chains are common."""
    shape = (draw(st.integers(0, most)), draw(st.sampled_from(dimensions)))
    return draw(arrays(np.float64, shape, elements=st.integers(0, 5).map(float)))


def dominates(a, b) -> bool:
    return bool((a <= b).all() and (a < b).any())


def volume_by_inclusion(given, reference):
    """Inclusion and exclusion over all subsets of the boxes."""
    total = 0.0
    for size in range(1, len(given) + 1):
        for subset in itertools.combinations(given, size):
            sides = np.maximum(reference - np.max(subset, axis=0), 0.0)
            total += (-1) ** (size + 1) * float(np.prod(sides))
    return total


def test_signs_flip_in_one_place():
    values = [{"accuracy": 0.9, "macs": 3.0, "params": 1.0}, {"macs": 1.0, "accuracy": 0.5}]
    assert OBJECTIVES.minimised(values).tolist() == [[-0.9, 3.0], [-0.5, 1.0]]
    assert OBJECTIVES.minimised([]).shape == (0, 2)


def test_a_missing_objective_is_named():
    with pytest.raises(ValueError, match=r"no value for objective 'macs'; there are \['accuracy'\]"):
        OBJECTIVES.minimised([{"accuracy": 0.5}])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_never_values(bad):
    for refused in (ranks, non_dominated, spread_order):
        with pytest.raises(ValueError, match="NaN and infinity are not values"):
            refused([[0.0, bad]])
    with pytest.raises(ValueError, match="NaN and infinity are not values"):
        hypervolume([[0.0, 1.0]], [bad, 2.0])
    with pytest.raises(ValueError, match="NaN and infinity are not values"):
        OBJECTIVES.minimised([{"accuracy": bad, "macs": 1.0}])


def test_points_have_two_axes():
    with pytest.raises(ValueError, match=r"shape \(n, d\), not \(2,\)"):
        ranks([1.0, 2.0])


@given(points())
def test_the_front_is_what_nothing_dominates(given):
    expected = [not any(dominates(other, point) for other in given) for point in given]
    assert non_dominated(given).tolist() == expected


@given(points())
def test_ranks_peel_one_front_after_the_other(given):
    left, expected = list(range(len(given))), {}
    for rank in itertools.count():
        if not left:
            break
        front = [i for i in left if not any(dominates(given[j], given[i]) for j in left)]
        expected |= dict.fromkeys(front, rank)
        left = [i for i in left if i not in front]
    assert ranks(given).tolist() == [expected[i] for i in range(len(given))]


@given(points(dimensions=(2,), most=40))
def test_two_objectives_rank_as_any_number_does(given):
    wider = np.hstack([given, np.zeros((len(given), 1))])
    assert ranks(given).tolist() == ranks(wider).tolist()


@given(points(), st.integers(0, 4))
def test_ranks_beyond_the_deepest_are_one(given, deepest):
    assert ranks(given, deepest=deepest).tolist() == np.minimum(ranks(given), deepest + 1).tolist()


@given(points(), st.randoms(use_true_random=False))
def test_order_of_points_does_not_matter(given, random):
    order = random.sample(range(len(given)), len(given))
    assert ranks(given[order]).tolist() == ranks(given)[order].tolist()
    reference = np.full(given.shape[1], 6.0)
    assert hypervolume(given[order], reference) == pytest.approx(hypervolume(given, reference))


def test_hypervolume_in_closed_form():
    assert hypervolume([[1.0, 1.0]], [3.0, 4.0]) == 6.0
    staircase = [[i, 3.0 - i] for i in range(4)]  # boxes of a staircase of unit steps: 4 + 3 + 2 + 1
    assert hypervolume(staircase, [4.0, 4.0]) == 10.0
    assert hypervolume([[0.0, 0.0, 0.0]], [1.0, 2.0, 3.0]) == 6.0
    corners = [[0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 0.0]]  # of the cube [0, 2]^3: 3 * 2 - 3 + 1
    assert hypervolume(corners, [2.0, 2.0, 2.0]) == 4.0
    assert hypervolume([], [1.0, 1.0]) == 0.0
    assert hypervolume([[1.0, 0.0], [2.0, 2.0]], [1.0, 1.0]) == 0.0  # on the edge, and beyond it
    assert hypervolume([[0.25]], [1.0]) == 0.75


@settings(max_examples=60)
@given(points(most=6))
def test_hypervolume_is_inclusion_and_exclusion(given):
    reference = np.full(given.shape[1], 4.5)  # some points lie beyond it
    assert hypervolume(given, reference) == pytest.approx(volume_by_inclusion(given, reference))


@given(points(), st.data())
def test_hypervolume_never_falls_and_only_the_front_counts(given, data):
    reference = np.full(given.shape[1], 5.0)
    before = hypervolume(given, reference)
    assert hypervolume(given[non_dominated(given)], reference) == pytest.approx(before)
    new = data.draw(arrays(np.float64, (1, given.shape[1]), elements=st.integers(0, 5).map(float)))
    assert hypervolume(np.vstack([given, new]), reference) >= before - 1e-9


@given(points())
def test_spread_order_is_an_order_that_begins_with_the_best(given):
    order = spread_order(given)
    assert sorted(order.tolist()) == list(range(len(given)))
    if len(given):
        assert given[order[0], 0] == given[:, 0].min()


@given(points(dimensions=(2, 3)))
def test_every_prefix_of_the_spread_covers_all_points_as_well_as_its_own_gaps(given):
    """An epsilon-net: no point is farther from the prefix than the members of the prefix from each other."""
    span = np.ptp(given, axis=0) if len(given) else np.ones(given.shape[1])
    scaled = given / np.where(span > 0, span, 1.0)
    order = spread_order(given)
    for length in range(2, len(given) + 1):
        net = scaled[order[:length]]
        covers = max(np.linalg.norm(net - point, axis=1).min() for point in scaled)
        gaps = min(np.linalg.norm(a - b) for a, b in itertools.combinations(net, 2))
        assert covers <= gaps + 1e-9


def test_the_knee_of_an_arc_is_its_middle():
    angles = np.linspace(0, np.pi / 2, 9)
    arc = 1 - np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert knee(arc) == 4
    assert knee(arc[::-1] * [1e9, 1e-3] + [5.0, -7.0]) == 4  # whatever the units


@pytest.mark.parametrize(
    ("front", "expected"),
    [
        ([[0, 1], [0.2, 0.3], [0.5, 0.2], [1, 0]], 1),  # distances 0, 0.5, 0.3, 0 (times the square root of a half)
        ([[0, 1], [0.1, 0.95], [0.95, 0.1], [1, 0]], 0),  # it bends outwards: the extremes are nearest to the ideal
        ([[0, 1, 1], [1, 0, 1], [1, 1, 0], [0.2, 0.7, 0.9], [0.5, 0.5, 0.5]], 4),
        ([[0, 2, 4], [0, 2, 4]], 0),
        ([[0, 0, 3], [1, 1, 0.5], [2, 4, 0]], 1),  # one point is best twice: no plane
        ([[3.0]], 0),
    ],
)
def test_the_knee_is_farthest_from_the_plane_through_the_extremes(front, expected):
    assert knee(front) == expected


@given(points(dimensions=(2, 3)).filter(len))
def test_the_knee_is_the_same_in_any_order(given_points):
    front = np.unique(given_points[non_dominated(given_points)], axis=0)
    turned = front[::-1]
    assert 0 <= knee(front) < len(front)
    if front.shape[1] == 2 and len(front) > 2:
        assert np.isclose(scaled(front)[knee(front)].sum(), scaled(turned)[knee(turned)].sum())


def scaled(front):
    return (front - front.min(axis=0)) / np.ptp(front, axis=0)
