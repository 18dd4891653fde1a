"""Every technique on every family: what is built runs, learns, can be kept, and costs what it says."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_model, save_model
from torch import nn

from search.costs import macs, params
from spaces import Architecture, SpaceError, build
from spaces.techniques import TECHNIQUES
from tests.contracts.counting import called_macs, stored_parameters
from tests.contracts.families import CLASSES, FAMILIES, Family, explained

pytestmark = pytest.mark.usefixtures("one_thread")

SCHEDULES = ((5e-4, 6), (5e-5, 6), (5e-3, 30))  # rate and steps: one overshoots where another hardly moves
# What `offers` does not say: knobs away from their defaults, one choice a stage, an explicit size.
MORE: dict[str, list[Any]] = {
    "width": [0.75, {"kind": 0.5, "multiple": 4}],
    "group_size": [{"kind": 4, "shuffle": True}],
    "norm": [],
    "sharing": [{"kind": "cycle", "unique": 2, "scope": "mlp", "transform": True}, {"kind": "stage", "norms": True}],
    "scaling": [{"kind": "groupwise", "groups": 4}, {"kind": "adaptive", "conditioned": True}],
    "layer_attention": [{"kind": "ela", "skip_threshold": 0.5, "rule": "percentile"}, {"kind": "ela", "head_dim": 4}],
}
COMPILED = {
    "width": 0.5,
    "group_size": {"kind": 4, "shuffle": True},
    "norm": "dyt",
    "sharing": {"kind": "stage", "transform": True},
    "scaling": {"kind": "adaptive", "conditioned": True},
    "layer_attention": "mrla_light",
}


def effective(family: Family, technique: str) -> list[Any]:
    """The choices that apply and change something; each of the others must say why."""
    plain, found = family.architecture(), []
    for choice in [*TECHNIQUES[technique].offers(family.anatomy), *MORE[technique]]:
        architecture = family.architecture(**{technique: choice})
        try:
            changed = architecture.id != plain.id
        except SpaceError as error:
            explained(error)
            continue
        if changed:
            found.append(choice)
    return found


def trained(model: nn.Module, family: Family, rate: float, steps: int) -> list[float]:
    """Losses of some AdamW steps on one batch; the gradients of the last step are left."""
    images, labels = family.batch()
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images), labels)
        penalties = [module.penalty() for module in model.modules() if hasattr(module, "penalty")]
        sum(penalties, loss).backward()  # type: ignore[arg-type]
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def without_gradient(model: nn.Module) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())}


def same_weights(one: nn.Module, two: nn.Module) -> bool:
    first, second = one.state_dict(), two.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def idle() -> dict[str, set[str]]:
    """By family, the parameters that even the plain backbone does not train; filled as it is asked for."""
    return {}


@pytest.mark.parametrize("technique", TECHNIQUES)
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_choice_is_built_learns_and_is_counted(
    family: Family, technique: str, idle: dict[str, set[str]], tmp_path: Path
) -> None:
    if family.name not in idle:
        plain = family.network().train()
        trained(plain, family, *SCHEDULES[0])
        idle[family.name] = without_gradient(plain)
    for choice in effective(family, technique):
        architecture = family.architecture(**{technique: choice})
        assert Architecture.from_json(architecture.to_json()).id == architecture.id, choice
        model = family.network(**{technique: choice}).train()
        assert same_weights(model, family.network(**{technique: choice})), f"{choice}: the same seed"
        check_costs(model, family, tmp_path, choice)
        check_keeping(model, architecture, family, tmp_path, choice)
        losses = trained(model, family, *SCHEDULES[0])
        assert all(map(math.isfinite, losses)), choice
        dead = {name for name in without_gradient(model) if name not in idle[family.name]}
        assert not dead, f"{choice}: no gradient for {sorted(dead)[:4]}"
        for schedule in SCHEDULES[1:]:
            if min(losses[1:]) >= losses[0]:
                losses = trained(family.network(**{technique: choice}).train(), family, *schedule)
        assert min(losses[1:]) < losses[0], f"{choice}: {losses}"


def check_costs(model: nn.Module, family: Family, folder: Path, choice: Any) -> None:
    save_model(model, str(folder / "model.safetensors"))
    assert params(model) == stored_parameters(folder / "model.safetensors", model), choice
    size = (3, family.side, family.side)
    assert macs(model, size) == called_macs(model, size), choice


def check_keeping(model: nn.Module, architecture: Architecture, family: Family, folder: Path, choice: Any) -> None:
    """Through a state dict, and through a safetensors file, into a network of other weights."""
    images, _ = family.batch()
    model.eval()
    with torch.no_grad():
        expected = model(images[:2])
        torch.manual_seed(9)
        other = build(architecture, CLASSES).eval()
        other.load_state_dict(model.state_dict(), strict=True)
        assert torch.equal(other(images[:2]), expected), choice
        third = build(architecture, CLASSES).eval()
        load_model(third, folder / "model.safetensors", strict=True)
        assert torch.equal(third(images[:2]), expected), choice
    model.train()


@pytest.mark.parametrize("technique", TECHNIQUES)
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_compiled_it_computes_the_same(family: Family, technique: str) -> None:
    architecture = family.architecture(**{technique: COMPILED[technique]})
    try:
        if architecture.id == family.architecture().id:
            return
    except SpaceError:
        return
    model = family.network(**{technique: COMPILED[technique]}).eval()
    images, _ = family.batch()
    torch._dynamo.reset()
    with torch.no_grad():
        expected = model(images[:2])
        found = torch.compile(model, backend="aot_eager")(images[:2])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
