"""Narrower networks from trained ones: the channels that count stay, with their weights, and nothing else changes."""

from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from spaces.anatomy import Anatomy, anatomy_of
from spaces.anatomy.dims import PRODUCT, Dim
from spaces.architecture import Architecture
from spaces.backbone import create
from spaces.build import Start, build
from spaces.errors import SpaceError
from spaces.resizing.importance import METHODS, most_important, scores
from spaces.resizing.resize import resize
from spaces.techniques import TECHNIQUES

pytestmark = pytest.mark.usefixtures("one_thread")

WEIGHTS = Path(__file__).resolve().parents[2].parent / "shared" / "weights" / "tf_efficientnet_lite0.safetensors"
real_weights = pytest.mark.skipif(not WEIGHTS.is_file(), reason="no trained weights here")

NETWORKS: list[tuple[str, dict[str, object], int]] = [
    ("resnet10t", {}, 64),
    ("convnext_atto", {}, 64),
    ("vit_tiny_patch16_224", {"img_size": 32, "patch_size": 8, "depth": 2}, 32),
    ("efficientnet_b0", {}, 64),
    ("mobilenetv3_small_050", {}, 64),
    ("regnety_002", {}, 64),
    ("densenet121", {"block_config": (2, 2)}, 64),
    ("res2net50_14w_8s", {}, 64),
    ("ghostnet_100", {}, 64),
]


def trained(backbone: str, kwargs: Mapping[str, object], seed: int = 0) -> nn.Module:
    """A network in evaluation whose every parameter and statistic is random, as after a training."""
    torch.manual_seed(seed)
    model = create(backbone, kwargs, num_classes=10, in_chans=3).eval()
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if name.endswith("running_var") or (tensor.ndim == 1 and name.endswith("weight")):
            nn.init.uniform_(tensor, 0.5, 1.5)
        elif name.endswith(("bias", "running_mean", "gamma")):
            nn.init.normal_(tensor, std=0.2)
    return model


def normalised(model: nn.Module, anatomy: Anatomy) -> set[Dim]:
    """Sizes over which means are taken, and sizes of attention heads: a zero there changes what the others become."""
    found: set[Dim] = set()
    for name, dims in anatomy.dims.items():
        module = model.get_submodule(name.rpartition(".")[0])
        if isinstance(module, nn.LayerNorm | nn.GroupNorm) or "qkv" in name:
            found.update(leaf for dim in dims for leaf in dim.leaves())
    return found


def alive(dim: Dim, kept: Mapping[Dim, Tensor]) -> Tensor:
    """Which indices of a dimension are made of kept ones only."""
    node = dim.find()
    if node.kind is None:
        mask = torch.ones(node.size, dtype=torch.bool)
        return mask if node not in kept else torch.zeros_like(mask).index_fill(0, kept[node], True)
    masks = [alive(part, kept) for part in node.parts]
    if node.kind == PRODUCT:
        return torch.cartesian_prod(*masks).reshape(prod(map(len, masks)), -1).all(1)
    return torch.cat(masks)


def kill(model: nn.Module, anatomy: Anatomy, kept: Mapping[Dim, Tensor]) -> None:
    """Let everything that is not kept put out zero."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    with torch.no_grad():
        for name, dims in anatomy.dims.items():
            if dims and not dims[0].is_fixed and not name.endswith("running_var"):
                tensors[name][~alive(dims[0], kept)] = 0


@pytest.mark.parametrize(
    ("backbone", "kwargs", "image"), NETWORKS, ids=lambda value: value if type(value) is str else ""
)
def test_dead_channels_are_the_ones_that_go_and_nothing_changes(
    backbone: str, kwargs: dict[str, object], image: int
) -> None:
    anatomy, model = anatomy_of(backbone, kwargs), trained(backbone, kwargs)
    barred = normalised(model, anatomy)
    free = [leaf for leaf in anatomy.channels if leaf not in barred and leaf.size > 1]
    assert free
    kept = {leaf: torch.randperm(leaf.size)[: leaf.size // 2].sort().values for leaf in free}
    kill(model, anatomy, kept)
    images = torch.randn(2, 3, image, image)
    with torch.no_grad():
        before = model(images)
        found = scores(model, anatomy)
        best = {leaf: most_important(found[leaf], leaf.size // 2) for leaf in free}
        assert all(torch.equal(best[leaf], kept[leaf]) for leaf in free)
        resize(model, anatomy, lambda leaf: len(best[leaf]) if leaf in best else leaf.size, kept=best)
        after = model(images)
    assert before.std() > 1e-3
    assert torch.allclose(before, after, atol=1e-5 * float(before.abs().max().clamp(min=1)))
    assert sum(p.numel() for p in model.parameters()) < 0.9 * sum(p.numel() for p in anatomy.model.parameters())


def narrow(model: nn.Module, backbone: str, kwargs: Mapping[str, object], width: float) -> None:
    anatomy = anatomy_of(backbone, kwargs)
    TECHNIQUES["width"].rewrite(model, (width,) * len(anatomy.stages), anatomy, trained=True)


def test_a_residual_stream_keeps_the_same_channels_in_every_layer_of_it() -> None:
    wide, model = trained("resnet26", {}), trained("resnet26", {})
    narrow(model, "resnet26", {}, 0.5)
    kept = []
    for norm in ("layer2.0.bn3", "layer2.0.downsample.1", "layer2.1.bn3"):
        old, new = wide.get_submodule(norm).running_mean, model.get_submodule(norm).running_mean
        assert isinstance(old, Tensor)
        assert isinstance(new, Tensor)
        kept.append([int(torch.nonzero(old == value)) for value in new])
    assert kept[0] == kept[1] == kept[2] == sorted(kept[0])
    assert len(kept[0]) == 256
    rows = torch.tensor(kept[0])
    inner = wide.get_parameter("layer2.1.conv1.weight").detach()[:, rows]
    for row in model.get_parameter("layer2.1.conv1.weight").detach():
        assert (inner == row).flatten(1).all(1).any()


def test_a_wider_network_holds_the_trained_one_and_the_rest_is_drawn_as_from_scratch() -> None:
    wide, model = trained("resnet26", {}), trained("resnet26", {})
    narrow(model, "resnet26", {}, 2.0)
    for name, parameter in wide.named_parameters():
        grown = model.get_parameter(name).detach()
        inside = grown[tuple(slice(size) for size in parameter.shape)]
        assert torch.equal(inside, parameter.detach()), name
    weight = model.get_parameter("layer3.0.conv2.weight").detach()
    assert float(weight[256:].std()) == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.05)
    new_statistics = model.get_submodule("layer3.0.bn2").running_var
    assert isinstance(new_statistics, Tensor)
    assert torch.all(new_statistics[256:] == 1)


def test_scores_are_those_of_the_formulas() -> None:
    anatomy, model = anatomy_of("resnet10t", {}), trained("resnet10t", {})
    images, labels = torch.randn(4, 3, 64, 64), torch.tensor([0, 3, 5, 9])
    weight = model.get_parameter("layer1.0.conv1.weight")
    leaf = next(iter(anatomy.dims["layer1.0.conv1.weight"][0].leaves()))
    nn.functional.cross_entropy(model(images), labels).backward()
    assert weight.grad is not None
    expected = {
        "l1": weight.detach().abs().sum((1, 2, 3)),
        "l2": weight.detach().flatten(1).norm(dim=1),
        "bn_gamma": model.get_parameter("layer1.0.bn1.weight").detach().abs(),
        "taylor": (weight.detach() * weight.grad).abs().sum((1, 2, 3)),
    }
    assert set(expected) == set(METHODS)
    for method, values in expected.items():
        found = scores(model, anatomy, method, (images, labels))[leaf]
        assert torch.allclose(found, values, rtol=1e-4, atol=1e-7), method


def test_where_no_norm_is_bn_gamma_ranks_by_the_weights() -> None:
    anatomy, model = anatomy_of("vgg11", {}), trained("vgg11", {})
    one, two = scores(model, anatomy, "bn_gamma"), scores(model, anatomy, "l2")
    assert all(torch.equal(one[leaf], two[leaf]) for leaf in anatomy.channels)


def test_of_equal_scores_the_first_stay() -> None:
    assert most_important(torch.tensor([1.0, 2.0, 1.0, 3.0, 1.0]), 3).tolist() == [0, 1, 3]


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenetv2_050"])
def test_torch_pruning_removes_the_same_channels_to_the_same_network(backbone: str) -> None:
    pruning = pytest.importorskip("torch_pruning")
    anatomy, model, theirs = anatomy_of(backbone, {}), trained(backbone, {}), trained(backbone, {})
    kept = {leaf: most_important(score, leaf.size // 2) for leaf, score in scores(model, anatomy).items()}
    kept = {leaf: indices for leaf, indices in kept.items() if leaf in anatomy.channels}
    images = torch.randn(2, 3, 64, 64)
    graph = pruning.DependencyGraph().build_dependency(theirs, example_inputs=images)
    for layer, leaf in _roots(theirs, anatomy, kept):
        gone = torch.ones(leaf.size, dtype=torch.bool).index_fill(0, kept[leaf], False).nonzero().flatten().tolist()
        graph.get_pruning_group(layer, pruning.prune_conv_out_channels, idxs=gone).prune()
    resize(model, anatomy, lambda leaf: len(kept[leaf]) if leaf in kept else leaf.size, kept=kept)
    with torch.no_grad():
        assert torch.allclose(model(images), theirs(images), atol=1e-5)
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in theirs.parameters())


def _roots(model: nn.Module, anatomy: Anatomy, leaves: Iterable[Dim]) -> list[tuple[nn.Module, Dim]]:
    """For each size one convolution that puts it out."""
    found: dict[Dim, nn.Module] = {}
    for name, dims in anatomy.dims.items():
        module = model.get_submodule(name.rpartition(".")[0])
        if isinstance(module, nn.Conv2d) and module.groups == 1 and name.endswith("weight"):
            found.setdefault(dims[0].find(), module)
    return [(found[leaf], leaf) for leaf in leaves]


@real_weights
def test_real_weights_reach_a_network_and_its_narrow_form() -> None:
    name = "tf_efficientnet_lite0"
    whole = build(Architecture(backbone=name), 1000, start=Start(weights=WEIGHTS))
    other = build(Architecture(backbone=name), 12, start=Start(weights=WEIGHTS))
    narrow = build(Architecture(backbone=name, choices={"width": 0.75}), 12, start=Start(weights=WEIGHTS))
    key = "blocks.1.0.conv_pw.weight"
    assert torch.equal(whole.get_parameter(key), other.get_parameter(key))
    assert whole.get_parameter("classifier.weight").shape == (1000, 1280)
    assert narrow.get_parameter("classifier.weight").shape == (12, 1280)
    values = set(whole.get_parameter(key).flatten().tolist())
    assert set(narrow.get_parameter(key).flatten().tolist()) < values


@real_weights
@pytest.mark.parametrize(
    ("backbone", "weights", "message"),
    [
        ("resnet18", WEIGHTS, "does not fit resnet18(): Error(s) in loading state_dict"),
        ("tf_efficientnet_lite0", WEIGHTS.with_name("none.safetensors"), "there is no file"),
        ("tf_efficientnet_lite0", Path(__file__), "is no .safetensors file; other formats can run code"),
    ],
)
def test_weights_that_cannot_be_had_say_why(backbone: str, weights: Path, message: str) -> None:
    with pytest.raises(SpaceError) as caught:
        build(Architecture(backbone=backbone), 4, start=Start(weights=weights))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"), [(b"hello", "is not a readable .safetensors file"), (b"", "is not a readable")]
)
def test_a_damaged_file_says_so(tmp_path: Path, text: bytes, message: str) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(text)
    with pytest.raises(SpaceError, match=message):
        build(Architecture(backbone="resnet10t"), 4, start=Start(weights=path))


@pytest.mark.parametrize(
    ("backbone", "repository"), [("resnet18.a2_in1k", "timm/resnet18.a2_in1k"), ("resnet18", "timm/resnet18.a1_in1k")]
)
def test_timms_own_weights_come_from_the_cache_and_the_tag_is_heeded(
    backbone: str, repository: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr("spaces.weights.try_to_load_from_cache", lambda *names, **_: asked.append(names))
    with pytest.raises(SpaceError, match=f"hf download {repository} model.safetensors"):
        build(Architecture(backbone=backbone), 4, start=Start())
    assert asked == [(repository, "model.safetensors")]


@pytest.mark.parametrize(
    ("given", "message"), [({"importance": "L2"}, "did you mean 'l2'"), ({"importance": "taylor"}, "needs a batch")]
)
def test_an_importance_that_cannot_be_computed_says_why(given: dict[str, str], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        Start(**given)  # type: ignore[arg-type]
