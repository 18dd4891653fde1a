"""Costs against published numbers and against arithmetic done by hand."""

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search.costs import COSTS, macs, params


@pytest.mark.parametrize(
    ("name", "millions_of_macs", "parameters"),
    [
        ("resnet18", 1814.1, 11_689_512),
        ("convnext_atto", 547.3, 3_695_520),
        ("mobilenetv3_small_100", 56.5, 2_542_856),
        ("efficientnet_b0", 385.8, 5_288_548),
        ("vit_tiny_patch16_224", 1253.7, 5_717_416),
        ("swin_tiny_patch4_window7_224", 4490.6, 28_288_354),
    ],
)
def test_timm_models_at_224(name: str, millions_of_macs: float, parameters: int) -> None:
    model = timm.create_model(name)
    assert macs(model, (3, 224, 224)) / 1e6 == pytest.approx(millions_of_macs, abs=0.05)
    assert params(model) == parameters


def test_fused_attention_counts_as_much_as_its_products() -> None:
    model = timm.create_model("vit_tiny_patch16_224")
    assert all(block.attn.fused_attn for block in model.blocks)
    fused = macs(model, (3, 224, 224))
    for block in model.blocks:
        block.attn.fused_attn = False
    assert macs(model, (3, 224, 224)) == fused


def test_convolutions() -> None:
    plain = nn.Conv2d(8, 16, 3, padding=1)
    grouped = nn.Conv2d(8, 16, 3, stride=2, padding=1, groups=4)
    assert (macs(plain, (8, 10, 12)), params(plain)) == (10 * 12 * 16 * 8 * 9, 16 * 8 * 9 + 16)
    assert (macs(grouped, (8, 10, 12)), params(grouped)) == (5 * 6 * 16 * 2 * 9, 16 * 2 * 9 + 16)


class Attention(nn.Module):
    """One head over rows: [1, 1, T, D] -> [1, 1, T, D]."""

    def __init__(self, width: int):
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)

    def forward(self, images: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(*self.qkv(images).chunk(3, dim=-1))


def test_attention() -> None:
    assert macs(Attention(6), (1, 5, 6)) == 5 * 6 * 18 + 2 * 5 * 5 * 6
    assert params(Attention(6)) == 6 * 18 + 18


def test_shared_weights_are_stored_once_and_used_twice() -> None:
    shared = nn.Conv2d(4, 4, 1, bias=False)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    tied = nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), nn.Conv2d(4, 4, 1, bias=False))
    tied[1].weight = tied[0].weight
    for network in (model, tied):
        assert params(network) == 16
        assert macs(network, (4, 5, 5)) == 2 * 16 * 25


def test_the_model_stays_as_it_is() -> None:
    model = timm.create_model("resnet18", num_classes=10).train()
    before = {name: (tensor, tensor.clone()) for name, tensor in model.state_dict(keep_vars=True).items()}
    state = torch.get_rng_state()
    macs(model, (3, 32, 32))
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    for name, tensor in model.state_dict(keep_vars=True).items():
        assert tensor is before[name][0]
        assert tensor.device.type == "cpu"
        assert torch.equal(tensor, before[name][1])


def test_a_model_without_weights_is_enough() -> None:
    with torch.device("meta"):
        empty = timm.create_model("convnext_atto", num_classes=10)
    full = timm.create_model("convnext_atto", num_classes=10)
    for name, cost in COSTS.items():
        assert cost.name == name
        assert cost.unit
        assert cost(empty, (3, 32, 32)) == cost(full, (3, 32, 32)) > 0
