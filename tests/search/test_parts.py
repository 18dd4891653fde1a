"""Counting by parts comes to what torch counts when everything runs, whatever was seen before and in whatever order."""

import pickle
import random
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from search.costs import parts as parts_module
from search.costs.macs import macs
from search.costs.model_bytes import model_bytes
from search.costs.params import params
from search.costs.parts import Parts
from spaces import Architecture, SearchSpace, SpaceError, build, load
from spaces.build import skeleton
from tests.contracts.counting import torch_macs
from tests.contracts.families import CLASSES, FAMILIES, Family

CATALOG = Path(__file__).resolve().parents[2] / "spaces" / "catalog"
NAMES = sorted(path.name for path in CATALOG.glob("*.yaml"))
WARM = Parts()
CHOICES: dict[str, list[Any]] = {
    "width": [0.5, 0.75, 1.0, 1.5],
    "group_size": ["keep", "depthwise", 4, {"kind": 8, "shuffle": True}],
    "norm": ["keep", "batch", "layer", "group", "rms", "dyt"],
    "sharing": ["none", "stage", {"kind": "cycle", "unique": 2, "scope": "mlp", "transform": True}],
    "scaling": ["keep", "none", "rezero", "se", "eca", "groupwise", {"kind": "adaptive", "conditioned": True}],
    "layer_attention": ["none", "mrla_base", "mrla_light", {"kind": "ela", "skip_threshold": 0.4}],
}

pytestmark = pytest.mark.usefixtures("one_thread")


@cache
def opened(name: str) -> SearchSpace:
    return SearchSpace(load(CATALOG / name))


def side_of(space: SearchSpace) -> int:
    return (space.file.data.image_size if space.file.data else None) or 32


def whole(architecture: Architecture, classes: int) -> nn.Module:
    with torch.device("meta"):
        return build(architecture, classes).requires_grad_(False)


@pytest.mark.parametrize("name", NAMES)
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=4, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_as_a_full_build(name: str, seed: int) -> None:
    space = opened(name)
    size = (3, side_of(space), side_of(space))
    architecture = space.sample(random.Random(seed))
    model, full = skeleton(architecture, 10), whole(architecture, 10)
    expected = torch_macs(full, size)
    assert Parts().macs(model, size) == expected, architecture.label
    assert WARM.macs(model, size) == WARM.macs(model, size) == expected, architecture.label
    assert (params(model), model_bytes(model)) == (params(full), model_bytes(full)), architecture.label


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_family_with_all_that_it_takes(family: Family) -> None:
    rng, size = random.Random(0), (3, family.side, family.side)
    counted = 0
    for _ in range(6):
        choices = {name: rng.choice(offers) for name, offers in CHOICES.items() if rng.random() < 0.5}
        try:
            model = skeleton(family.architecture(**choices), CLASSES)
            expected = torch_macs(model, size)
        except SpaceError:
            continue
        except Exception as error:  # parts that do not fit together
            with pytest.raises(type(error)):
                WARM.macs(model, size)
            continue
        counted += 1
        assert WARM.macs(model, size) == expected, choices
    assert counted


def test_what_is_known_is_not_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    parts, size = Parts(), (3, 32, 32)
    model = skeleton(Architecture(backbone="resnet18"), 10)
    expected = parts.macs(model, size)
    ran: list[type] = []
    forward = nn.Conv2d.forward
    monkeypatch.setattr(nn.Conv2d, "forward", lambda self, x: (ran.append(type(self)), forward(self, x))[1])
    assert parts.macs(skeleton(Architecture(backbone="resnet18"), 10), size) == expected
    assert not ran
    assert parts.macs(skeleton(Architecture(backbone="resnet18"), 10), (3, 64, 64)) > expected
    assert len(ran) > 10


class Block(nn.Module):
    """A layer, with whatever a test puts around it."""

    def __init__(self, work: Callable[["Block", Tensor], Tensor], **settings: Any):
        super().__init__()
        self.layer, self.work = nn.Conv2d(4, 4, 1, bias=False), work
        self.memory: Any = None
        for name, value in settings.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.work(self, x)


def twice(block: Block, x: Tensor) -> Tensor:
    for _ in range(block.times):
        x = block.layer(x)
    return x


def in_turn(block: Block, x: Tensor) -> Tensor:
    """More work at each call, remembered in a list."""
    block.memory.append(x)
    for _ in block.memory:
        x = block.layer(x)
    return x


def growing(block: Block, x: Tensor) -> Tensor:
    """More work at each call, remembered in a number."""
    block.memory += 1
    for _ in range(block.memory):
        x = block.layer(x)
    return x


def squeezing(block: Block, x: Tensor) -> Tensor:
    """Takes an axis from what it was given, in place."""
    return block.layer(x.squeeze_(0))


def counting(holder: list[int]) -> Callable[[Block, Tensor], Tensor]:
    def work(block: Block, x: Tensor) -> Tensor:
        holder[0] += 1
        for _ in range(holder[0]):
            x = block.layer(x)
        return x

    return work


ONE = 4 * 4 * 5 * 5  # of one layer on [1, 4, 5, 5]


def runs(parts: Parts, *blocks: Block) -> int:
    with torch.device("meta"):
        model = nn.Sequential(*blocks).to("meta").eval()
    return parts.macs(model, (4, 5, 5))


def test_settings_tell_modules_apart() -> None:
    parts = Parts()
    assert [runs(parts, Block(twice, times=times)) for times in (1, 3, True, 2, 3)] == [
        times * ONE for times in (1, 3, 1, 2, 3)
    ]
    assert runs(parts, Block(twice, times=2), Block(lambda block, x: x)) == 2 * ONE


@pytest.mark.parametrize("calls", [1, 2])
def test_modules_with_a_memory_run_each_time(calls: int) -> None:
    parts = Parts()
    for _ in range(calls):
        assert runs(parts, *[Block(in_turn, memory=[])] * 3) == (1 + 2 + 3) * ONE
        assert runs(parts, *[Block(growing, memory=0)] * 3) == (1 + 2 + 3) * ONE
        assert runs(parts, *[Block(counting([0]))] * 3) == (1 + 2 + 3) * ONE
        block = Block(growing, memory=0)
        assert [runs(parts, block), runs(parts, block), block.memory] == [ONE, ONE, 0]


def test_hooks_run_each_time() -> None:
    parts, seen = Parts(), []
    block = Block(twice, times=1)
    block.layer.register_forward_hook(lambda module, given, output: (seen.append(1), module.forward(output))[1])
    for _ in range(3):
        assert runs(parts, block, Block(twice, times=1)) == 3 * ONE
    assert len(seen) == 3


def test_a_hook_of_an_empty_module_runs_too() -> None:
    parts, layer = Parts(), nn.Conv2d(4, 4, 1, bias=False).to("meta")
    model = nn.Sequential(nn.Sequential(nn.Sequential(), nn.ReLU())).eval()
    model[0][0].register_forward_hook(lambda module, given, output: layer(output))
    for _ in range(3):
        assert parts.macs(model, (4, 5, 5)) == ONE


def test_a_shape_changed_in_place_is_counted() -> None:
    parts = Parts()
    for _ in range(3):
        assert runs(parts, Block(twice, times=1), Block(squeezing), Block(twice, times=1)) == 3 * ONE


def test_results_are_not_one_object() -> None:
    seen: list[bool] = []

    class Same(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.act = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.ReLU(inplace=True)
            self.seen = seen  # a list: it runs each time

        def forward(self, x: Tensor) -> Tensor:
            one, two = self.one(x), self.two(x)
            seen.append(one is not two and self.act(one) is one)
            return one + two

    parts = Parts()
    for _ in range(3):
        assert parts.macs(Same().to("meta").eval(), (4, 5, 5)) == 2 * ONE
    assert seen == [True] * 3


@pytest.mark.parametrize("warm", [False, True])
def test_what_does_not_fit_fails_and_leaves_the_model(warm: bool) -> None:
    parts, model = Parts(), skeleton(Architecture(backbone="vit_tiny_patch16_224", kwargs={"img_size": 32}), 10)
    if warm:
        assert parts.macs(model, (3, 32, 32))
    with pytest.raises(AssertionError, match="height"):
        parts.macs(model, (3, 40, 40))
    assert all("forward" not in vars(module) for module in model.modules())
    assert parts.macs(model, (3, 32, 32)) == torch_macs(model, (3, 32, 32))


def test_it_forgets_when_pickled_and_when_it_knows_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    model = skeleton(Architecture(backbone="resnet18"), 10)
    parts = Parts()
    first = parts.macs(model, (3, 32, 32))
    size = len(pickle.dumps(parts))
    assert size == len(pickle.dumps(Parts()))
    monkeypatch.setattr(parts_module, "MOST", 50)
    for _ in range(2):
        assert parts.macs(model, (3, 32, 32)) == first
        assert pickle.loads(pickle.dumps(parts)).macs(model, (3, 32, 32)) == first


def networks() -> Iterator[tuple[nn.Module, int]]:
    for family in FAMILIES[:6]:
        yield family.network(), family.side


def test_models_with_weights_in_training_mode() -> None:
    """They are counted as copies on the meta device, in evaluation mode, and stay as they are."""
    for model, side in networks():
        assert model.training
        assert macs(model, (3, side, side), WARM) == torch_macs(model.to("meta"), (3, side, side))
