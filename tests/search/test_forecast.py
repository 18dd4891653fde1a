"""What architectures cost and what decisions do to it, from costs whose answer is known in closed form."""

import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from rich.console import Console

import spaces
from search.gate import Gate
from search.planning import tables
from search.planning.feasibility import Looked, look
from search.planning.forecast import EVERY, Effect, Extent, Forecast, effects, extents, forecast, sizes, twins
from search.planning.walks import neighbours, walk
from spaces import SearchSpace


def space_of(dimensions: Mapping[str, Any], **more: Any) -> SearchSpace:
    search = {"trials": 4, "fidelity": {"min": 1, "max": 2}}
    return SearchSpace(
        spaces.load(
            {"name": "s", "dimensions": dimensions, "objectives": {"accuracy": "maximize"}, "search": search, **more}
        )
    )


def networks() -> SearchSpace:
    return space_of(
        {
            "width": {"choices": [0.25, 0.5, 1.0], "per": "network"},
            "sharing": {"kind": ["none", "stage", "cycle"], "unique": [2, 3]},
        },
        data={"source": "digits"},
        backbones=["convnext_atto", {"name": "vit_tiny_patch16_224", "kwargs": {"img_size": 32, "depth": [6, 12]}}],
    )


class Product:
    """`macs` is what the factors of all choices come to; `bytes` is nothing where weights are shared."""

    FACTORS: Mapping[str, float] = {"convnext_atto": 10, "stage": 0.5, "cycle": 0.25}

    def costs(self, architecture):
        choices = [architecture.backbone, architecture.kwargs.get("depth", 1), *architecture.choices.values()]
        kinds = [choice["kind"] if isinstance(choice, dict) else choice for choice in choices]
        macs = 1000.0
        for kind in kinds:
            macs *= kind if isinstance(kind, int | float) else self.FACTORS.get(kind, 1)
        return {"macs": macs, "bytes": 0.0 if {"stage", "cycle"} & set(kinds) else 7.0}

    def evaluate(self, architecture, fidelity, seed, checkpoint):
        raise AssertionError("nothing is trained")


def all_of(space: SearchSpace) -> Sequence[Looked]:
    return look(space, Gate(Product(), {}).count, seed=0, deadline_s=60).seen


def by_choice(found: Sequence[Effect]) -> dict[tuple[str, Any], tuple[Any, dict[str, float], int]]:
    return {(each.parameter, each.choice): (each.reference, dict(each.ratios), each.count) for each in found}


def test_what_each_choice_does_with_everything_else_equal() -> None:
    found = by_choice(effects(all_of(networks())))
    depth = "vit_tiny_patch16_224.depth"
    assert {key: (reference, ratios["macs"]) for key, (reference, ratios, _) in found.items()} == {
        ("width", 0.25): (1.0, 0.25),
        ("width", 0.5): (1.0, 0.5),
        ("sharing", "stage"): ("none", 0.5),
        ("sharing", "cycle"): ("none", 0.25),
        ("sharing.unique", 3): (2, 1.0),
        (depth, 12): (6, 2.0),
    }
    assert [key for key in found if key[0] == "sharing"] == [
        ("sharing", "stage"),
        ("sharing", "cycle"),
    ]  # as in the file
    assert found["sharing", "stage"][1]["bytes"] == 0.0
    assert "bytes" not in found["sharing.unique", 3][1]  # nothing times what
    walks = [each.walk.answers for each in all_of(networks())]
    assert found["width", 0.5][2] == sum(answers["width"] == 0.5 for answers in walks)
    assert found[depth, 12][2] == sum(answers.get(depth) == 12 for answers in walks)


def test_a_median_of_pairs() -> None:
    """Three pairs with the ratios 2, 3 and 10; what differs in two decisions is no pair."""
    space = space_of({"a": ["x", "y"], "b": [1, 2, 3]})
    costs = {("x", 1): 1.0, ("x", 2): 1.0, ("x", 3): 1.0, ("y", 1): 2.0, ("y", 2): 3.0, ("y", 3): 10.0}
    sample = [
        Looked(
            walk=walk(space, {"a": a, "b": b}, random.Random(0)), costs={"macs": cost}, reason="", missed=(), excess=0
        )
        for (a, b), cost in costs.items()
    ]
    assert by_choice(effects(sample))["a", "y"] == ("x", {"macs": 3.0}, 3)
    assert by_choice(effects([sample[0], sample[4]])) == {}


def test_extents_by_backbone() -> None:
    found = extents(all_of(networks()))
    assert next(iter(found)) == EVERY
    assert set(found) == {EVERY, "convnext_atto", "vit_tiny_patch16_224"}
    assert found[EVERY]["macs"].max == found["vit_tiny_patch16_224"]["macs"].max == 12_000
    assert found["convnext_atto"]["macs"].max == 10_000
    assert found["vit_tiny_patch16_224"]["macs"].min == 1000 * 6 * 0.25 * 0.25
    assert sum(found[name]["macs"].count for name in found if name != EVERY) == found[EVERY]["macs"].count


def test_extents_of_a_space_of_plain_choices() -> None:
    space = space_of({"a": [1, 2, 3]})
    assert extents(all_of(space)) == {
        EVERY: {
            "macs": Extent(count=3, min=1000, median=2000, max=3000),
            "bytes": Extent(count=3, min=7, median=7, max=7),
        }
    }


def test_three_sizes_of_each_backbone_are_to_be_timed() -> None:
    found = sizes(all_of(networks()))
    timed = {name: [each.costs["macs"] for each in three] for name, three in found.items()}
    assert timed == {"convnext_atto": [625, 2500, 10_000], "vit_tiny_patch16_224": [375, 1500, 12_000]}
    assert [len(three) for three in sizes(all_of(networks())[:1]).values()] == [1]
    assert sizes(all_of(space_of({"a": [1, 2]}))) == {}


def test_twins_take_one_decision_back_and_neighbours_take_one_otherwise() -> None:
    space, rng = networks(), random.Random(3)
    wanted = {"backbone": "vit_tiny_patch16_224", "vit_tiny_patch16_224.depth": 12, "width": 0.5, "sharing": "stage"}
    start = walk(space, wanted, rng)
    assert start.architecture.choices["sharing"] != "none"
    back = [each.answers for each in twins(space, start, rng)]
    assert [each["width"] for each in back].count(1.0) == 1
    assert [each["sharing"] for each in back].count("none") == 1
    assert [each["vit_tiny_patch16_224.depth"] for each in back].count(6) == 1
    others = list(neighbours(space, start, rng))
    assert len(others) == sum(len(labels) - 1 for labels in start.offers.values())
    assert any(each.answers["backbone"] == "convnext_atto" for each in others)
    for each in others:
        if each.answers["backbone"] == "vit_tiny_patch16_224":
            changed = [name for name in start.answers if each.answers.get(name) != start.answers[name]]
            assert len([name for name in changed if not name.startswith("sharing.")]) <= 1


def test_twins_of_a_few_draws_give_pairs_where_chance_gives_none() -> None:
    space, gate, rng = networks(), Gate(Product(), {}), random.Random(1)
    drawn = look(space, gate.count, seed=5, deadline_s=60).seen[:3]
    aside = [
        Looked.of(twin, gate.count(twin.architecture), {}) for each in drawn for twin in twins(space, each.walk, rng)
    ]
    assert len(effects([*drawn, *aside])) > len(effects(drawn))


def whole() -> Forecast:
    space = networks()
    return forecast(space, all_of(space))


def test_the_whole_forecast() -> None:
    found = whole()
    assert (found.exact, found.size) == (True, found.extents[EVERY]["macs"].count)
    assert (found.by, found.smallest.costs["macs"], found.largest.costs["macs"]) == ("macs", 375.0, 12_000.0)
    assert "vit_tiny_patch16_224" in found.smallest.label
    again = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert again["extents"]["convnext_atto"]["macs"]["max"] == 10_000
    assert again["effects"][0]["ratios"]


def test_what_cannot_be_counted_does_not_count() -> None:
    space = networks()
    drawn = all_of(space)
    broken = Looked(walk=drawn[0].walk, costs={}, reason="cannot be built", missed=(), excess=float("inf"))
    assert forecast(space, [broken, *drawn[1:]]).extents[EVERY]["macs"].count == len(drawn) - 1


@pytest.mark.parametrize("width", [80, 200])
def test_tables_for_people(width: int) -> None:
    found = whole()
    console = Console(width=width, record=True, file=None, quiet=False)
    with console.capture() as capture:
        for table in (tables.costs_table(found), tables.models_table(found), tables.effects_table(found)):
            console.print(table)
    text = capture.get()
    assert f"{found.size:,} architectures" in text
    assert "10.00 k" in text
    assert "width" in text
