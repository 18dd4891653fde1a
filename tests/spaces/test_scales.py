"""The modules that scale: each computes its formula, in every layout, and tells how strongly its place counts."""

import copy

import pytest
import torch
from timm.layers import EcaModule
from torch import Tensor, nn

from spaces import Architecture, build
from spaces.techniques.scaling import nearest_divisor
from spaces.techniques.scaling.scales import (
    EfficientAttention,
    Gate,
    Learned,
    Scale,
    SqueezeExcite,
    eca_kernel,
    scales_of,
    strengths,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def network(backbone: str, scaling: object) -> nn.Module:
    torch.manual_seed(0)
    return build(Architecture(backbone=backbone, choices={"scaling": scaling}), num_classes=4)


def layouts(x: Tensor) -> list[tuple[Tensor, int]]:
    """[N, C, H, W] as it is, as [N, H, W, C], [N, tokens, C] and [N, C, tokens], with the axes after the channels."""
    return [(x, 2), (x.permute(0, 2, 3, 1), 0), (x.flatten(2).transpose(1, 2), 0), (x.flatten(2), 1)]


@pytest.mark.parametrize("kind", [SqueezeExcite, EfficientAttention, Gate, Learned])
def test_all_layouts_compute_the_same(kind: type[Scale]) -> None:
    x = torch.randn(3, 12, 4, 5)
    special = {
        SqueezeExcite: {"hidden": 3},
        Gate: {"strength": 0.0},
        Learned: {"count": 4, "start": 1.0, "strength": 0},
    }
    outputs = []
    for data, trailing in layouts(x):
        torch.manual_seed(0)
        scale = kind("", trailing, channels=12, device="cpu", **special.get(kind, {}))  # type: ignore[call-arg]
        for parameter in scale.parameters():
            nn.init.normal_(parameter)
        outputs.append(scale(data))
    wanted = layouts(outputs[0])
    assert not torch.allclose(outputs[0], x, atol=1e-2)
    for output, (same, _) in zip(outputs, wanted, strict=True):
        assert torch.allclose(output, same, atol=1e-6)


def test_squeeze_and_excitation_is_equation_3() -> None:
    scale = SqueezeExcite("", 2, channels=8, hidden=2, device="cpu")
    x = torch.randn(2, 8, 3, 3)
    gates = torch.sigmoid(torch.relu(x.mean((2, 3)) @ scale.fc1.weight.T) @ scale.fc2.weight.T)
    assert torch.allclose(scale(x), x * gates[:, :, None, None])
    assert sum(parameter.numel() for parameter in scale.parameters()) == 2 * 8 * 8 // 4


def test_eca_is_that_of_timm() -> None:
    ours, theirs = EfficientAttention("", 2, channels=256, device="cpu"), EcaModule(256)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 256, 3, 3)
    assert torch.allclose(ours(x), theirs(x), atol=1e-6)
    assert [eca_kernel(channels) for channels in (256, 512, 1024, 2048)] == [5, 5, 5, 7]


def test_groups_are_channels_that_follow_each_other() -> None:
    scale = Learned("", 0, channels=6, count=3, start=1.0, strength=0.0, device="cpu")
    scale.gamma.data = torch.tensor([1.0, 2.0, 3.0])
    assert scale(torch.ones(1, 6)).tolist() == [[1, 1, 2, 2, 3, 3]]
    assert [nearest_divisor(12, groups) for groups in (1, 5, 8, 100)] == [1, 4, 6, 12]


def test_the_slimming_penalty_is_s_times_the_sum_of_sizes() -> None:
    model = network("resnet10t", {"kind": "channel", "penalty": 0.01})
    scale = scales_of(model)["layer1.0.bn2"]
    assert isinstance(scale, Learned)
    nn.init.constant_(scale.gamma, -2.0)
    scale.penalty().backward()
    assert float(scale.penalty().detach()) == pytest.approx(0.01 * 2 * 64)
    assert torch.allclose(scale.gamma.grad, torch.full((64,), -0.01))  # type: ignore[arg-type]


def test_a_gate_reaches_zero_counts_by_its_mean_and_can_be_copied_in_training() -> None:
    gate = Gate("", 2, channels=4, strength=0.1, device="cpu")
    x = torch.randn(2, 4, 3, 3)
    assert torch.equal(gate(x), x)
    assert float(gate.penalty().detach()) == pytest.approx(0.1)
    assert float(gate.penalty().detach()) == 0
    nn.init.constant_(gate.gate.weight, 1.0)
    nn.init.constant_(gate.bias, -float(x[0].mean((1, 2)).sum()) - 1e-3)
    out = gate(x)
    assert not out[0].any()
    twin = copy.deepcopy(gate)
    assert torch.equal(twin(x), out)
    gate.penalty().backward()


def test_strengths_are_the_factors_in_order_of_execution() -> None:
    model = network("resnet10t", ["uniform", "channel", "se", {"kind": "adaptive", "conditioned": True}])
    nn.init.constant_(scales_of(model)["layer2.0.bn2"].gamma, -0.25)  # type: ignore[arg-type]
    nn.init.zeros_(scales_of(model)["layer3.0.bn2"].fc2.weight)  # type: ignore[union-attr, arg-type]
    assert {place: set(values) for place, values in strengths(model).items()} == {
        "layer1.0.bn2": {0.5},
        "layer2.0.bn2": {0.25},
    }
    found = strengths(model, torch.randn(8, 3, 64, 64))
    assert list(found) == [f"layer{stage}.0.bn2" for stage in range(1, 5)]
    assert found["layer3.0.bn2"] == [0.5] * 256  # sigmoid(0)
    assert found["layer4.0.bn2"] == [1.0]
    assert model.training
    own = strengths(network("convnext_atto", "keep"))
    assert list(own)[:3] == ["stages.0.blocks.0.gamma", "stages.0.blocks.1.gamma", "stages.1.blocks.0.gamma"]
    assert all(value == pytest.approx(1e-6) for values in own.values() for value in values)
