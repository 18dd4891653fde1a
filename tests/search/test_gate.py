"""What may be trained is known before training: exact costs against hard bounds, each architecture once."""

import math

import pytest

from search.gate import Gate, limits, said
from spaces import Architecture, InputError, SpaceError
from spaces.schema import Bound

SMALL, LARGE = Architecture(choices={"size": 1}), Architecture(choices={"size": 5})


class Counting:
    """Costs from a function; remembers who asked."""

    def __init__(self, costs):
        self.asked, self._costs = [], costs

    def costs(self, architecture):
        self.asked.append(architecture.id)
        return self._costs(architecture.choices["size"])

    def evaluate(self, architecture, fidelity, seed, checkpoint):
        raise AssertionError("nothing is trained at the gate")


def gate(costs, **constraints):
    evaluator = Counting(costs)
    return evaluator, Gate(evaluator, constraints)


def test_bounds_are_kept_or_named():
    _, checks = gate(lambda size: {"macs": 10 * size, "params": size}, macs=Bound(min=20, max=40), params=Bound(max=4))
    assert checks.check(SMALL).reason == "macs 10 is below min 20"
    assert checks.check(LARGE).reason == "macs 50 is above max 40; params 5 is above max 4"
    within = checks.check(Architecture(choices={"size": 4}))
    assert within.feasible
    assert within.costs == {"macs": 40.0, "params": 4.0}


def test_each_architecture_is_costed_once():
    evaluator, checks = gate(lambda size: {"macs": size})
    for _ in range(3):
        checks.check(SMALL)
        checks.check(Architecture(choices={"size": 1}))
    assert evaluator.asked == [SMALL.id]


def test_a_constraint_on_what_is_not_counted_names_what_is():
    _, checks = gate(lambda size: {"macs": size, "params": size}, mac=Bound(max=1))
    with pytest.raises(InputError, match=r"unknown constraint 'mac'; did you mean 'macs'\? \(allowed: macs, params\)"):
        checks.check(SMALL)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (SpaceError("depth 3 is odd"), "cannot be built: depth 3 is odd"),
        (ValueError("two\nlines"), "cannot be built: ValueError: two lines"),
        (RuntimeError(), "cannot be built: RuntimeError"),
    ],
)
def test_what_cannot_be_built_is_infeasible_with_its_reason(error, reason):
    def costs(size):
        raise error

    checked = gate(costs)[1].check(SMALL)
    assert (checked.reason, dict(checked.costs)) == (reason, {})
    assert reason.endswith(said(error))


def test_a_cost_that_is_no_number_is_no_cost():
    assert gate(lambda size: {"macs": math.nan})[1].check(SMALL).reason == "its macs is nan"


def test_excess_is_a_share_of_the_limit():
    low, high = limits({"macs": Bound(min=10, max=20)})[::-1]
    assert high.excess({"macs": 30}) == 0.5
    assert high.excess({"macs": 15}) == -0.25
    assert low.excess({"macs": 5}) == 0.5
    assert low.excess({"macs": 10}) == 0.0
