"""SearchSpace: counted exactly, sampled by seed, enumerated; asks only what makes a difference."""

import itertools
import random
from typing import Any

import pytest

from spaces import Architecture, Parameter, SearchSpace, SpaceError, load

QUICK: dict[str, Any] = {
    "name": "quick",
    "data": {"source": "digits", "image_size": 32},
    "backbones": [
        "resnet10t",
        "convnext_atto",
        {"name": "vit_tiny_patch16_224", "kwargs": {"img_size": 32, "patch_size": 8, "depth": [2, 4]}},
    ],
    "dimensions": {
        "scaling": ["none", "rezero", "layerscale"],
        "width": [0.25, 0.5, 1.0],
        "group_size": ["keep"],
        "sharing": ["none", "stage"],
        "norm": ["keep"],
        "layer_attention": {"kind": ["none"]},
    },
    "objectives": {"accuracy": "maximize", "macs": "minimize"},
    "search": {"trials": 4, "fidelity": {"max": 1}},
}


def space(**changes: Any) -> SearchSpace:
    return SearchSpace(load({**QUICK, **changes}))


def test_the_size_is_the_number_of_distinct_networks() -> None:
    quick = space()
    # resnet10t: 3 scalings x 3 widths (one block a stage: no sharing); convnext: 3 x 3 x 2; vit: 2 depths x 18
    assert quick.size == 9 + 18 + 36
    ids = [architecture.id for architecture in quick]
    assert len(ids) == len(set(ids)) == quick.size
    assert quick.notes == ["resnet10t: sharing makes no difference beyond none"]


def test_the_size_equals_that_of_the_naive_product_without_its_duplicates() -> None:
    quick = space(backbones=["resnet18"], dimensions={"width": {"choices": [0.5, 0.52, 1.0], "per": "stage"}})
    naive = {
        Architecture(backbone="resnet18", choices={"width": list(widths)}).id
        for widths in itertools.product([0.5, 0.52, 1.0], repeat=4)
    }
    assert quick.size == len(naive)
    assert {architecture.id for architecture in quick} == naive


def test_all_that_layer_attention_has_can_be_searched() -> None:
    knobs: dict[str, list[Any]] = {
        "kind": ["mrla_light", "ela"],
        "rule": ["beta_quantile", "none"],
        "skip_threshold": [0.3, 0.6],
        "warm_up": [0.1, 0.5],
        "probe_every": [0, 5],
        "head_dim": [0, 4, 16],
    }
    kwargs = {"layers": [3, 3, 3], "channels": [8, 8, 8]}
    fixed = {name: [value] for name, value in kwargs.items()}
    attention = space(
        backbones=[{"name": "cifar_resnet20", "kwargs": fixed}],
        dimensions={"width": {"choices": [0.5, 1.0], "per": "network"}, "layer_attention": knobs},
    )
    naive = set()
    for width, *values in itertools.product([0.5, 1.0], *knobs.values()):
        choice = dict(zip(knobs, values, strict=True))
        if choice["kind"] == "mrla_light":
            choice = {name: choice[name] for name in ("kind", "head_dim")}
        choices = {"width": width, "layer_attention": choice}
        naive.add(Architecture(backbone="cifar_resnet20", kwargs=kwargs, choices=choices).id)
    # by width: heads of light are 32 or 16, or 4, 16 (of 16 channels also as published); of ela 16, or 4
    assert len(naive) == (3 + 2 * 9) + (2 + 2 * 9) == attention.size
    assert {architecture.id for architecture in attention} == naive


def test_sampling_is_seeded_and_reaches_everything_with_every_choice_in_words() -> None:
    quick = space()
    one, two = random.Random(3), random.Random(3)
    first = [quick.sample(one) for _ in range(1000)]
    assert first == [quick.sample(two) for _ in range(1000)]
    assert all(set(architecture.choices) == set(quick.file.dimensions) for architecture in first)
    assert len({architecture.id for architecture in first}) == quick.size


def test_only_active_decisions_are_asked_and_equal_names_have_equal_choices() -> None:
    quick, seen, asked = space(), {}, {}
    rng = random.Random(0)
    for _ in range(100):
        names = []

        def choose(parameter: Parameter, names: list[str] = names) -> Any:
            names.append(parameter.name)
            assert seen.setdefault(parameter.name, parameter.choices) == parameter.choices
            return rng.choice(parameter.choices)

        asked[quick.decide(choose).backbone] = names
    assert asked["resnet10t"] == ["backbone", "width", "scaling"]
    assert asked["convnext_atto"] == ["backbone", "width", "sharing", "scaling"]
    assert asked["vit_tiny_patch16_224"] == ["backbone", "vit_tiny_patch16_224.depth", "width", "sharing", "scaling"]


def test_answers_lead_back_to_the_same_architecture() -> None:
    quick = space()
    for seed in range(20):
        answers = quick.answers(random.Random(seed))
        again = quick.decide(lambda parameter, answers=answers: answers[parameter.name])  # type: ignore[misc]
        assert again == quick.sample(random.Random(seed))


def test_equal_backbones_under_two_names_are_counted_once() -> None:
    twice = space(backbones=["resnet10t", {"name": "resnet10t", "kwargs": {"drop_path_rate": [0.0, 0.1]}}])
    assert twice.size == 2 * 9
    assert len({architecture.id for architecture in twice}) == 18


def test_a_choice_that_does_not_apply_is_left_out_with_the_reason() -> None:
    mixed = space(backbones=["resnet10t", "vgg11"], dimensions={"scaling": ["keep", "rezero"]})
    assert mixed.size == 3
    assert "vgg11: scaling rezero is left out: it has no residual branches" in mixed.notes


def test_what_only_some_arguments_forbid_is_left_out_for_those() -> None:
    kwargs = {"img_size": 32, "patch_size": 8, "depth": [2, 0]}
    mixed = space(
        backbones=[{"name": "vit_tiny_patch16_224", "kwargs": kwargs}], dimensions={"scaling": ["keep", "rezero"]}
    )
    assert mixed.size == 3
    assert len({architecture.id for architecture in mixed}) == 3


def test_a_dimension_of_which_nothing_applies_is_an_error() -> None:
    with pytest.raises(SpaceError) as caught:
        space(backbones=["vgg11"], dimensions={"scaling": ["rezero", "layerscale"]})
    assert str(caught.value) == (
        "dimensions.scaling: no choice applies to vgg11: it has no residual branches; add 'keep', which always applies"
    )


def test_a_backbone_that_cannot_be_built_is_an_error() -> None:
    with pytest.raises(SpaceError, match=r"^backbones\[0\]: timm cannot build vit_tiny_patch16_224\(depth='two'\)"):
        space(backbones=[{"name": "vit_tiny_patch16_224", "kwargs": {"depth": "two"}}])


def test_more_arguments_than_can_be_looked_at_are_an_error() -> None:
    kwargs = {name: [number / 100 for number in range(40)] for name in ("drop_rate", "drop_path_rate")}
    with pytest.raises(SpaceError, match=r"backbones\[0\].kwargs: 1,600 combinations of arguments"):
        space(backbones=[{"name": "resnet10t", "kwargs": kwargs}])


def test_a_space_of_plain_choices_needs_no_backbone() -> None:
    plain = SearchSpace(
        load(
            {
                "name": "plain",
                "dimensions": {"a": ["x", "y"], "b": [1, 2, 3]},
                "objectives": {"accuracy": "maximize", "cost": "minimize"},
                "search": {"trials": 4, "fidelity": {"max": 1}},
            }
        )
    )
    assert plain.size == 6
    assert next(iter(plain)) == Architecture(choices={"a": "x", "b": 1})
