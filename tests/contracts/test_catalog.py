"""A random architecture of every ready space is trained for a step, or was refused with a reason before that."""

import random
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from spaces import Architecture, SearchSpace, SpaceError, build, load
from tests.contracts.families import explained

pytestmark = pytest.mark.usefixtures("one_thread")

CATALOG = Path(__file__).resolve().parents[2] / "spaces" / "catalog"
NAMES = sorted(path.name for path in CATALOG.glob("*.yaml"))


@cache
def opened(name: str) -> SearchSpace:
    return SearchSpace(load(CATALOG / name))


@pytest.mark.parametrize("name", NAMES)
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=4, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_what_is_sampled_trains_or_was_refused(name: str, seed: int) -> None:
    space = opened(name)
    architecture = space.sample(random.Random(seed))
    assert Architecture.from_json(architecture.to_json()).id == architecture.id
    torch.manual_seed(seed)
    try:
        model = build(architecture, num_classes=10).train()
    except SpaceError as error:
        explained(error)
        return
    before = [parameter.detach().clone() for parameter in model.parameters()]
    size = space.file.data.image_size if space.file.data else 0
    images, labels = torch.randn(4, 3, size, size), torch.randint(10, (4,))
    loss: Tensor = nn.functional.cross_entropy(model(images), labels)
    parts: list[Any] = [module for module in model.modules() if hasattr(module, "penalty")]
    loss = sum((part.penalty() for part in parts), loss)
    loss.backward()
    torch.optim.AdamW(model.parameters(), lr=space.file.train.lr).step()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    assert any(not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


def test_every_ready_space_is_counted_exactly() -> None:
    for name in NAMES:
        assert opened(name).exact, name
        assert opened(name).size > opened(name).file.search.trials / 4, name
