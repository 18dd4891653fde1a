"""What may be trained is known before training: exact costs against hard bounds, each architecture once."""

import math

import pytest

from search.evaluator import Reading
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


class Measuring:
    """Counts sizes at once and times them when asked; remembers who was timed."""

    def __init__(self, readings):
        self.timed, self._readings = [], readings

    def costs(self, architecture):
        return {"macs": 10 * architecture.choices["size"]}

    def measure(self, architecture):
        self.timed.append(architecture.choices["size"])
        return self._readings(architecture.choices["size"])

    def evaluate(self, architecture, fidelity, seed, checkpoint):
        raise AssertionError("nothing is trained at the gate")


def timed(size):
    return {"latency_ms": Reading(value=2.0 * size, spread=0.02 * size, steady=size < 4)}


def test_what_takes_a_clock_is_measured_once_and_only_where_the_counted_costs_allow_it():
    evaluator = Measuring(timed)
    checks = Gate(evaluator, {"macs": Bound(max=40), "latency_ms": Bound(max=6)})
    sizes = {size: Architecture(choices={"size": size}) for size in (1, 4, 5)}
    for _ in range(2):
        assert checks.check(sizes[1]).costs == {
            "macs": 10.0,
            "latency_ms": 2.0,
            "latency_ms_spread": 0.02,
            "latency_ms_unsteady": 0.0,
        }
        assert checks.check(sizes[4]).reason == "latency_ms 8 is above max 6"
        assert checks.check(sizes[5]).reason == "macs 50 is above max 40"
    assert evaluator.timed == [1, 4]
    assert checks.count(sizes[4]).feasible  # as far as is known without a clock


def test_an_unsteady_value_is_marked_and_used():
    checks = Gate(Measuring(timed), {})
    found = checks.check(Architecture(choices={"size": 5}))
    assert found.feasible
    assert found.costs == {"macs": 50.0, "latency_ms": 10.0, "latency_ms_spread": 0.1, "latency_ms_unsteady": 1.0}


def test_what_cannot_be_measured_is_not_trained():
    def broken(size):
        raise SpaceError("it does not run on 1x3x8x8 float32 on cpu: kernel too large")

    found = Gate(Measuring(broken), {}).check(SMALL)
    assert found.reason.startswith("cannot be measured: it does not run on 1x3x8x8")
    assert found.costs == {"macs": 10.0}


def test_a_constraint_on_what_nobody_measures_names_what_is_known():
    with pytest.raises(InputError, match=r"unknown constraint 'latency'; did you mean 'latency_ms'\?"):
        Gate(Measuring(timed), {"latency": Bound(max=1)}).check(SMALL)
