"""Architectures become networks that run, learn, and are what their choices say, by one mechanism for all."""

import itertools
import subprocess
import sys

import pytest
import timm
import torch
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn

from spaces import Architecture, SpaceError, build
from spaces.anatomy import anatomy_of

BACKBONES: list[tuple[str, dict[str, object]]] = [
    ("resnet10t", {}),
    ("resnet26", {}),
    ("convnext_atto", {}),
    ("vit_tiny_patch16_224", {"img_size": 32, "patch_size": 8, "depth": 2}),
]
CHOICES = [
    dict(zip(("scaling", "width", "sharing"), values, strict=True))
    for values in itertools.product(("none", "rezero", "layerscale"), (0.25, 1.0), ("none", "stage"))
]
SCALED = {"rezero": 0.0, "layerscale": 0.1}


pytestmark = pytest.mark.usefixtures("one_thread")


def network(backbone: str, kwargs: dict[str, object], choices: dict[str, object], seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build(Architecture(backbone=backbone, kwargs=kwargs, choices=choices), num_classes=4, in_chans=1)


def steps(model: nn.Module, count: int) -> list[float]:
    """Losses of a few AdamW steps on 16 fixed random images, gradients of the last step left in place."""
    generator = torch.Generator().manual_seed(1)
    images, labels = torch.randn(16, 1, 32, 32, generator=generator), torch.arange(16) % 4
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(count):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("choices", CHOICES, ids=lambda choices: "-".join(map(str, choices.values())))
@pytest.mark.parametrize(("backbone", "kwargs"), BACKBONES, ids=lambda value: value if isinstance(value, str) else "")
def test_every_combination_learns_and_every_branch_gets_a_gradient(
    backbone: str, kwargs: dict[str, object], choices: dict[str, object]
) -> None:
    model = network(backbone, kwargs, choices).train()
    losses = steps(model, 6)  # gradients of the sixth step: after five updates
    assert losses[-1] < losses[0]
    for branch in anatomy_of(backbone, kwargs).branches:
        block = model.get_submodule(branch.module)
        for name, parameter in block.named_parameters():
            assert parameter.grad is not None, f"{branch.module}.{name}"
            assert parameter.grad.abs().max() > 0, f"{branch.module}.{name}"


@pytest.mark.parametrize("scaling", SCALED)
@pytest.mark.parametrize(("backbone", "kwargs"), BACKBONES, ids=lambda value: value if isinstance(value, str) else "")
def test_scales_stand_at_the_end_of_each_branch_and_start_as_published(
    backbone: str, kwargs: dict[str, object], scaling: str
) -> None:
    model = network(backbone, kwargs, {"scaling": scaling})
    gammas = [parameter for name, parameter in model.named_parameters() if name.endswith("gamma")]
    anatomy = anatomy_of(backbone, kwargs)
    assert len(gammas) == len(anatomy.branches)
    for gamma, branch in zip(gammas, anatomy.branches, strict=True):
        width = anatomy.model.get_parameter(branch.width[0]).shape[branch.width[1]] if branch.width else 0
        assert gamma.numel() == (1 if scaling == "rezero" else width)
        assert torch.all(gamma == SCALED[scaling])


def test_a_transformer_block_has_two_branches_and_rezero_makes_each_the_identity() -> None:
    _, kwargs = BACKBONES[-1]
    anatomy = anatomy_of("vit_tiny_patch16_224", kwargs)
    assert [branch.module for branch in anatomy.branches] == ["blocks.0", "blocks.0", "blocks.1", "blocks.1"]
    model = network("vit_tiny_patch16_224", kwargs, {"scaling": "rezero"})
    tokens = torch.randn(2, 5, 192)
    assert torch.equal(model.get_submodule("blocks.0")(tokens), tokens)


@pytest.mark.parametrize(("scaling", "own"), [("keep", 1e-6), ("none", None), ("layerscale", 0.1), ("rezero", 0.0)])
def test_own_layerscale_is_kept_removed_or_replaced(scaling: str, own: float | None) -> None:
    model = network("convnext_atto", {}, {"scaling": scaling})
    gammas = [parameter for name, parameter in model.named_parameters() if name.endswith("gamma")]
    assert len(gammas) == (0 if own is None else 12)
    assert all(torch.allclose(gamma, torch.tensor(own)) for gamma in gammas if own is not None)


def test_layerscale_computes_gamma_times_the_branch() -> None:
    plain = network("resnet10t", {}, {}).eval()
    scaled = network("resnet10t", {}, {"scaling": "layerscale"}).eval()
    images = torch.randn(2, 1, 32, 32)
    for branch in anatomy_of("resnet10t", {}).branches:
        nn.init.ones_(plain.get_submodule(f"{branch.module}.bn2").weight)  # type: ignore[arg-type]
        nn.init.constant_(scaled.get_submodule(f"{branch.module}.bn2.1").gamma, 0.5)  # type: ignore[arg-type]
    assert not torch.allclose(plain(images), scaled(images), atol=1e-3)
    for branch in anatomy_of("resnet10t", {}).branches:
        nn.init.constant_(plain.get_submodule(f"{branch.module}.bn2").weight, 0.5)  # type: ignore[arg-type]
    assert torch.allclose(plain(images), scaled(images), atol=1e-6)


@pytest.mark.parametrize("scaling", SCALED)
def test_scales_are_left_out_of_weight_decay_as_norms_are(scaling: str) -> None:
    model = network("resnet10t", {}, {"scaling": scaling})
    decayed = {
        id(p) for group in param_groups_weight_decay(model, 0.05) if group["weight_decay"] for p in group["params"]
    }
    gammas = [parameter for name, parameter in model.named_parameters() if name.endswith("gamma")]
    assert gammas
    assert not [gamma for gamma in gammas if id(gamma) in decayed]


def test_sharing_ties_layers_of_equal_blocks_and_leaves_norms_and_scales_private() -> None:
    model = network("convnext_atto", {}, {"sharing": "stage", "scaling": "layerscale"})
    first, second = model.get_submodule("stages.2.blocks.0"), model.get_submodule("stages.2.blocks.1")
    tied = {name for (name, p), q in zip(first.named_parameters(), second.parameters(), strict=True) if p is q}
    private = {name for name, _ in first.named_parameters()} - tied
    assert tied == {f"{layer}.{kind}" for layer in ("conv_dw", "mlp.fc1", "mlp.fc2") for kind in ("weight", "bias")}
    assert private == {"norm.weight", "norm.bias", "drop_path.gamma"}


def test_a_tied_weight_gets_the_gradient_of_all_its_uses() -> None:
    _, kwargs = BACKBONES[-1]
    model = network("vit_tiny_patch16_224", kwargs, {"sharing": "stage"})
    images = torch.randn(2, 1, 32, 32)
    model(images).sum().backward()
    weight = model.get_parameter("blocks.0.mlp.fc2.weight")
    assert weight.grad is not None
    together = weight.grad.clone()
    parts: list[Tensor] = []
    for block in range(2):
        alone = network("vit_tiny_patch16_224", kwargs, {"sharing": "stage"})
        copy = nn.Parameter(alone.get_parameter("blocks.0.mlp.fc2.weight").detach().clone())
        alone.get_submodule(f"blocks.{block}.mlp.fc2").weight = copy
        alone(images).sum().backward()
        assert copy.grad is not None
        parts.append(copy.grad)
    assert torch.allclose(together, parts[0] + parts[1], atol=1e-5)


def test_half_a_vit_is_timms_own_half_with_its_initialisation() -> None:
    kwargs = {"img_size": 32, "patch_size": 8, "depth": 2}
    half = network("vit_tiny_patch16_224", kwargs, {"width": 0.5})
    ours = dict(half.named_parameters())
    theirs = timm.create_model("vit_tiny_patch16_224", num_classes=4, in_chans=1, embed_dim=96, num_heads=3, **kwargs)
    assert {name: p.shape for name, p in ours.items()} == {name: p.shape for name, p in theirs.named_parameters()}
    for name, parameter in theirs.named_parameters():
        if parameter.ndim >= 2 and "head" not in name:
            assert float(ours[name].detach().std()) == pytest.approx(float(parameter.detach().std()), rel=0.2), name
    assert half.get_submodule("blocks.0.attn").num_heads == 3


def test_narrow_resnets_keep_the_spread_that_their_fan_asks_for() -> None:
    model = network("resnet26", {}, {"width": 0.25})
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 1000:
            fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
            assert float(module.weight.detach().std()) == pytest.approx((2 / fan_out) ** 0.5, rel=0.1), name


@pytest.mark.parametrize("width", [0.25, 0.3, 0.5, 0.6, 0.75, 0.9, 2.0])
@pytest.mark.parametrize(("backbone", "kwargs"), BACKBONES, ids=lambda value: value if isinstance(value, str) else "")
def test_widths_are_multiples_of_8(backbone: str, kwargs: dict[str, object], width: float) -> None:
    with torch.device("meta"):
        model = build(Architecture(backbone=backbone, kwargs=kwargs, choices={"width": width}), 4)
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and "head" not in name and name != "fc":
            assert module.weight.shape[0] % 8 == 0, name
            assert module.weight.shape[0] == getattr(module, "out_channels", getattr(module, "out_features", None))


def test_widths_per_stage_scale_their_own_stage() -> None:
    with torch.device("meta"):
        model = build(Architecture(backbone="convnext_atto", choices={"width": [1.0, 1.0, 0.5, 1.0]}), 4)
    outputs = [model.get_submodule(f"stages.{stage}.blocks.0.mlp.fc2").weight.shape[0] for stage in range(4)]
    assert outputs == [40, 80, 80, 320]


SEEDED = """
import torch
from spaces import Architecture, build
for _ in range(2):
    torch.manual_seed(0)
    model = build(Architecture(backbone="convnext_atto", choices={"width": 0.5, "scaling": "layerscale"}), 4, 1)
    print(float(sum(parameter.double().sum() for parameter in model.parameters())))
"""


def test_same_seed_same_weights_whatever_was_built_before_in_any_process() -> None:
    network("resnet10t", {}, {"width": 0.25}, seed=5)
    here = network("convnext_atto", {}, {"width": 0.5, "scaling": "layerscale"})
    total = float(sum(parameter.detach().double().sum() for parameter in here.parameters()))  # type: ignore[arg-type]
    fresh = subprocess.run([sys.executable, "-c", SEEDED], capture_output=True, text=True, check=True)
    assert [float(line) for line in fresh.stdout.split()] == [total, total]


@pytest.mark.parametrize(
    ("backbone", "kwargs"), [("nf_resnet26", {}), ("resnetv2_18", {"zero_init_last": True}), ("seresnet18", {})]
)
def test_whatever_a_model_starts_at_zero_rezero_learns(backbone: str, kwargs: dict[str, object]) -> None:
    model = network(backbone, kwargs, {"scaling": "rezero"}).train()
    steps(model, 6)
    dead = [name for name, p in model.named_parameters() if p.grad is not None and not p.grad.any()]
    assert not dead


def test_what_is_zero_for_another_reason_stays_zero() -> None:
    model = network("convnextv2_atto", {}, {"scaling": "layerscale"})
    assert not any(p.any() for name, p in model.named_parameters() if name.endswith("grn.weight"))


def test_blocks_with_different_stochastic_depth_share_weights() -> None:
    plain = anatomy_of("convnext_atto", {})
    assert anatomy_of("convnext_atto", {"drop_path_rate": 0.1}).alike(0) == plain.alike(0)
    assert len(plain.alike(0)[0]) == 2


def test_fixed_filters_stay_what_they_are() -> None:
    filters = dict(network("resnetblur18", {}, {"width": 0.5}).named_buffers())["maxpool.1.filt"]
    native = dict(network("resnetblur18", {}, {}).named_buffers())["maxpool.1.filt"]
    assert torch.equal(filters, native[: len(filters)])


def test_a_meta_build_makes_no_weight() -> None:
    with torch.device("meta"):
        model = build(Architecture(backbone="resnet10t", choices={"width": 0.5}), 4)
    assert all(parameter.is_meta for parameter in model.parameters())


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        (Architecture(backbone="resnet10"), "unknown backbone 'resnet10'; did you mean 'resnet10t'"),
        (Architecture(backbone="hf-hub:someone/model"), "unknown backbone 'hf-hub:someone/model'"),
        (Architecture(backbone="resnet10t", choices={"skaling": "none"}), "did you mean 'scaling'"),
        (Architecture(backbone="resnet10t", choices={"scaling": "rezro"}), "did you mean 'rezero'"),
        (Architecture(backbone="resnet10t", choices={"width": 0}), "above 0 and up to 8"),
        (Architecture(backbone="resnet10t", choices={"width": [1.0, 0.5]}), "has 2 entries; resnet10t has 4 stages"),
        (Architecture(backbone="vgg11", choices={"scaling": "rezero"}), "does not apply to vgg11: it has no residual"),
        (Architecture(backbone="resnet10t", kwargs={"depht": 3}), "timm cannot build resnet10t(depht=3)"),
        (Architecture(backbone="resnet10t", kwargs={"checkpoint_path": "x"}), "asked for by train.pretrained"),
        (
            Architecture(backbone="resnet10t", kwargs={"pretrained_cfg_overlay": {"file": "x"}}),
            "a space file names no place to read from",
        ),
        (Architecture(choices={"op": "conv"}), "plain choices has no network"),
        (Architecture(backbone="resnet10t", kwargs={"layers": [3000] * 4}), "more than 20000 modules"),
        (Architecture(backbone="resnet10t", kwargs={"layers": [10**9] * 4}), "1000000000 is too large"),
        (Architecture(backbone="resnet10t.none"), "unknown pretrained tag"),
    ],
)
def test_what_cannot_be_built_says_why(architecture: Architecture, message: str) -> None:
    with pytest.raises(SpaceError) as caught:
        build(architecture, 4)
    assert message in str(caught.value)
