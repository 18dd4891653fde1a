"""A skeleton is the network that `build` makes, and no two of them have a module in common."""

import gc
import random
import weakref
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spaces import Architecture, SpaceError, build
from spaces.anatomy import anatomy_of
from spaces.build import skeleton
from spaces.techniques.layer_attention.mrla import Following
from spaces.twin import twin, uncollected
from tests.contracts.families import CLASSES, FAMILIES, Family

pytestmark = pytest.mark.usefixtures("one_thread")

CHOICES: dict[str, list[Any]] = {
    "width": [0.5, 0.75, {"kind": 0.7, "multiple": 16}],
    "group_size": ["depthwise", 4, {"kind": 8, "shuffle": True}],
    "norm": ["batch", "layer", "group", "rms", "dyt"],
    "sharing": ["stage", "all", {"kind": "cycle", "unique": 2, "transform": True}],
    "scaling": ["none", "rezero", "se", "eca", {"kind": "groupwise", "groups": 4}, "adaptive"],
    "layer_attention": ["mrla_base", "mrla_light", {"kind": "ela", "skip_threshold": 0.4}],
}


def described(model: nn.Module) -> list[Any]:
    """Everything of a model that can be compared: modules, settings, hooks, shapes, and which tensors are one."""
    numbers: dict[int, int] = {}
    found: list[Any] = []
    for path, module in model.named_modules(remove_duplicate=False):
        settings = {
            name: value
            for name, value in vars(module).items()
            if isinstance(value, bool | int | float | str | tuple | None) and name != "gates"
        }
        hooks = [len(vars(module)[name]) for name in ("_forward_hooks", "_forward_pre_hooks")]
        tensors = [
            (name, tensor.shape, tensor.dtype, tensor.device, numbers.setdefault(id(tensor), len(numbers)))
            for name, tensor in (*module._parameters.items(), *module._buffers.items())
            if tensor is not None
        ]
        found.append((path, type(module), settings, hooks, tensors, sorted(module._non_persistent_buffers_set)))
    return found


def whole(architecture: Architecture, classes: int) -> nn.Module:
    with torch.device("meta"):
        return build(architecture, classes).eval()


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_it_is_what_build_makes(family: Family) -> None:
    rng, compared = random.Random(family.name), 0
    untouched = described(anatomy_of(family.backbone, family.kwargs).model)
    bare = described(skeleton(family.architecture(), CLASSES))
    while compared < 4:
        choices = {name: rng.choice(offers) for name, offers in CHOICES.items() if rng.random() < 0.5}
        try:
            expected = described(whole(family.architecture(**choices), CLASSES))
        except SpaceError:
            continue
        compared += 1
        first = skeleton(family.architecture(**choices), CLASSES)
        assert described(first) == expected, choices
        for module in first.modules():  # whatever is done to one
            module.register_forward_hook(lambda *_: None)
            vars(module).update(changed=1)
            module._parameters.clear()
        assert described(skeleton(family.architecture(**choices), CLASSES)) == expected, choices
    assert described(skeleton(family.architecture(), CLASSES)) == bare
    assert described(anatomy_of(family.backbone, family.kwargs).model) == untouched


def test_for_other_classes_and_channels() -> None:
    for classes, channels in ((10, 3), (7, 1), (1000, 4)):
        architecture = Architecture(backbone="resnet18", choices={"width": 0.5})
        with torch.device("meta"):
            expected = described(build(architecture, classes, channels).eval())
        assert described(skeleton(architecture, classes, channels)) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_classes": 0}, "0 is not a whole number from 1"),
        ({"num_classes": 10, "in_chans": 2.5}, "2.5 is not a whole number from 1"),
    ],
)
def test_refusals(given: dict[str, Any], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        skeleton(Architecture(backbone="resnet18"), **given)


def test_without_a_backbone_there_is_none() -> None:
    with pytest.raises(SpaceError, match="an architecture of plain choices has no network"):
        skeleton(Architecture(choices={"a": 1}), 10)


class Odd(nn.Module):
    """Holds what modules of strangers may hold."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(2, 2), nn.Linear(2, 2)
        self.two.weight = self.one.weight
        self.again = self.one
        self.parts = (self.one, [self.two])
        self.settings = {"deep": [1, {"deeper": (2, [3])}]}
        self.table = torch.zeros(3)
        self.act = self.doubled
        self.one.register_forward_hook(Following(self.two))

    def doubled(self, x: Tensor) -> Tensor:
        return 2 * self.two(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.one(x))


def test_the_collector_is_as_it_was() -> None:
    with uncollected():
        with uncollected():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()


def test_a_skeleton_goes_without_the_collector() -> None:
    architecture = Architecture(backbone="resnet18", choices={"layer_attention": "mrla_base", "scaling": "se"})
    with uncollected():
        model = skeleton(architecture, 10)
        model(torch.empty(1, 3, 64, 64, device="meta"))
        left = [weakref.ref(module) for module in model.modules()]
        del model
        assert not any(module() for module in left)


def test_a_twin_has_all_but_its_tensors_for_itself() -> None:
    model = Odd().eval()
    other, x = twin(model), torch.randn(1, 2)
    assert torch.equal(other(x), model(x))
    ours, theirs = (one.state_dict(keep_vars=True) for one in (model, other))
    assert ours.keys() == theirs.keys()
    assert all(ours[name] is theirs[name] for name in ours)
    assert other.one.weight is other.two.weight is model.one.weight
    assert other.again is other.one is other.parts[0]
    assert other.parts[1][0] is other.two
    assert not {id(module) for module in other.modules()} & {id(module) for module in model.modules()}
    assert other.act.__self__ is other
    (hook,) = other.one._forward_hooks.values()
    assert hook.layer is other.two
    assert type(other._forward_hooks) is OrderedDict
    other.settings["deep"][1]["deeper"][1].append(4)
    assert model.settings == {"deep": [1, {"deeper": (2, [3])}]}
    assert other.table is model.table
    expected = model(x)
    other.two = nn.Identity()
    other.one.register_parameter("weight", nn.Parameter(torch.zeros(2, 2)))
    assert torch.equal(model(x), expected)
