"""What constraints leave of a space: counted where it is small, estimated and searched for where it is large."""

import itertools
import json
import math
from typing import ClassVar

import pytest
import torch

import spaces
from search.costs import macs, params
from search.gate import Gate
from search.planning import feasibility
from search.planning.feasibility import RARE, UNCOUNTED, Feasibility, look
from spaces import SearchSpace, SpaceError, build
from spaces.schema import Bound

DIGITS = "abcdefghij"
DRAWS = 300


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """A number of draws ends the looking by chance, not the clock: the same on a slow machine."""
    monkeypatch.setattr(feasibility, "MOST", DRAWS)


class Sums:
    """Costs of plain choices: `sum` of all of them, `first` of the first, and one that cannot be built."""

    def costs(self, architecture):
        values = [float(value) for value in architecture.choices.values()]
        if architecture.choices.get("a") == 7:
            raise SpaceError("sevens do not fit")
        return {"sum": sum(values), "first": values[0]}

    def evaluate(self, architecture, fidelity, seed, checkpoint):
        raise AssertionError("nothing is trained")


class Networks:
    """Parameters and multiply-accumulates of one image of 32 pixels; each network is built once."""

    known: ClassVar[dict[str, dict[str, float]]] = {}

    def costs(self, architecture):
        if architecture.id not in self.known:
            with torch.device("meta"):
                model = build(architecture, 10, 1)
            self.known[architecture.id] = {"params": params(model), "macs": macs(model, (1, 32, 32))}
        return self.known[architecture.id]

    def evaluate(self, architecture, fidelity, seed, checkpoint):
        raise AssertionError("nothing is trained")


class Widths(Networks):
    """Without building anything: the widths of all stages, and what is not kept as it is."""

    def costs(self, architecture):
        width = architecture.choices["width"]
        changed = sum(architecture.choices[name] != "keep" for name in ("group_size", "norm", "scaling"))
        return {"width": sum(width) if isinstance(width, list) else 4 * width, "changed": float(changed)}


def plain(names: str, values: range, **constraints: Bound) -> SearchSpace:
    file = spaces.load(
        {
            "name": "plain",
            "dimensions": {name: list(values) for name in names},
            "objectives": {"accuracy": "maximize"},
            "search": {"trials": 4},
        }
    )
    return SearchSpace(file.model_copy(update={"constraints": constraints}))


def catalog(name: str, **constraints: Bound) -> SearchSpace:
    file = spaces.load(f"spaces/catalog/{name}.yaml")
    return SearchSpace(file.model_copy(update={"constraints": constraints}))


def found_in(space: SearchSpace, evaluator, *, enough: float = math.inf) -> Feasibility:
    gate = Gate(evaluator, space.file.constraints)
    return look(space, gate.count, seed=0, deadline_s=300, enough=enough)


def test_a_small_space_is_counted_exactly() -> None:
    space = plain("abc", range(5), sum=Bound(max=6), first=Bound(min=1, max=3))
    found = found_in(space, Sums())
    points = list(itertools.product(range(5), repeat=3))
    heavy = {point for point in points if sum(point) > 6}
    low, high = ({point for point in points if point[0] == end} for end in (0, 4))
    assert (found.whole, found.looked) == (True, 125)
    assert found.feasible == len(set(points) - heavy - low - high)
    assert found.interval == (found.share, found.share)
    assert {each.limit: (each.violated, each.alone) for each in found.bindings} == {
        "sum max 6": (len(heavy), len(heavy - low - high)),
        "first max 3": (len(high), len(high - heavy)),
        "first min 1": (len(low), len(low - heavy)),
        UNCOUNTED: (0, 0),
    }
    assert [each.alone for each in found.bindings] == sorted((each.alone for each in found.bindings), reverse=True)
    assert (found.refusal, found.note) == ("", "")


def test_what_cannot_be_built_stands_in_the_way_too() -> None:
    found = found_in(plain("ab", range(6, 8), sum=Bound(max=13)), Sums())
    assert {each.limit: (each.violated, each.alone) for each in found.bindings} == {
        UNCOUNTED: (2, 2),
        "sum max 13": (0, 0),
    }
    assert found.feasible == 2


def test_nothing_of_a_small_space_is_feasible() -> None:
    found = found_in(plain("abc", range(2, 5), sum=Bound(max=5), first=Bound(max=1)), Sums())
    assert found.refusal == (
        "no architecture of the space meets the constraints (27 looked at, all there are);"
        " closest is a=2 b=2 c=2 with sum 6, max is 5 and first 2, max is 1; widen the constraints or the space"
    )
    assert found.closest is not None
    assert found.closest.excess == pytest.approx(1 / 5 + 1)


def test_nothing_can_be_built() -> None:
    found = found_in(plain("ab", range(7, 8), sum=Bound(max=5)), Sums())
    assert found.refusal.endswith("all there are): none of them can be built and counted")
    assert found.closest is None


def test_the_share_of_a_large_space_is_estimated() -> None:
    """The first of ten digits is below 3 in three of ten, give or take five deviations."""
    found = found_in(plain(DIGITS, range(10), first=Bound(max=2)), Sums())
    low, high = found.interval
    assert (found.whole, found.looked) == (False, DRAWS)
    assert low <= found.share <= high
    assert abs(found.share - 0.3) < 5 * math.sqrt(0.3 * 0.7 / found.looked)
    assert len(found.found) == 8


def test_enough_are_enough() -> None:
    found = found_in(plain(DIGITS, range(10), first=Bound(max=2)), Sums(), enough=5)
    assert found.feasible == len(found.found) == 5
    assert found.looked < 100


def test_a_needle_is_found_by_directed_search() -> None:
    """One in ten billion."""
    found = found_in(plain(DIGITS, range(10), sum=Bound(max=0.5)), Sums())
    assert (found.feasible, found.whole, found.closest, found.refusal) == (0, False, None, "")
    assert set(found.found[0].walk.answers.values()) == {0}
    assert found.share == 0 < found.interval[1] < RARE
    assert found.note.startswith(f"0 of {found.looked:,} architectures looked at meet the constraints (at most ")
    assert "a directed search found one); sum max 0.5 stops" in found.note


def test_the_closest_of_a_large_space_without_feasible_ones() -> None:
    found = found_in(plain(DIGITS, range(1, 7), sum=Bound(max=8)), Sums())
    assert found.closest is not None
    assert found.closest.costs["sum"] == 10
    assert "then the closest changed one decision at a time); closest is a=1 b=1" in found.refusal
    assert "with sum 10, max is 8; widen" in found.refusal


def test_a_window_between_two_limits_is_found() -> None:
    space = plain(DIGITS, range(7), sum=Bound(min=3, max=3), first=Bound(min=2))
    found = found_in(space, Sums())
    assert found.found[0].costs == {"sum": 3.0, "first": found.found[0].costs["first"]}
    assert found.found[0].costs["first"] >= 2


def test_limits_on_what_takes_a_clock_are_left_out() -> None:
    found = found_in(plain("abc", range(3), latency_ms=Bound(max=1e-9)), Sums())
    assert found.share == 1.0


def test_decisions_that_others_bring_along() -> None:
    """cnn.yaml asks each backbone for other things; the narrowest networks, changed in three ways, are very few."""
    space = catalog("cnn", width=Bound(max=2.0), changed=Bound(min=3))
    assert space.size > 10_000
    found = found_in(space, Widths())
    best = found.found[0]
    assert best.costs == {"width": 2.0, "changed": 3.0}
    assert space.decide(lambda parameter: best.walk.answers[parameter.name]) == best.walk.architecture


def test_the_quick_start_as_it_is() -> None:
    found = found_in(catalog("quickstart", params=Bound(max=3e6)), Networks())
    assert (found.whole, found.looked, found.feasible, found.refusal, found.note) == (True, 84, 78, "", "")
    json.dumps(found.to_dict(), allow_nan=False)


def test_the_quick_start_with_hardly_anything_left_and_with_nothing() -> None:
    rare = found_in(catalog("quickstart", params=Bound(max=9_610)), Networks())
    assert rare.note.startswith("1 of 84 architectures looked at meet the constraints; params max 9610 stops 83")
    none = found_in(catalog("quickstart", params=Bound(max=9_000)), Networks())
    assert none.refusal.startswith("no architecture of the space meets the constraints (84 looked at, all there are)")
    assert "closest is vit_tiny_patch16_224" in none.refusal
    assert "params 9610, max is 9000" in none.refusal
    assert json.loads(json.dumps(none.to_dict(), allow_nan=False))["closest"]["costs"]["params"] == 9610
