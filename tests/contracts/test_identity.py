"""What an id promises: equal ones build equal networks, unequal ones networks that differ in something real."""

import random
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from spaces import SpaceError
from spaces.techniques import TECHNIQUES
from tests.contracts.families import FAMILIES, Family, explained

pytestmark = pytest.mark.usefixtures("one_thread")

CHOICES: dict[str, list[Any]] = {
    "width": [0.5, 0.55, 0.6, 0.75, 1.0, 1.5, 24, 48, {"kind": 0.5, "multiple": 4}, {"kind": 0.7, "multiple": 16}],
    "group_size": [
        "keep",
        1,
        2,
        3,
        4,
        5,
        8,
        16,
        "depthwise",
        {"kind": 4, "shuffle": True},
        {"kind": 1, "shuffle": True},
    ],
    "norm": list(TECHNIQUES["norm"].choices),
    "sharing": [
        *TECHNIQUES["sharing"].choices,
        *({"kind": kind, "unique": unique} for kind in ("sequence", "cycle", "cycle_rev") for unique in (1, 2, 3)),
        *({"kind": "stage", "scope": scope} for scope in ("attention", "mlp", "spatial_conv")),
        {"kind": "stage", "norms": True},
        {"kind": "all", "transform": True},
    ],
    "scaling": [
        *TECHNIQUES["scaling"].choices,
        {"kind": "uniform", "factor": 1.0},
        {"kind": "groupwise", "groups": 1},
        {"kind": "groupwise", "groups": 3},
        {"kind": "groupwise", "groups": 4},
        {"kind": "channel", "penalty": 0.0},
        {"kind": "adaptive", "conditioned": True},
        {"kind": "adaptive", "penalty": 0.0},
    ],
    "layer_attention": [*TECHNIQUES["layer_attention"].choices, {"kind": "ela", "skip_threshold": 0.5}],
}
SMALL = [
    family
    for family in FAMILIES
    if family.name in ("resnet", "convnextv2", "efficientnet", "vit", "densenet", "edgenext")
]


class _Script(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down every operator with its numbers, shapes and the names of the parameters that go in."""

    def __init__(self, model: nn.Module):
        super().__init__()  # type: ignore[no-untyped-call]
        self.lines: list[str] = []
        self._names: dict[int, str] = {}
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            self._names.setdefault(id(tensor), name)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        words = [
            (self._names.get(id(leaf), ""), tuple(leaf.shape)) if isinstance(leaf, Tensor) else leaf
            for leaf in tree_flatten((args, kwargs))[0]
        ]
        self.lines.append(f"{func}{words}")
        return func(*args, **(kwargs or {}))


def described(family: Family, choices: dict[str, Any]) -> tuple[Any, ...]:
    """Everything that makes a network what it is: weights, ties, operators in training and in use, penalty."""
    model = family.network(**choices)
    values = {name: (tuple(t.shape), t.double().sum().item()) for name, t in model.state_dict().items()}
    ties: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        ties.setdefault(id(parameter), []).append(name)
    images, _ = family.batch()
    scripts = []
    for mode in (True, False):
        torch.manual_seed(0)
        with _Script(model.train(mode)) as script:
            model(images[:2])
        scripts.append(script.lines)
    penalties = [float(module.penalty().detach()) for module in model.modules() if hasattr(module, "penalty")]
    settings_ = [repr(module) for module in model.modules() if hasattr(module, "end_epoch")]
    return values, sorted(map(tuple, ties.values())), scripts, penalties, settings_


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Family, dict[str, Any], dict[str, Any]]:
    """Two sets of choices that differ in one dimension, or in how it is said."""
    family = draw(st.sampled_from(SMALL))
    stages = len(family.anatomy.stages)
    name = draw(st.sampled_from(sorted(CHOICES)))
    one, two = (draw(st.sampled_from(CHOICES[name])) for _ in range(2))
    common: dict[str, Any] = {}
    other = draw(st.sampled_from(sorted(CHOICES)))
    if other != name and draw(st.booleans()):
        common = {other: draw(st.sampled_from(CHOICES[other]))}
    if draw(st.booleans()):
        place = draw(st.integers(0, stages - 1))
        rest = [TECHNIQUES[name].default] * stages
        one, two = ([*rest[:place], choice, *rest[place + 1 :]] for choice in (one, two))
    return family, {**common, name: one}, {**common, name: two}


@given(pairs())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_equal_ids_are_equal_networks_and_unequal_ids_are_not(
    given: tuple[Family, dict[str, Any], dict[str, Any]],
) -> None:
    family, one, two = given
    try:
        same = family.architecture(**one).id == family.architecture(**two).id
        first, second = described(family, one), described(family, two)
    except SpaceError as error:
        explained(error)
        return
    assert same == (first == second)


@given(st.sampled_from(SMALL), st.integers(0, 10**6))
@settings(max_examples=15, deadline=None)
def test_any_combination_is_built_or_refused_with_a_reason(family: Family, seed: int) -> None:
    rng = random.Random(seed)
    choices = {name: rng.choice(options) for name, options in CHOICES.items() if rng.random() < 0.6}
    try:
        model = family.network(**choices).train()
    except SpaceError as error:
        explained(error)
        return
    images, labels = family.batch()
    loss = nn.functional.cross_entropy(model(images), labels)
    loss.backward()
    assert torch.isfinite(loss)
