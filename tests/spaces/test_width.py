"""Widths: multipliers and channel counts, what they come to, and that published and native widths are met."""

import json
from typing import Any

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from spaces import Architecture, SpaceError, build
from spaces.anatomy import anatomy_of

pytestmark = pytest.mark.usefixtures("one_thread")


def widened(backbone: str, width: Any, **kwargs: Any) -> Architecture:
    return Architecture(backbone=backbone, kwargs=kwargs, choices={"width": width})


def outline(architecture: Architecture, num_classes: int = 10) -> nn.Module:
    with torch.device("meta"):
        return build(architecture, num_classes)


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def millions(model: nn.Module) -> float:
    return sum(parameter.numel() for parameter in model.parameters()) / 1e6


@pytest.mark.parametrize(("width", "published"), [(1.0, 4.24), (0.75, 2.59), (0.5, 1.34), (0.25, 0.47)])
def test_mobilenet_has_the_published_number_of_parameters(width: float, published: float) -> None:
    assert millions(outline(widened("mobilenetv1_100", width), 1000)) == pytest.approx(published, abs=0.01)


@pytest.mark.parametrize(("width", "native"), [(0.5, "mobilenetv2_050"), (1.4, "mobilenetv2_140")])
def test_mobilenetv2_widths_are_timms_but_for_the_rounding_of_hidden_layers(width: float, native: str) -> None:
    ours, theirs = outline(widened("mobilenetv2_100", width), 1000), timm.create_model(native)
    expanded = ("conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl")  # timm: 6 x the rounded width; here rounded 6 x width
    for name, shape in shapes(theirs).items():
        if not any(part in name for part in expanded) or name.startswith(("bn", "conv")):
            assert shapes(ours)[name] == shape, name
    assert ours.get_parameter("conv_head.weight").shape[0] == (1280 if width < 1 else 1792)
    assert millions(ours) == pytest.approx(millions(theirs), rel=0.0015)


@pytest.mark.parametrize(
    ("backbone", "kwargs", "width", "native", "arguments"),
    [
        ("resnet26", {}, 0.5, "resnet26", {"channels": (32, 64, 128, 256), "stem_width": 32}),
        ("convnext_atto", {}, 2.0, "convnext_atto", {"dims": (80, 160, 320, 640)}),
        ("vit_tiny_patch16_224", {"depth": 2}, 1.5, "vit_tiny_patch16_224", {"embed_dim": 288, "depth": 2}),
    ],
)
def test_a_width_is_what_timm_builds_of_these_arguments(
    backbone: str, kwargs: dict[str, Any], width: float, native: str, arguments: dict[str, Any]
) -> None:
    ours = shapes(outline(widened(backbone, width, **kwargs)))
    with torch.device("meta"):
        theirs = shapes(timm.create_model(native, num_classes=10, **arguments))
    stem = ("conv1.", "bn1.", "layer1.0.conv1.", "layer1.0.downsample.0.")  # timm's ResNet keeps 64 channels there
    assert {n: s for n, s in ours.items() if not n.startswith(stem)} == {
        n: s for n, s in theirs.items() if not n.startswith(stem)
    }


@pytest.mark.parametrize(
    ("given", "canonical"),
    [
        (0.5, 0.5),
        ("half as 32 channels", 0.5),
        ({"kind": 0.5, "multiple": 16}, 0.5),
        ({"kind": 0.51, "multiple": 32}, 0.5),
        (1, None),
        (64, None),
        (1.0001, None),
        ({"kind": 96, "multiple": 32}, 1.5),
        ({"kind": 0.7, "multiple": 1}, {"kind": 0.7, "multiple": 1}),
        ({"kind": 45, "multiple": 1}, {"kind": 0.7, "multiple": 1}),
    ],
)
def test_equal_sizes_have_one_canonical_width(given: Any, canonical: Any) -> None:
    given = 32 if given == "half as 32 channels" else given
    whole = Architecture(backbone="resnet18", choices={"width": [given, 1.0, 1.0, 1.0]}).canonical
    assert dict(whole.choices) == ({} if canonical is None else {"width": [canonical, 1.0, 1.0, 1.0]})


def test_a_channel_count_is_what_the_blocks_of_a_stage_put_out() -> None:
    model = outline(widened("resnet26", [128, 1.0, 768, 1.0]))
    assert [model.get_submodule(f"layer{n}.1.conv3").weight.shape[0] for n in (1, 2, 3, 4)] == [128, 512, 768, 2048]
    assert model.get_submodule("layer3.1.conv1").weight.shape[0] == 256 * 768 // 1024
    assert (
        outline(widened("densenet121", 16)).get_submodule("features.denseblock2.denselayer1.conv2").weight.shape[0]
        == 16
    )


@settings(max_examples=25, deadline=None)
@given(
    st.tuples(
        st.one_of(st.floats(0.05, 8.0), st.integers(9, 512)), st.sampled_from([1, 2, 4, 5, 8, 12, 16, 32, 64, 256])
    ),
    st.tuples(
        st.one_of(st.floats(0.05, 8.0), st.integers(9, 512)), st.sampled_from([1, 2, 4, 5, 8, 12, 16, 32, 64, 256])
    ),
)
def test_canonical_widths_are_equal_exactly_where_networks_are(one: tuple[float, int], two: tuple[float, int]) -> None:
    first, second = (
        widened("resnet10t", [{"kind": kind, "multiple": multiple}, 1.0, 1.0, 1.0]) for kind, multiple in (one, two)
    )
    assert first.canonical.canonical.to_json() == first.canonical.to_json()
    built = shapes(outline(first))
    assert shapes(outline(Architecture.from_json(first.canonical.to_json()))) == built
    assert (first.id == second.id) == (built == shapes(outline(second)))


@pytest.mark.parametrize("multiple", [1, 4, 16, 32])
def test_sizes_are_multiples_of_what_is_asked_for(multiple: int) -> None:
    model = outline(widened("resnet26", {"kind": 0.6, "multiple": multiple}))
    sizes = {module.out_channels for module in model.modules() if isinstance(module, nn.Conv2d)}
    assert all(size % multiple == 0 for size in sizes)
    assert multiple == 32 or any(size % (2 * multiple) for size in sizes)


FAMILIES: list[tuple[str, dict[str, Any]]] = [
    ("nfnet_l0", {}),
    ("nf_regnet_b0", {}),
    ("edgenext_xx_small", {}),
    ("beit_base_patch16_224", {"depth": 2}),
    ("eva02_tiny_patch14_224", {"depth": 2}),
    ("vit_tiny_patch16_224", {"depth": 2, "global_pool": "map"}),
    ("res2net50_14w_8s", {}),
    ("resnetv2_50d_gn", {}),
    ("efficientformerv2_s0", {}),
    ("swinv2_tiny_window8_256", {"depths": (2, 2, 2, 2)}),
    ("ghostnet_100", {}),
    ("skresnet18", {}),
    ("mobilevit_xxs", {}),
    ("mambaout_femto", {}),
    ("inception_next_atto", {}),
    ("samvit_base_patch16_224", {"depth": 2, "img_size": 64}),
]


@pytest.mark.parametrize(("backbone", "kwargs"), FAMILIES, ids=lambda value: value if isinstance(value, str) else "")
def test_every_family_gets_narrower_and_wider(backbone: str, kwargs: dict[str, Any]) -> None:
    native = millions(anatomy_of(backbone, kwargs).model)
    narrow, wide = (millions(outline(widened(backbone, width, **kwargs))) for width in (0.5, 2.0))
    assert 0.2 * native < narrow < 0.75 * native
    assert 2 * native < wide < 4.2 * native


@pytest.mark.parametrize("backbone", ["resnet26", "convnext_atto", "regnety_002", "efficientnet_b0", "densenet121"])
def test_feature_info_tells_the_channels_that_come_out(backbone: str) -> None:
    model = outline(widened(backbone, 0.5)).eval()
    seen: dict[str, int] = {}
    for info in model.feature_info:  # type: ignore[union-attr]
        name = info["module"]  # type: ignore[index]
        model.get_submodule(name).register_forward_hook(
            lambda module, given, out, name=name: seen.update({name: out.shape[1]})
        )
    with torch.no_grad():
        model(torch.empty(2, 3, 64, 64, device="meta"))
    told = {info["module"]: info["num_chs"] for info in model.feature_info}  # type: ignore[union-attr, index]
    assert told == seen
    assert model.num_features == model.get_classifier().in_features  # type: ignore[operator, union-attr]


def test_standardised_weights_are_scaled_for_their_new_fan() -> None:
    with torch.device("meta"):
        native = timm.create_model("nf_resnet26", num_classes=10)
    model = outline(widened("nf_resnet26", 0.5))
    for name, module in model.named_modules():
        if isinstance(getattr(module, "scale", None), float):
            fan, old = module.weight[0].numel(), native.get_submodule(name)  # type: ignore[index, operator]
            assert module.scale == pytest.approx(old.scale * (old.weight[0].numel() / fan) ** 0.5), name


def test_frequencies_of_a_rotary_embedding_stay_spread_over_all_pairs() -> None:
    torch.manual_seed(0)
    native = build(Architecture(backbone="vit_tiny_patch16_dinov3_qkvb", kwargs={"depth": 1}), 4)
    narrow = build(widened("vit_tiny_patch16_dinov3_qkvb", 0.5, depth=1), 4)
    every, second = native.get_buffer("rope.periods"), narrow.get_buffer("rope.periods")
    assert torch.equal(second, every[::2])


@pytest.mark.parametrize(
    ("width", "message"),
    [
        (0, "0 is no width; give a multiplier above 0 and up to 8, as 0.5, or a whole number of channels above 8"),
        (8.5, "8.5 is no width"),
        (True, "true is no width"),
        ("0.5", "'0.5' is no width"),
        (1000, "1000 channels are more than 8 times the 64 of stage 1"),
        (10**6, "1000000 is no width"),
        ({"kind": 0.5, "multiple": 0}, "multiple: 0 is not a whole number from 1 up to 256"),
        ({"kind": 0.5, "multiples": 4}, "did you mean 'multiple'"),
    ],
)
def test_what_is_no_width_says_what_is(width: Any, message: str) -> None:
    with pytest.raises(SpaceError) as caught:
        json.dumps(dict(widened("resnet18", width).canonical.choices))
    assert message in str(caught.value)


def test_a_network_whose_code_names_its_sizes_is_refused_before_any_weight_is_made() -> None:
    with pytest.raises(SpaceError, match=r"coat_tiny w=2\.0 does not fit together: RuntimeError: shape"):
        build(widened("coat_tiny", 2.0), 4)
