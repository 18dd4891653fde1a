"""scaling: every kind computes its formula, starts as published, and equal networks have one canonical choice."""

import copy

import pytest
import torch
from torch import Tensor, nn

from spaces import Architecture, SpaceError, build
from spaces.anatomy import anatomy_of
from spaces.techniques.scaling import Scaling
from spaces.techniques.scaling.ends import ends_of
from spaces.techniques.scaling.scales import (
    Fixed,
    Gate,
    Learned,
    Scale,
    scales_of,
)

pytestmark = pytest.mark.usefixtures("one_thread")

VIT = ("vit_tiny_patch16_224", {"img_size": 32, "patch_size": 8, "depth": 2})
CAIT = ("cait_xxs24_224", {"img_size": 32, "patch_size": 8, "depth": 2})
BACKBONES: list[tuple[str, dict[str, object]]] = [
    ("resnet10t", {}),
    VIT,
    CAIT,
    ("edgenext_xx_small", {}),
    ("skresnet18", {}),
    ("densenet121", {"block_config": [2, 2], "growth_rate": 8}),
]
KINDS = [kind for kind in Scaling.choices if kind not in ("keep", "none")]
DATA = torch.Generator().manual_seed(1)
IMAGES, LABELS = torch.randn(8, 3, 64, 64, generator=DATA), torch.arange(8) % 4


def network(backbone: str, kwargs: dict[str, object], scaling: object, **others: object) -> nn.Module:
    torch.manual_seed(0)
    return build(Architecture(backbone=backbone, kwargs=kwargs, choices={"scaling": scaling, **others}), num_classes=4)


def canonical(scaling: object, backbone: str = "resnet10t", **others: object) -> object:
    return Architecture(backbone=backbone, choices={"scaling": scaling, **others}).canonical.choices.get("scaling")


def step(model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor) -> float:
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(images), LABELS)
    penalties = [scale.penalty() for scale in scales_of(model).values() if isinstance(scale, Learned | Gate)]
    torch.stack([loss, *penalties]).sum().backward()
    optimizer.step()
    return float(loss.detach())


@pytest.mark.parametrize("kind", [*KINDS, {"kind": "adaptive", "conditioned": True}], ids=str)
@pytest.mark.parametrize(("backbone", "kwargs"), BACKBONES, ids=lambda value: value if isinstance(value, str) else "")
def test_every_kind_stands_once_at_each_end_and_learns(backbone: str, kwargs: dict[str, object], kind: object) -> None:
    residual = bool(anatomy_of(backbone, kwargs).branches)
    if not residual and str(kind) not in ("uniform", "layerwise", "groupwise", "channel", "se", "eca"):
        with pytest.raises(SpaceError, match="it has no residual branches"):
            network(backbone, kwargs, kind)
        return
    model = network(backbone, kwargs, kind).train()
    anatomy = anatomy_of(backbone, kwargs)
    ends = [end for stage in range(len(anatomy.stages)) for end in ends_of(anatomy, stage)]
    assert [path for path, _ in model.named_modules() if isinstance(model.get_submodule(path), Scale)]
    assert sorted(scales_of(model)) == sorted(end.path for end in ends)
    calls: list[Scale] = []
    for scale in scales_of(model).values():
        scale.register_forward_hook(lambda module, args, output: calls.append(module))
    images = IMAGES[..., : anatomy.image_size, : anatomy.image_size] if anatomy.image_size < 64 else IMAGES
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    losses = [step(model, optimizer, images) for _ in range(4)]
    assert len(calls) == 4 * len(ends)
    assert losses[-1] < losses[0]
    for place, scale in scales_of(model).items():
        for name, parameter in scale.named_parameters():
            assert parameter.grad is not None, f"{place}.{name}"
            assert parameter.grad.any(), f"{place}.{name}"


def test_branches_that_share_an_empty_slot_get_a_scale_each() -> None:
    kwargs = {"img_size": 64}
    block = anatomy_of("mixer_s32_224", kwargs).model.get_submodule("blocks.0")
    assert [name for name, _ in block.named_children() if "drop_path" in name] == ["drop_path"]
    model = network("mixer_s32_224", kwargs, "rezero")
    assert list(scales_of(model))[:2] == ["blocks.0.mlp_tokens", "blocks.0.mlp_channels"]
    tokens = torch.randn(2, 4, 512)
    assert torch.equal(model.get_submodule("blocks.0")(tokens), tokens)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    step(model, optimizer, IMAGES)
    step(model, optimizer, IMAGES)
    assert all(scale.gamma.any() for scale in scales_of(model).values())  # type: ignore[operator, union-attr]


@pytest.mark.parametrize(
    ("scaling", "start"),
    [
        ("rezero", 0.0),
        ("skipinit", 0.5),  # 1 / sqrt(4 branches), 2002.10444
        ("layerscale", 0.1),
        ("layerwise", 1.0),
        ("groupwise", 1.0),
        ("channel", 1.0),
        ("adaptive", 1.0),
    ],
)
def test_learned_factors_start_as_published(scaling: str, start: float) -> None:
    counts = {"groupwise": [8] * 4, "channel": [64, 128, 256, 512], "layerscale": [64, 128, 256, 512]}
    gammas = [scale.gamma for scale in scales_of(network("resnet10t", {}, scaling)).values()]  # type: ignore[union-attr]
    assert [len(gamma) for gamma in gammas] == counts.get(scaling, [1] * 4)  # type: ignore[arg-type]
    assert all(torch.all(gamma == start) for gamma in gammas)


@pytest.mark.parametrize(
    ("scaling", "same"),
    [
        ("none", None),
        ({"kind": "uniform", "factor": 1}, None),
        ({"kind": "uniform", "factor": 0.5}, "uniform"),
        ({"kind": "groupwise", "groups": 1}, "layerwise"),
        ({"kind": "groupwise", "groups": 9}, "groupwise"),  # 8 divides all widths, 9 none
        ({"kind": "groupwise", "groups": 200}, {"kind": "groupwise", "groups": 256}),
        ({"kind": "groupwise", "groups": 512}, {"kind": "channel", "penalty": 0.0}),
        ({"kind": "adaptive", "penalty": 0}, "layerwise"),
        ({"kind": "se", "reduction": 600}, {"kind": "se", "reduction": 57}),  # 512 // 57 is 8, the least there is
        ({"kind": "adaptive", "removed": "0", "conditioned": True}, {"kind": "adaptive", "removed": "0"}),
        ({"kind": "channel", "penalty": 1e-4}, "channel"),
    ],
)
def test_equal_networks_have_one_canonical_choice(scaling: object, same: object) -> None:
    found = canonical(["keep", "keep", "keep", scaling])
    assert (found[3] if found else None) == same  # type: ignore[index]


def test_unequal_choices_stay_apart() -> None:
    choices: list[object] = ["keep", *KINDS, {"kind": "uniform", "factor": 0.25}, {"kind": "channel", "penalty": 0.0}]
    choices += [
        {"kind": "adaptive", "conditioned": True},
        {"kind": "adaptive", "penalty": 1e-3},
        {"kind": "se", "reduction": 8},
    ]
    ids = {Architecture(backbone="resnet10t", choices={"scaling": choice}).id for choice in choices}
    assert len(ids) == len(choices)


def test_the_real_number_of_groups_follows_the_width() -> None:
    choice = [{"kind": "groupwise", "groups": 11}, "keep", "keep", "keep"]
    assert canonical(choice, "convnext_atto")[0] == {"kind": "groupwise", "groups": 10}  # type: ignore[index]
    narrow = canonical(choice, "convnext_atto", width=0.6)
    assert narrow[0] == {"kind": "groupwise", "groups": 12}  # type: ignore[index]


def test_a_layerscale_that_starts_as_the_models_own_is_kept() -> None:
    assert canonical("none", "convnext_atto") == "none"
    own = Architecture(backbone="convnext_atto", kwargs={"ls_init_value": 0.1}, choices={"scaling": "layerscale"})
    assert own.canonical.choices == {}


def test_stages_without_residual_branches_keep_what_they_have() -> None:
    choice = canonical("rezero", "efficientnet_b0")
    anatomy = anatomy_of("efficientnet_b0", {})
    residual = {branch.stage for branch in anatomy.branches}
    assert choice == ["rezero" if stage in residual else "keep" for stage in range(len(anatomy.stages))]


@pytest.mark.parametrize(
    ("backbone", "kwargs"),
    [CAIT, ("edgenext_xx_small", {}), ("xcit_nano_12_p16_224", {"depth": 1}), ("convnext_atto", {})],
)
def test_own_scales_can_go_whether_or_not_the_code_asks_for_them(backbone: str, kwargs: dict[str, object]) -> None:
    own = {branch.own_scale for branch in anatomy_of(backbone, kwargs).branches if branch.own_scale}
    kept, gone = network(backbone, kwargs, "keep"), network(backbone, kwargs, "none")
    assert own
    assert {name for name, _ in kept.named_parameters()} - {name for name, _ in gone.named_parameters()} == own
    assert kept.state_dict().keys() - gone.state_dict().keys() == own
    for name in own:
        nn.init.ones_(kept.get_parameter(str(name)))
    gone.load_state_dict({name: value for name, value in kept.state_dict().items() if name not in own})
    size = anatomy_of(backbone, kwargs).image_size
    images = torch.randn(1, 3, size, size)
    assert torch.allclose(kept.eval()(images), gone.eval()(images), atol=1e-5)


@pytest.mark.parametrize("scaling", ["none", "layerwise"])
def test_trained_weights_keep_what_their_own_scales_did(scaling: str) -> None:
    anatomy = anatomy_of("convnext_atto", {})
    model = network("convnext_atto", {}, "keep").eval()
    for branch in anatomy.branches:
        nn.init.uniform_(model.get_parameter(str(branch.own_scale)), -1, 1)
    before = model(IMAGES[:2])
    Scaling().rewrite(model, (scaling,) * 4, anatomy, trained=True)
    assert len(scales_of(model)) == (0 if scaling == "none" else 12)
    assert torch.allclose(model(IMAGES[:2]), before, atol=1e-5)


@pytest.mark.parametrize(
    ("scaling", "message"),
    [
        ("rezro", "did you mean 'rezero'"),
        ({"kind": "rezero", "factor": 2}, "'factor' is no parameter of rezero, only of uniform"),
        ({"kind": "uniform", "factor": 0}, "factor: 0 is not a number above 0 up to 16"),
        ({"kind": "adaptive", "removed": "one"}, "removed: 'one' is not a text such as 1,3"),
        ({"kind": "adaptive", "removed": "1"}, "stage 1 has 1 branches; 1, counted from 0, is none of them"),
    ],
)
def test_bad_choices_say_what_is_allowed(scaling: object, message: str) -> None:
    with pytest.raises(SpaceError) as caught:
        canonical(scaling)
    assert message in str(caught.value)


@pytest.mark.parametrize("scaling", ["groupwise", "se", "eca", {"kind": "adaptive", "conditioned": True}], ids=str)
def test_compiled_training_gives_the_same_gradients(scaling: object) -> None:
    model = network("resnet10t", {}, scaling).train()
    twin = copy.deepcopy(model)
    compiled = torch.compile(twin, backend="aot_eager")
    for network_, called in ((model, model), (twin, compiled)):
        penalties = [scale for scale in scales_of(network_).values() if hasattr(scale, "penalty")]
        loss = nn.functional.cross_entropy(called(IMAGES), LABELS)
        (loss + sum(scale.penalty() for scale in penalties)).backward()  # type: ignore[operator, misc]
    for (name, one), two in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert one.grad is not None
        assert two.grad is not None
        assert torch.allclose(one.grad, two.grad, atol=1e-5), name
    assert not isinstance(scales_of(model)["layer1.0.bn2"], Fixed)
