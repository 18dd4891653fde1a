"""What an id promises: equal ones build equal networks, unequal ones networks that differ in something real."""

import random
from itertools import combinations
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
    "layer_attention": [
        *TECHNIQUES["layer_attention"].choices,
        {"kind": "ela", "skip_threshold": 0.5},
        {"kind": "ela", "rule": "random", "warm_up": 0.5},
        {"kind": "ela", "rule": "none", "probe_every": 0},
        {"kind": "ela", "head_dim": 16},
        {"kind": "mrla_base", "head_dim": 3},
        {"kind": "mrla_light", "head_dim": 5},
    ],
}
SMALL = [
    family
    for family in FAMILIES
    if family.name
    in ("resnet", "convnextv2", "efficientnet", "mobilenetv3", "vit", "swin", "mixer", "densenet", "vgg", "edgenext")
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
    parts: list[Any] = [module for module in model.modules() if hasattr(module, "penalty")]
    penalties = [float(part.penalty().detach()) for part in parts]
    settings_ = [repr(module) for module in model.modules() if hasattr(module, "end_epoch")]
    return values, sorted(map(tuple, ties.values())), scripts, penalties, settings_


@st.composite
def alternatives(draw: st.DrawFn) -> tuple[Family, list[dict[str, Any]]]:
    """Sets of choices that differ in one dimension, for the network or for a stage, or in how it is said."""
    family = draw(st.sampled_from(SMALL))
    name, other = (draw(st.sampled_from(sorted(CHOICES))) for _ in range(2))
    options = draw(st.lists(st.sampled_from(CHOICES[name]), min_size=4, max_size=4, unique_by=repr))
    common: dict[str, Any] = {other: draw(st.sampled_from(CHOICES[other]))} if draw(st.booleans()) else {}
    if draw(st.booleans()):
        stages = [TECHNIQUES[name].default] * max(1, len(family.anatomy.stages))
        place = draw(st.integers(0, len(stages) - 1))
        options = [[*stages[:place], option, *stages[place + 1 :]] for option in options]
    return family, [{**common, name: option} for option in options]


@given(alternatives())
@settings(max_examples=35, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
def test_equal_ids_are_equal_networks_and_unequal_ids_are_not(given: tuple[Family, list[dict[str, Any]]]) -> None:
    family, alternatives = given
    found: list[tuple[dict[str, Any], str, tuple[Any, ...]]] = []
    for choices in alternatives:
        try:
            found.append((choices, family.architecture(**choices).id, described(family, choices)))
        except SpaceError as error:
            explained(error)
    for (one, first, network), (two, second, another) in combinations(found, 2):
        assert (first == second) == (network == another), f"{family.name}: {one} and {two}"


@given(st.sampled_from(SMALL), st.integers(0, 10**6))
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
def test_any_combination_is_built_or_refused_with_a_reason(family: Family, seed: int) -> None:
    rng = random.Random(seed)
    choices = {name: rng.choice(options) for name, options in CHOICES.items() if rng.random() < 0.6}
    try:
        model = family.network(**choices).train()
    except SpaceError as error:
        explained(error)
        refused = error.reason
    else:
        trained(model, family)
        refused = ""
    # each technique knows what it cannot do, without a network that has to fail first
    assert "does not fit together" not in refused, f"{family.name}: {choices}: {refused}"


def trained(model: nn.Module, family: Family) -> None:
    images, labels = family.batch()
    loss: Tensor = nn.functional.cross_entropy(model(images), labels)
    parts: list[Any] = [module for module in model.modules() if hasattr(module, "penalty")]
    loss = sum((part.penalty() for part in parts), loss)
    loss.backward()
    assert torch.isfinite(loss)
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
