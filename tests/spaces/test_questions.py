"""Questions: parameters are asked only of kinds that take them, and what is counted is what there is."""

import itertools
import random
from typing import Any

import pytest

from spaces import Architecture, Parameter, SearchSpace, SpaceError, load
from spaces.anatomy import anatomy_of
from spaces.techniques import TECHNIQUES

RESNET: dict[str, Any] = {"layers": [1, 2, 1, 1], "channels": [16, 24, 32, 48]}
DENSE: dict[str, Any] = {"block_config": [2, 3], "growth_rate": 8}


def space(backbone: str, kwargs: dict[str, Any], dimensions: dict[str, Any]) -> SearchSpace:
    lists = {name: [value] if isinstance(value, list) else value for name, value in kwargs.items()}
    return SearchSpace(
        load(
            {
                "name": "asked",
                "data": {"source": "digits", "image_size": 32},
                "backbones": [{"name": backbone, "kwargs": lists}],
                "dimensions": dimensions,
                "objectives": {"accuracy": "maximize"},
                "search": {"trials": 1, "fidelity": {"max": 1}},
            }
        )
    )


def asked(searched: SearchSpace, seed: int) -> tuple[Architecture, dict[str, tuple[Any, ...]]]:
    names: dict[str, tuple[Any, ...]] = {}
    rng = random.Random(seed)

    def choose(parameter: Parameter) -> Any:
        names[parameter.name] = parameter.choices
        return rng.choice(parameter.choices)

    return searched.decide(choose), names


def test_a_parameter_is_asked_only_where_the_kind_takes_it() -> None:
    dimension: dict[str, Any] = {
        "kind": ["keep", "rezero", "uniform", "groupwise"],
        "factor": [0.25, 2.0],
        "groups": [2, 4],
    }
    searched = space("resnet10t", {}, {"scaling": dimension})
    seen = set()
    for seed in range(40):
        architecture, names = asked(searched, seed)
        choice = architecture.choices["scaling"]
        kind = choice["kind"] if isinstance(choice, dict) else choice
        seen.add(kind)
        taken = {"uniform": {"scaling.factor"}, "groupwise": {"scaling.groups"}}.get(kind, set())
        assert set(names) == {"scaling", *taken}
        if kind == "uniform":
            assert choice["factor"] in dimension["factor"]
    assert seen == set(dimension["kind"])
    assert searched.size == 2 + 2 + 2


def test_what_a_choice_says_itself_is_not_asked() -> None:
    kinds = ["uniform", {"kind": "uniform", "factor": 4.0}]
    searched = space("resnet10t", {}, {"scaling": {"kind": kinds, "factor": [0.25, 2.0]}})
    assert searched.size == 3
    for seed in range(20):
        architecture, names = asked(searched, seed)
        assert ("scaling.factor" in names) == (architecture.choices["scaling"]["factor"] != 4.0)


def test_values_that_come_to_the_same_are_one() -> None:
    dimension = {"kind": ["groupwise"], "groups": {"low": 1, "high": 9, "step": 1}}
    searched = space("resnet18", {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]}, {"scaling": dimension})
    assert searched.size == 4  # 1, 2, 4 and 8 divide 8 channels


def test_a_parameter_that_no_choice_asks_for_is_noted() -> None:
    searched = space("resnet10t", {}, {"scaling": {"kind": ["keep", "rezero"], "factor": [0.5]}})
    assert searched.notes == ["scaling: factor is asked by none of its choices"]


@pytest.mark.parametrize(
    ("backbone", "kwargs", "dimensions"),
    [
        (
            "resnet18",
            RESNET,
            {
                "width": {"choices": [0.5, 1.0], "per": "stage"},
                "group_size": {"choices": ["keep", 6, 16], "per": "stage"},
            },
        ),
        (
            "resnet18",
            RESNET,
            {"width": {"choices": [0.5, 1.0], "per": "stage"}, "group_size": ["keep", 5, 6, 16, "depthwise"]},
        ),
        (
            "densenet121",
            DENSE,
            {
                "width": {"choices": [0.5, 1.0], "per": "stage"},
                "group_size": {"kind": ["keep", 8, 16], "shuffle": [False, True]},
                "norm": {"choices": ["keep", "group"], "per": "stage"},
                "scaling": {"kind": ["keep", "groupwise"], "groups": [4, 5, 6], "per": "stage"},
            },
        ),
        (
            "densenet121",
            DENSE,
            {
                "width": {"choices": [0.25, 0.5, 1.0], "per": "stage"},
                "group_size": {"choices": ["keep", 1, 3, 8], "per": "stage"},
                "sharing": {"choices": ["none", "stage"], "per": "stage"},
                "scaling": {"kind": ["keep", "se"], "reduction": [4, 16]},
            },
        ),
        (
            "convnext_atto",
            {"depths": [1, 2, 2, 1], "dims": [16, 24, 32, 48]},
            {
                "width": {"choices": [0.5, 1.0], "per": "stage"},
                "sharing": ["none", "stage", "all"],
                "norm": ["keep", "rms"],
            },
        ),
    ],
    ids=["groups", "groups for all", "groups, norms and scales", "dense", "sharing"],
)
def test_the_size_is_that_of_the_naive_product_without_duplicates(
    backbone: str, kwargs: dict[str, Any], dimensions: dict[str, Any]
) -> None:
    """Every choice written out, each a network or not, by its id."""
    searched = space(backbone, kwargs, dimensions)
    walked = [architecture.id for architecture in searched]
    assert searched.exact
    assert searched.size == len(walked) == len(set(walked))
    stages = len(anatomy_of(backbone, kwargs).stages)
    naive = set()
    for choices in itertools.product(*(options(name, given, stages) for name, given in dimensions.items())):
        chosen = dict(zip(dimensions, choices, strict=True))
        naive.add(Architecture(backbone=backbone, kwargs=kwargs, choices=chosen).id)
    assert naive == set(walked)


def options(name: str, given: Any, stages: int) -> list[Any]:
    """The choices that a dimension writes, without asking what they do."""
    if isinstance(given, list):
        return given
    kinds = given.get("kind") or given["choices"]
    knobs = {key: values for key, values in given.items() if key not in ("kind", "choices", "per")}
    single = []
    for kind in kinds:
        taken = [key for key in knobs if TECHNIQUES[name].takes(kind, key)]
        for values in itertools.product(*(knobs[key] for key in taken)):
            single.append({"kind": kind, **dict(zip(taken, values, strict=True))})
    return [list(each) for each in itertools.product(single, repeat=stages)] if given.get("per") == "stage" else single


def test_many_stages_are_counted_without_going_through_them() -> None:
    """Seven stages of four widths and six groupings: 24^7 combinations, most of them different."""
    dimensions = {
        "width": {"choices": [0.25, 0.5, 0.75, 1.0], "per": "stage"},
        "group_size": {"kind": ["keep", 2, 8], "shuffle": [False, True], "per": "stage"},
        "scaling": {"kind": ["keep", "groupwise"], "groups": [2, 4], "per": "stage"},
    }
    searched = space("efficientnet_b0", {}, dimensions)
    assert searched.exact
    assert 10**10 < searched.size < 60**7


def test_where_all_stages_decide_over_one_question_the_size_may_be_a_bound() -> None:
    width = {"choices": [number / 20 for number in range(1, 21)], "per": "stage"}
    searched = space("resnet18", {**RESNET, "channels": [64, 128, 256, 512]}, {"width": width, "group_size": [1, 2, 4]})
    assert not searched.exact
    widths = space("resnet18", {**RESNET, "channels": [64, 128, 256, 512]}, {"width": width}).size
    assert searched.size == 3 * widths < 3 * 20**4
    assert sum(1 for _ in itertools.islice(searched.walks(), 100)) == 100


def test_what_no_network_can_take_is_refused_with_every_reason() -> None:
    with pytest.raises(SpaceError) as caught:
        space("vgg11", {"mlp_ratio": 0.0625}, {"scaling": {"kind": ["rezero", "adaptive"], "removed": ["", "0"]}})
    assert caught.value.reason.startswith("no choice applies to vgg11: it has no residual branches; add 'keep'")
