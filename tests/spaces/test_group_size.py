"""group_size: groups that divide, weights that stay, counts that agree with published networks and formulas."""

import copy

import pytest
import timm
import torch
from timm.layers import Conv2dSame, ScaledStdConv2d, StdConv2d
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from spaces import Architecture, SpaceError, build
from spaces.anatomy import anatomy_of
from spaces.techniques import TECHNIQUES
from spaces.techniques.base import Choice
from spaces.techniques.group_size import Convolution
from spaces.techniques.grouping import regroup, separate

pytestmark = pytest.mark.usefixtures("one_thread")


def canonical(backbone: str, choice: object, **choices: object) -> object:
    architecture = Architecture(backbone=backbone, choices={"group_size": choice, **choices})
    return architecture.canonical.choices.get("group_size", "keep")


def network(backbone: str, choices: dict[str, object], **kwargs: object) -> nn.Module:
    torch.manual_seed(0)
    return build(Architecture(backbone=backbone, kwargs=kwargs, choices=choices), num_classes=4)


def spatial(model: nn.Module, backbone: str) -> list[nn.Conv2d]:
    anatomy = anatomy_of(backbone, {})
    found = [model.get_submodule(path) for stage in range(len(anatomy.stages)) for path in anatomy.convolutions(stage)]
    return [module for module in found if isinstance(module, nn.Conv2d)]


def cost(model: nn.Module) -> tuple[int, int]:
    """Parameters, and multiplications for one image of 64 x 64."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.empty(1, 3, 64, 64, device="meta"))
    return sum(parameter.numel() for parameter in model.parameters()), counter.get_total_flops() // 2


def test_a_wide_resnet50_with_groups_is_resnext50_32x4d() -> None:
    """ResNeXt-50 32x4d (1611.05431, table 1) is a ResNet-50 of doubled bottlenecks in 32 groups: 25.0 M parameters."""
    choices = {"group_size": [4, 8, 16, 32]}
    with torch.device("meta"):
        ours = build(Architecture(backbone="resnet50", kwargs={"base_width": 128}, choices=choices), 1000)
        theirs = timm.create_model("resnext50_32x4d")
    assert {name: p.shape for name, p in ours.named_parameters()} == {n: p.shape for n, p in theirs.named_parameters()}
    assert cost(ours) == cost(theirs)
    assert cost(ours)[0] == 25_028_904


@pytest.mark.parametrize("size", [1, 4, 16])
def test_a_convolution_in_groups_costs_its_group_size_over_its_channels(size: int) -> None:
    with torch.device("meta"):
        plain = network("resnet26", {})
        grouped = network("resnet26", {"group_size": size})
    saved = sum(conv.weight.numel() * (1 - size / conv.in_channels) for conv in spatial(plain, "resnet26"))
    assert cost(plain)[0] - cost(grouped)[0] == saved
    assert all(conv.in_channels // conv.groups == size for conv in spatial(grouped, "resnet26"))
    places = {64: 16**2, 128: 8**2, 256: 4**2, 512: 2**2}  # positions of the output by width
    less = sum(
        conv.weight.numel() * (1 - size / conv.in_channels) * places[conv.in_channels]
        for conv in spatial(plain, "resnet26")
    )
    assert cost(plain)[1] - cost(grouped)[1] == less


def test_depthwise_costs_what_mobilenet_says() -> None:
    """k * k * in + in * out weights in place of k * k * in * out (1704.04861, section 3.1)."""
    with torch.device("meta"):
        plain = network("resnet26", {})
        depthwise = network("resnet26", {"group_size": "depthwise"})
    change = sum(
        conv.in_channels * 9 + conv.in_channels * conv.out_channels - conv.weight.numel()
        for conv in spatial(plain, "resnet26")
    )
    assert cost(depthwise)[0] - cost(plain)[0] == change


@pytest.mark.parametrize(
    ("backbone", "choice", "result"),
    [
        ("resnet10t", 64, ["keep", 64, 64, 64]),  # stage 1 is as wide as that: dense
        ("resnet10t", 5, 4),
        ("resnet10t", 7, 8),
        ("resnet10t", 1000, "keep"),
        ("resnext26ts", 32, "keep"),
        ("resnext26ts", 10_000, [64, 128, 256, 512]),  # groups become one
        ("convnext_atto", 1, "keep"),
        ("convnext_atto", "depthwise", "keep"),
        ("convnext_atto", {"kind": 1, "shuffle": True}, "keep"),  # a shuffle of single channels moves none
        ("resnet10t", {"kind": 6, "shuffle": False}, 8),
        ("resnext26ts", {"kind": 30, "shuffle": True}, {"kind": 32, "shuffle": True}),
        ("test_efficientnet", 10, [12, 8, 12, 8, "keep", 12, "keep"]),
    ],
)
def test_the_canonical_choice_is_what_the_convolutions_get(backbone: str, choice: object, result: object) -> None:
    assert canonical(backbone, choice) == result
    assert canonical(backbone, result) == result


def test_sizes_are_those_at_the_width_that_was_chosen() -> None:
    assert canonical("resnet10t", 64, width=0.5) == ["keep", "keep", 64, 64]
    assert canonical("resnet10t", 12, width=0.75) == 12
    assert canonical("resnet10t", 12) == 16
    model = network("resnet10t", {"group_size": 12, "width": 0.75})
    assert all(conv.in_channels // conv.groups == 12 for conv in spatial(model, "resnet10t"))


def test_equal_ids_are_equal_networks_and_unequal_ids_are_not() -> None:
    seen: dict[str, list[tuple[int, ...]]] = {}
    for size in range(1, 70):
        architecture = Architecture(backbone="test_efficientnet", choices={"group_size": size})
        with torch.device("meta"):
            shapes = [tuple(parameter.shape) for parameter in build(architecture, 4).parameters()]
        assert seen.setdefault(architecture.id, shapes) == shapes
    assert len({str(shapes) for shapes in seen.values()}) == len(seen)


@pytest.mark.parametrize(("inputs", "outputs"), [(24, 16), (16, 24), (30, 30), (7, 7), (5, 15)])
def test_the_nearest_size_divides_and_none_is_nearer(inputs: int, outputs: int) -> None:
    conv = Convolution(inputs=inputs, outputs=outputs, size=inputs)
    for size in range(1, 40):
        near = conv.nearest(size)
        nn.Conv2d(inputs, outputs, 3, groups=inputs // near)  # raises where groups do not divide
        better = [n for n in range(1, inputs + 1) if max(n / size, size / n) < max(near / size, size / near)]
        assert not [n for n in better if inputs % n == 0 and outputs % (inputs // n) == 0]


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize(("old", "new"), [(1, 4), (2, 4), (4, 2), (8, 1), (4, 8)])
def test_trained_weights_stay_where_the_groups_let_them(old: int, new: int, mixed: bool) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 16, 3, padding=1, groups=old)
    dense = torch.zeros(16, 8, 3, 3)
    for out in range(16):
        size = 8 // old
        start = out // (16 // old) * size
        dense[out, start : start + size] = conv.weight[out].detach()
    shuffle = nn.ChannelShuffle(new) if mixed else nn.Identity()
    regroup(conv, new, mixed=mixed, trained=True)
    place = shuffle(torch.arange(16.0).view(1, 16, 1, 1)).flatten().int().tolist()  # of the output that came from a row
    mask = torch.zeros(16, 8, 1, 1)
    for out, row in enumerate(place):
        mask[out, row // (16 // new) * (8 // new) :][: 8 // new] = 1
    images = torch.randn(2, 8, 5, 5)
    bias = torch.empty(16)
    bias[torch.arange(16)] = shuffle(conv.bias.detach().view(1, 16, 1, 1)).flatten()  # type: ignore[union-attr]
    expected = nn.functional.conv2d(images, dense * mask, bias, padding=1)
    assert torch.allclose(shuffle(conv(images)), expected, atol=1e-5)
    if new < old and not mixed:  # wider groups: what is new starts at zero
        assert torch.equal(dense * mask, dense)


def test_a_separable_convolution_is_found_again_and_any_other_approximated_best() -> None:
    torch.manual_seed(0)
    conv, images = nn.Conv2d(6, 10, 3, stride=2, padding=1), torch.randn(2, 6, 8, 8)
    depth, pixel = torch.randn(6, 3, 3), torch.randn(10, 6)
    conv.weight = nn.Parameter(pixel[:, :, None, None] * depth)
    expected = conv(images)
    point = separate(conv, trained=True)
    assert torch.allclose(point(conv(images)), expected, atol=1e-4)
    other = nn.Conv2d(6, 10, 3)
    dense = other.weight.detach().clone()
    point = separate(other, trained=True)
    left = dense - point.weight.detach() * other.weight.detach().transpose(0, 1)
    values = torch.linalg.svdvals(dense.transpose(0, 1).flatten(2))
    assert float(left.square().sum()) == pytest.approx(float(values[:, 1:].square().sum()), rel=1e-4)


@pytest.mark.parametrize("make", [nn.Conv2d, Conv2dSame, StdConv2d, ScaledStdConv2d], ids=lambda make: make.__name__)
@pytest.mark.parametrize("choice", [2, "depthwise"])
def test_outputs_keep_their_variance_and_convolutions_their_class(make: type[nn.Conv2d], choice: Choice) -> None:
    torch.manual_seed(0)
    conv = make(64, 96, 3, stride=2, padding=1, bias=True)
    images = torch.randn(4, 64, 16, 16)
    before = conv(images)
    parts: list[nn.Module] = [conv]
    if choice == "depthwise":
        parts.append(separate(conv, trained=False))
    else:
        regroup(conv, 32, mixed=False, trained=False)
    after = nn.Sequential(*parts)(images)
    assert {type(part) for part in parts} == {make}
    assert after.shape == before.shape
    if make is not StdConv2d:  # whose outputs spread with the fan, for the norm after it
        assert float(after.std().detach()) == pytest.approx(float(before.std().detach()), rel=0.15)
    assert repr(copy.deepcopy(conv)) == repr(conv)
    after.sum().backward()
    assert all(p.grad is not None for part in parts for p in part.parameters())


@pytest.mark.parametrize("backbone", ["resnet10t", "test_efficientnet", "convnext_atto", "test_nfnet"])
@pytest.mark.parametrize("choice", [4, {"kind": 8, "shuffle": True}, "depthwise"], ids=str)
def test_it_learns(backbone: str, choice: object) -> None:
    model = network(backbone, {"group_size": choice}).train()
    images, labels = torch.randn(8, 3, 32, 32), torch.arange(8) % 4
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]


@pytest.mark.parametrize(
    ("backbone", "choice", "message"),
    [
        ("vit_tiny_patch16_224", 4, "it has no spatial convolutions in its blocks"),
        ("mixer_s32_224", "depthwise", "it has no spatial convolutions in its blocks"),
        ("resnet10t", 0, "0 is no group size; give keep, depthwise or a whole number from 1, as 8"),
        ("resnet10t", 2.5, "2.5 is no group size"),
        ("resnet10t", True, "true is no group size"),
        ("resnet10t", "dephtwise", "'dephtwise' is no group size"),
        ("resnet10t", 10**400, "is no group size"),
        ("resnet10t", {"kind": "depthwise", "shuffle": True}, "'shuffle' is no parameter of depthwise"),
        ("resnet10t", {"kind": 4, "shuffle": 2}, "shuffle: 2 is not one of false, true"),
    ],
)
def test_what_cannot_be_says_why(backbone: str, choice: object, message: str) -> None:
    with pytest.raises(SpaceError) as caught:
        build(Architecture(backbone=backbone, choices={"group_size": choice}), 4)
    assert message in str(caught.value)


def test_every_offer_is_a_choice() -> None:
    technique = TECHNIQUES["group_size"]
    offers = technique.offers(anatomy_of("resnet10t", {}))
    assert tuple(technique.check(choice) for choice in offers) == offers
