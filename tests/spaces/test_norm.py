"""norm: every kind in every layout computes its formula, keeps gains and activations, and learns."""

import json

import pytest
import torch
from torch import Tensor, nn

from spaces import Architecture, SpaceError, build
from spaces.anatomy import anatomy_of
from spaces.techniques.norms import DyT, groups, replaced

pytestmark = pytest.mark.usefixtures("one_thread")

KINDS = ("batch", "layer", "group", "rms", "dyt")
SMALL_VIT: dict[str, object] = {"img_size": 32, "patch_size": 8, "depth": 2}


def canonical(backbone: str, choice: object, **kwargs: object) -> object:
    architecture = Architecture(backbone=backbone, kwargs=kwargs, choices={"norm": choice})
    return architecture.canonical.choices.get("norm", "keep")


def network(backbone: str, norm: object, **kwargs: object) -> nn.Module:
    torch.manual_seed(0)
    return build(Architecture(backbone=backbone, kwargs=kwargs, choices={"norm": norm}), num_classes=4)


def formula(kind: str, x: Tensor) -> Tensor:
    """Each kind as its paper has it, on [N, C, positions], without gain and bias."""
    if kind == "dyt":
        return torch.tanh(0.5 * x)
    if kind == "rms":
        return x / (x.square().mean(1, keepdim=True) + 1e-6).sqrt()
    if kind == "group":
        parts = x.reshape(len(x), groups(x.shape[1], x.shape[2]), -1, x.shape[2])
        centred = parts - parts.mean((2, 3), keepdim=True)
        return (centred / (centred.square().mean((2, 3), keepdim=True) + 1e-5).sqrt()).flatten(1, 2)
    axes = (0, 2) if kind == "batch" else (1,)
    centred = x - x.mean(axes, keepdim=True)
    variance: Tensor = centred.square().mean(axes, keepdim=True)
    return centred / (variance + (1e-5 if kind == "batch" else 1e-6)).sqrt()


LAYOUTS = {
    "NCHW": (nn.BatchNorm2d, (4, 40, 3, 5), False),
    "NCL": (nn.BatchNorm1d, (4, 40, 7), False),
    "NLC": (nn.LayerNorm, (4, 7, 40), True),
    "NHWC": (nn.LayerNorm, (4, 3, 5, 40), True),
    "NC": (nn.BatchNorm1d, (4, 40), True),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_kind_computes_its_formula_in_every_layout(kind: str, layout: str) -> None:
    torch.manual_seed(0)
    make, shape, last = LAYOUTS[layout]
    old, x = make(40), torch.randn(shape) * 3 + 1
    nn.init.normal_(old.weight)
    nn.init.normal_(old.bias)
    positions = x.numel() // 160
    new = replaced(old, kind, rank=len(shape), last=last, positions=positions)
    flat = (x.movedim(-1, 1) if last else x).reshape(4, 40, positions)
    expected = formula(kind, flat) * old.weight[:, None] + (0 if kind == "rms" else old.bias[:, None])
    got = new(x)
    assert got.shape == x.shape
    got = (got.movedim(-1, 1) if last else got).reshape(4, 40, positions)
    assert torch.allclose(got, expected, atol=1e-5)
    assert new.weight is old.weight
    if kind == "batch":
        for _ in range(200):
            new(x)
        assert torch.allclose(new.get_buffer("running_mean"), flat.mean((0, 2)), atol=1e-4)


def test_groups_are_32_or_the_nearest_divisor_and_never_so_small_that_nothing_is_left() -> None:
    assert [groups(channels, 49) for channels in (64, 48, 40, 24, 16, 7)] == [32, 24, 20, 24, 16, 7]
    assert [groups(channels, 1) for channels in (512, 64, 24, 7)] == [32, 8, 3, 1]


BACKBONES: list[tuple[str, dict[str, object], str | None]] = [  # the last: the kind of all its norms
    ("resnet10t", {}, "batch"),
    ("resnetv2_18", {"layers": [1, 1, 1, 1], "channels": [32, 32, 64, 64]}, "batch"),
    ("test_efficientnet", {}, "batch"),
    ("test_convnext", {}, "layer"),
    ("vit_tiny_patch16_224", SMALL_VIT, "layer"),
    ("test_coatnet", {"img_size": 64}, None),
    ("levit_128s", {"img_size": 96}, "batch"),
]


@pytest.mark.parametrize(
    ("backbone", "kwargs", "kind"),
    [(backbone, kwargs, kind) for backbone, kwargs, own in BACKBONES for kind in KINDS if kind != own],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_it_learns(backbone: str, kwargs: dict[str, object], kind: str) -> None:
    model = network(backbone, kind, **kwargs).train()
    size = anatomy_of(backbone, kwargs).image_size if "img_size" in kwargs else 32
    images, labels = torch.randn(8, 3, size, size), torch.arange(8) % 4
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))
    assert min(losses[1:]) < losses[0]
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    if kind != "dyt":  # with which the signal of a deep network fades at first, in LeViT below what a float can hold
        assert not [name for name, p in model.named_parameters() if p.grad is not None and not p.grad.any()]


def test_every_norm_is_replaced_whatever_holds_it() -> None:
    one_each = (1, 1, 1, 1)
    backbones: list[tuple[str, dict[str, object]]] = [
        ("resnet10t", {}),
        ("densenet121", {"block_config": one_each}),
        ("swin_tiny_patch4_window7_224", {"depths": one_each}),
    ]
    for backbone, kwargs in backbones:
        with torch.device("meta"):
            model = build(Architecture(backbone=backbone, kwargs=kwargs, choices={"norm": "dyt"}), 4)
            plain = build(Architecture(backbone=backbone, kwargs=kwargs), 4)
        old = [m for m in plain.modules() if isinstance(m, nn.BatchNorm2d | nn.LayerNorm)]
        assert not [m for m in model.modules() if isinstance(m, nn.BatchNorm2d | nn.LayerNorm)]
        assert sum(isinstance(m, DyT) for m in model.modules()) == len(old)
        count = sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in plain.parameters())
        assert count == len(old)  # one alpha a layer


def test_fused_activations_stay_and_attributes_can_be_reached() -> None:
    plain, model = network("test_efficientnet", "keep"), network("test_efficientnet", "layer")
    old, new = plain.get_submodule("bn1"), model.get_submodule("bn1")
    assert type(new[1]) is type(old.act)  # type: ignore[index]
    assert new.weight.shape == old.weight.shape
    assert (model.get_submodule("bn1")(torch.randn(2, 24, 4, 4)) > -0.3).all()  # SiLU is never below -0.28


@pytest.mark.parametrize("kind", ["layer", "group", "rms", "dyt"])
def test_gains_that_start_at_zero_still_do_and_trained_ones_are_kept(kind: str) -> None:
    model = network("resnet10t", kind)
    assert not any(model.get_submodule(f"layer{stage}.0.bn2").weight.any() for stage in range(1, 5))  # type: ignore[operator]
    old = nn.BatchNorm2d(8)
    nn.init.normal_(old.weight)
    new = replaced(old.eval(), kind, rank=4, last=False, positions=9)
    assert torch.equal(new.weight, old.weight)  # type: ignore[arg-type]
    assert not new.training


def test_norms_without_gain_stay_without() -> None:
    old = nn.LayerNorm(8, elementwise_affine=False)
    for kind in KINDS:
        new = replaced(old, kind, rank=3, last=True, positions=5)
        assert {name for name, _ in new.named_parameters()} == ({"alpha"} if kind == "dyt" else set())
        assert new(torch.randn(2, 5, 8)).shape == (2, 5, 8)


@pytest.mark.parametrize(
    ("backbone", "choice", "result"),
    [
        ("resnet10t", "batch", "keep"),
        ("tf_efficientnet_lite0", "batch", "keep"),
        ("convnext_atto", "layer", "keep"),
        ("vit_tiny_patch16_224", "layer", "keep"),
        ("resnet50_gn", "group", "keep"),
        ("poolformer_s12", "group", "group"),  # its norm has one group
        ("test_coatnet", "layer", ["keep", "layer", "layer", "layer"]),
        ("convnext_atto", ["batch", "layer", "keep", "rms"], ["batch", "keep", "keep", "rms"]),
    ],
    ids=json.dumps,
)
def test_a_choice_that_changes_nothing_is_dropped(backbone: str, choice: object, result: object) -> None:
    if backbone == "test_coatnet":
        result = canonical(backbone, "layer")
        assert isinstance(result, list)
        assert {"keep", "layer"} == set(result)
    assert canonical(backbone, choice) == result
    assert canonical(backbone, result) == result


def test_queries_and_keys_keep_their_norms() -> None:
    kwargs = SMALL_VIT | {"qk_norm": True}
    with torch.device("meta"):
        model = build(Architecture(backbone="vit_tiny_patch16_224", kwargs=kwargs, choices={"norm": "rms"}), 4)
    left = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, nn.LayerNorm)}
    assert left == {"q_norm", "k_norm"}


def test_stem_and_head_go_with_the_nearest_stage() -> None:
    with torch.device("meta"):
        model = build(Architecture(backbone="test_convnext", choices={"norm": ["rms", "keep", "keep", "batch"]}), 4)
    assert "Rms" in type(model.get_submodule("stem.1")).__name__
    assert isinstance(model.get_submodule("head.norm"), nn.BatchNorm2d)
    assert isinstance(model.get_submodule("stages.1.blocks.0.norm"), nn.LayerNorm)


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ("vgg11", "it has no normalisation layers"),
        ("test_nfnet", "it has no normalisation layers"),
        ("resnetv2_50d_evos", "its norms (EvoNorm2dS0) are one with their activation"),
    ],
)
def test_what_has_no_norm_says_so(backbone: str, message: str) -> None:
    with pytest.raises(SpaceError, match="does not apply") as caught:
        canonical(backbone, "rms")
    assert message in str(caught.value)


def test_a_mistyped_kind_says_what_was_meant() -> None:
    with pytest.raises(SpaceError, match="unknown choice of norm 'bach'; did you mean 'batch'"):
        canonical("resnet10t", "bach")
