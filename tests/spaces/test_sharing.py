"""Shared weights: who shares with whom, what is shared and what stays private, and that it survives every journey."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

from search.costs import macs, params
from spaces import Architecture, SpaceError, build
from spaces.techniques import TECHNIQUES
from spaces.techniques.sharing import PerUse, assignment

pytestmark = pytest.mark.usefixtures("one_thread")

VIT = ("vit_tiny_patch16_224", {"img_size": 32, "patch_size": 8, "depth": 6})
RESNET = ("resnet26", {"layers": [1, 4, 3, 1]})
VGG: tuple[str, dict[str, Any]] = ("vgg11", {})
KINDS = [kind for kind in TECHNIQUES["sharing"].choices if kind != "none"]


def architecture(backbone: tuple[str, dict[str, Any]], sharing: Any, **choices: Any) -> Architecture:
    return Architecture(backbone=backbone[0], kwargs=backbone[1], choices={"sharing": sharing, **choices})


def network(backbone: tuple[str, dict[str, Any]], sharing: Any, **choices: Any) -> nn.Module:
    torch.manual_seed(0)
    return build(architecture(backbone, sharing, **choices), num_classes=4).eval()


def skeleton(backbone: tuple[str, dict[str, Any]], sharing: Any, **choices: Any) -> nn.Module:
    """The same without weights, where only their names matter."""
    with torch.device("meta"):
        return network(backbone, sharing, **choices)


def sets(model: nn.Module, names: list[str]) -> list[int]:
    """Which of these parameters are one, numbered by first use."""
    seen = list(dict.fromkeys(id(model.get_parameter(name)) for name in names))
    return [seen.index(id(model.get_parameter(name))) for name in names]


def blocks(name: str, count: int = 6) -> list[str]:
    return [f"blocks.{index}.{name}" for index in range(count)]


@pytest.mark.parametrize(
    ("kind", "unique", "count", "expected"),
    [
        ("sequence", 3, 6, (0, 0, 1, 1, 2, 2)),  # figure 1 of 2104.06022
        ("cycle", 3, 6, (0, 1, 2, 0, 1, 2)),
        ("cycle_rev", 3, 6, (0, 1, 2, 2, 1, 0)),
        ("sequence", 6, 12, (0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5)),  # its M = 6, N = 12 and N = 18
        ("cycle", 6, 12, (0, 1, 2, 3, 4, 5) * 2),
        ("cycle_rev", 6, 12, (0, 1, 2, 3, 4, 5, 5, 4, 3, 2, 1, 0)),
        ("sequence", 6, 18, tuple(index // 3 for index in range(18))),
        ("cycle_rev", 6, 18, (*(0, 1, 2, 3, 4, 5) * 2, 5, 4, 3, 2, 1, 0)),
        ("sequence", 2, 5, (0, 0, 0, 1, 1)),
        ("cycle", 2, 5, (0, 1, 0, 1, 0)),
        ("cycle_rev", 2, 5, (0, 1, 0, 1, 0)),
        ("cycle_rev", 3, 7, (0, 1, 2, 0, 2, 1, 0)),
        ("cycle_rev", 3, 3, (0, 1, 2)),
        ("cycle", 9, 4, (0, 1, 2, 3)),
        ("stage", 1, 4, (0, 0, 0, 0)),
        ("sandwich", 1, 5, (0, 1, 1, 1, 2)),  # Subformer, 2101.00234
        ("sandwich", 1, 2, (0, 1)),
        ("stage", 1, 1, (0,)),
    ],
)
def test_assignments_are_the_published_ones(kind: str, unique: int, count: int, expected: tuple[int, ...]) -> None:
    assert assignment(kind, count, unique) == expected


@given(st.sampled_from(KINDS), st.integers(1, 30), st.integers(1, 30))
def test_an_assignment_uses_every_set_that_it_has(kind: str, count: int, unique: int) -> None:
    found = assignment(kind, count, unique)
    assert len(found) == count
    assert sorted(set(found)) == list(range(len(set(found))))
    if kind in ("sequence", "cycle", "cycle_rev"):
        assert len(set(found)) == min(count, unique)


@pytest.mark.parametrize("kind", ["sequence", "cycle", "cycle_rev"])
def test_a_network_shares_as_assigned(kind: str) -> None:
    model = skeleton(VIT, {"kind": kind, "unique": 3})
    for name in ("attn.qkv.weight", "attn.qkv.bias", "mlp.fc2.weight"):
        assert sets(model, blocks(name)) == list(assignment(kind, 6, 3))
    assert sets(model, blocks("norm1.weight")) == [0, 1, 2, 3, 4, 5]


def test_a_shared_vit_has_the_parameters_of_one_block_and_its_norms() -> None:
    """W of the layers is counted once in N blocks; 4 D of the two norms in each; macs do not change."""
    depth, dim = 6, 192
    layers = 12 * dim * dim + 9 * dim  # qkv, proj, two MLP layers of ratio 4, with biases
    plain, shared = skeleton(VIT, "none"), skeleton(VIT, "stage")
    assert params(plain) - params(shared) == (depth - 1) * layers
    with_norms = skeleton(VIT, {"kind": "stage", "norms": True})
    assert params(shared) - params(with_norms) == (depth - 1) * 4 * dim
    uses = 2 * (3 * dim + dim + 4 * dim + dim) // 2  # outputs of the four layers
    transformed = skeleton(VIT, {"kind": "stage", "transform": True})
    assert params(transformed) - params(shared) == depth * uses
    assert macs(plain, (3, 32, 32)) == macs(shared, (3, 32, 32)) == macs(transformed, (3, 32, 32))


@pytest.mark.parametrize(
    ("backbone", "scope", "tied", "private"),
    [
        (VIT, "attention", "blocks.{}.attn.proj.weight", "blocks.{}.mlp.fc1.weight"),
        (VIT, "mlp", "blocks.{}.mlp.fc1.bias", "blocks.{}.attn.qkv.bias"),
        (RESNET, "spatial_conv", "layer2.{}.conv2.weight", "layer2.{}.conv1.weight"),
        (RESNET, "mlp", "layer2.{}.conv1.weight", "layer2.{}.conv2.weight"),
    ],
)
def test_a_scope_ties_its_layers_and_no_other(
    backbone: tuple[str, dict[str, Any]], scope: str, tied: str, private: str
) -> None:
    model = skeleton(backbone, {"kind": "stage", "scope": scope})
    assert sets(model, [tied.format(index) for index in (1, 2, 3)]) == [0, 0, 0]
    assert sets(model, [private.format(index) for index in (1, 2, 3)]) == [0, 1, 2]


def test_scales_gates_and_position_tables_stay_private() -> None:
    beit = skeleton(("beit_base_patch16_224", {"img_size": 32, "depth": 2}), {"kind": "stage", "norms": True})
    assert sets(beit, blocks("attn.q_bias", 2)) == [0, 0]
    for name in ("gamma_1", "attn.relative_position_bias_table"):
        assert sets(beit, blocks(name, 2)) == [0, 1]
    fastvit = skeleton(("fastvit_t8", {}), "stage")
    scales = [name for name, p in fastvit.named_parameters(remove_duplicate=False) if p.ndim == 3 and "gamma" in name]
    assert len(scales) > 4
    assert sets(fastvit, scales) == list(range(len(scales)))


def test_running_statistics_stay_private_where_norms_are_shared() -> None:
    kwargs = {**RESNET[1], "zero_init_last": False}  # else blocks begin as the identity, and see the same
    model = network(("resnet26", kwargs), {"kind": "stage", "norms": True}).train()
    model(torch.randn(4, 3, 64, 64))
    norms = [model.get_submodule(f"layer2.{index}.bn1") for index in (1, 2)]
    assert norms[0].weight is norms[1].weight
    assert not torch.equal(norms[0].running_mean, norms[1].running_mean)  # type: ignore[arg-type]


def test_all_reaches_across_stages_where_blocks_are_of_equal_make() -> None:
    names = ["features.13", "features.16", "features.18"]  # 512 to 512 channels in the last two stages
    model = skeleton(VGG, "all")
    assert sets(model, [f"{name}.weight" for name in names]) == [0, 0, 0]
    assert architecture(VGG, "all").canonical.choices["sharing"] == ["none", "none", "none", "all", "all"]


def test_what_a_width_makes_unequal_is_not_shared() -> None:
    names = ["features.13", "features.16", "features.18"]
    widths = [1.0, 1.0, 1.0, 1.0, 0.5]  # 512 to 512, 512 to 256, 256 to 256
    assert "sharing" not in architecture(VGG, "all", width=widths).canonical.choices
    assert sets(skeleton(VGG, "all", width=widths), [f"{name}.weight" for name in names]) == [0, 1, 2]


def test_the_first_block_gives_its_weights() -> None:
    plain, shared = network(VIT, "none"), network(VIT, "sandwich")
    weight = shared.get_parameter("blocks.4.mlp.fc1.weight")
    assert torch.equal(weight, plain.get_parameter("blocks.1.mlp.fc1.weight"))


def test_a_transform_scales_the_output_of_its_own_use() -> None:
    model = network(VIT, {"kind": "stage", "transform": True})
    plain = network(VIT, "stage")
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(model(images), plain(images))
    layer = model.get_submodule("blocks.2.mlp.fc1")
    tokens = torch.randn(2, 5, 192)
    before = layer(tokens), model.get_submodule("blocks.3.mlp.fc1")(tokens)
    with torch.no_grad():
        layer[1].factor.fill_(3.0)  # type: ignore[index]
    assert torch.allclose(layer(tokens), 3 * before[0])
    assert torch.equal(model.get_submodule("blocks.3.mlp.fc1")(tokens), before[1])


def test_what_is_not_called_as_a_module_gets_no_transform() -> None:
    model = skeleton(("beit_base_patch16_224", {"img_size": 32, "depth": 2}), {"kind": "stage", "transform": True})
    assert isinstance(model.get_submodule("blocks.0.attn.qkv"), nn.Linear)  # its weight is read by attention itself
    assert sum(isinstance(module, PerUse) for module in model.modules()) == 2 * 3


@pytest.mark.parametrize("sharing", [{"kind": "cycle_rev", "unique": 2}, {"kind": "stage", "transform": True}])
def test_a_shared_network_survives_every_journey(sharing: Any, tmp_path: Path) -> None:
    model, other = network(VIT, sharing), network(VIT, sharing)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    images = torch.randn(2, 3, 32, 32)
    expected = model(images)
    assert not torch.allclose(other(images), expected, atol=1e-3)
    twin = copy.deepcopy(model)
    other.load_state_dict(model.state_dict())
    file = tmp_path / "model.safetensors"
    save_model(model, str(file))
    loaded = network(VIT, sharing)
    load_model(loaded, str(file))
    for arrived in (twin, other, loaded):
        assert torch.equal(arrived(images), expected)
        assert params(arrived) == params(model)
    assert file.stat().st_size < 4 * params(model) + 100_000
    assert torch.allclose(torch.compile(model, backend="aot_eager")(images), expected, atol=1e-5)


def test_onnx_stores_shared_weights_once_and_agrees(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    model, images, file = network(VIT, "stage"), torch.randn(2, 3, 32, 32), tmp_path / "model.onnx"
    torch.onnx.export(model, (images,), str(file), dynamo=True, external_data=False, verbose=False)
    session = runtime.InferenceSession(str(file))
    (found,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    assert torch.allclose(torch.from_numpy(found), model(images), atol=1e-4)
    assert file.stat().st_size < 4 * params(model) + 400_000  # the plain one has 8.5 MB more


def test_depthwise_separable_halves_are_shared_as_the_convolution_that_they_replace() -> None:
    try:
        model = skeleton(RESNET, {"kind": "stage", "scope": "spatial_conv"}, group_size="depthwise")
    except SpaceError as error:
        pytest.skip(str(error))
    names = [name for name, p in model.named_parameters(remove_duplicate=False) if "layer2.2.conv2" in name]
    assert len([name for name in names if model.get_parameter(name).ndim == 4]) == 2
    for name in names:
        shared = sets(model, [name, name.replace("layer2.2", "layer2.1")]) == [0, 0]
        assert shared == (model.get_parameter(name).ndim == 4)


@pytest.mark.parametrize(
    ("backbone", "given", "canonical"),
    [
        (VIT, {"kind": "sequence", "unique": 1}, "stage"),
        (VIT, "all", "stage"),
        (VIT, {"kind": "cycle", "unique": 1, "scope": "mlp"}, {"kind": "stage", "scope": "mlp"}),
        (VIT, {"kind": "cycle_rev", "unique": 6}, None),
        (VIT, {"kind": "sequence", "unique": 5}, {"kind": "sequence", "unique": 5}),
        (VIT, {"kind": "cycle_rev", "unique": 5}, {"kind": "cycle", "unique": 5}),
        (VIT, {"kind": "cycle_rev", "unique": 2}, "cycle_rev"),
        (("vit_tiny_patch16_224", {"depth": 3}), "sandwich", None),
        (("vit_tiny_patch16_224", {"depth": 3}), {"kind": "cycle_rev"}, "cycle"),
        (VGG, "stage", ["none", "none", "none", "none", "stage"]),
        (VGG, {"kind": "all", "scope": "spatial_conv", "norms": True}, ["none", "none", "none", "all", "all"]),
        (("mixer_s32_224", {}), {"kind": "stage", "scope": "mlp"}, "stage"),
    ],
)
def test_equal_ties_have_one_name(backbone: tuple[str, dict[str, Any]], given: Any, canonical: Any) -> None:
    assert architecture(backbone, given).canonical.choices.get("sharing") == canonical


def ties(model: nn.Module) -> set[frozenset[str]]:
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return {frozenset(group) for group in names.values() if len(group) > 1}


CHOICES = st.one_of(
    st.just("none"),
    st.fixed_dictionaries(
        {"kind": st.sampled_from(KINDS)},
        optional={
            "scope": st.sampled_from(["block", "mlp", "spatial_conv"]),
            "norms": st.booleans(),
        },
    ),
    st.fixed_dictionaries({"kind": st.sampled_from(["sequence", "cycle", "cycle_rev"]), "unique": st.integers(1, 6)}),
)


@settings(deadline=None, max_examples=40)
@given(st.lists(CHOICES, min_size=4, max_size=4), st.lists(CHOICES, min_size=4, max_size=4))
def test_ids_are_equal_exactly_where_ties_are(one: list[Any], two: list[Any]) -> None:
    found = []
    for choices in (one, two):
        shared = architecture(RESNET, choices)
        found.append((shared.id, ties(skeleton(RESNET, choices))))
        assert shared.canonical.canonical == shared.canonical
    assert (found[0][0] == found[1][0]) == (found[0][1] == found[1][1])


@pytest.mark.parametrize(
    ("backbone", "sharing", "message"),
    [
        ("resnet50", {"kind": "stage", "scope": "attention"}, "have no layers inside attention"),
        ("vit_tiny_patch16_224", {"kind": "cycle", "scope": "spatial_conv"}, "no convolutions with a kernel above 1"),
        ("vit_tiny_patch16_224", {"kind": "cycle", "unique": 0}, "unique: 0 is not a whole number from 1"),
        ("vit_tiny_patch16_224", {"kind": "stage", "unique": 2}, "'unique' is no parameter of stage"),
        ("vit_tiny_patch16_224", {"kind": "stage", "scope": "atention"}, "is not one of block, attention"),
        ("vit_tiny_patch16_224", "cycle_rew", "did you mean 'cycle_rev'"),
    ],
)
def test_what_cannot_be_shared_says_why(backbone: str, sharing: Any, message: str) -> None:
    with pytest.raises(SpaceError) as caught:
        build(Architecture(backbone=backbone, choices={"sharing": sharing}), 4)
    assert message in str(caught.value)


@pytest.mark.parametrize("backbone", ["resnet26", "densenet121"])
def test_without_two_blocks_of_equal_make_nothing_changes(backbone: str) -> None:
    plain = Architecture(backbone=backbone)
    assert Architecture(backbone=backbone, choices={"sharing": "stage"}).id == plain.id


def gradient_of(model: nn.Module, images: Tensor, name: str) -> Tensor:
    model.zero_grad()
    model(images).square().sum().backward()
    gradient = model.get_parameter(name).grad
    assert gradient is not None
    return gradient.clone()


def test_a_shared_weight_learns_from_all_its_uses() -> None:
    model, images = network(VIT, "stage"), torch.randn(2, 3, 32, 32)
    together = gradient_of(model, images, "blocks.0.mlp.fc2.weight")
    parts = []
    for index in range(6):
        alone = copy.deepcopy(model)
        layer = alone.get_submodule(f"blocks.{index}.mlp.fc2")
        layer.weight = nn.Parameter(layer.weight.detach().clone())  # type: ignore[operator]
        parts.append(gradient_of(alone, images, f"blocks.{index}.mlp.fc2.weight"))
    assert torch.allclose(together, torch.stack(parts).sum(0), atol=1e-5)
