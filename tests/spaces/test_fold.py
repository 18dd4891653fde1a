"""fold: static scales go into the weights before them; the same outputs, and no operator more."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from spaces import Architecture, SpaceError, build
from spaces.anatomy import anatomy_of
from spaces.fold import fold
from spaces.techniques.scaling.scales import Learned, Scale, scales_of

pytestmark = pytest.mark.usefixtures("one_thread")

VIT = ("vit_tiny_patch16_224", {"img_size": 32, "patch_size": 8, "depth": 2})
BACKBONES: list[tuple[str, dict[str, object]]] = [
    ("resnet10t", {}),
    ("convnext_atto", {}),
    VIT,
    ("nf_regnet_b0", {}),
]
STATIC = [
    "uniform",
    "rezero",
    "layerscale",
    "groupwise",
    "adaptive",
]  # skipinit, layerwise, channel differ in their start


def network(backbone: str, kwargs: dict[str, object], scaling: object, **others: object) -> nn.Module:
    """In evaluation mode, in double precision, with weights and statistics that are all different."""
    torch.manual_seed(0)
    model = build(Architecture(backbone=backbone, kwargs=kwargs, choices={"scaling": scaling, **others}), num_classes=4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for buffer in model.buffers():
            if buffer.is_floating_point():
                buffer.add_(0.1 * torch.rand_like(buffer))
    return model.eval().double()


def image(backbone: str, kwargs: dict[str, object]) -> Tensor:
    size = kwargs.get("img_size", 64)
    assert isinstance(size, int)
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0)).double()


class Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what runs."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[str(func.overloadpacket)] += 1
        return func(*args, **(kwargs or {}))


def operators(model: nn.Module, images: Tensor) -> Counter[str]:
    counter = Operators()
    with torch.no_grad(), counter:
        model(images)
    return counter.counts


@pytest.mark.parametrize("kind", STATIC)
@pytest.mark.parametrize(("backbone", "kwargs"), BACKBONES, ids=lambda value: value if isinstance(value, str) else "")
def test_folding_changes_no_output_and_leaves_no_operator(backbone: str, kwargs: dict[str, object], kind: str) -> None:
    images = image(backbone, kwargs)
    model, plain = network(backbone, kwargs, kind), network(backbone, kwargs, "none")
    with torch.no_grad():
        before = model(images)
    assert operators(model, images) != operators(plain, images)
    assert fold(model) == []
    assert not scales_of(model)
    with torch.no_grad():
        assert torch.allclose(model(images), before, rtol=1e-9)
    assert operators(model, images) == operators(plain, images)
    assert model.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize(
    ("backbone", "kwargs"),
    [
        ("convnext_atto", {}),
        ("edgenext_xx_small", {}),
        ("cait_xxs24_224", {"img_size": 32, "patch_size": 8, "depth": 2}),
        ("vit_tiny_patch16_224", {**VIT[1], "init_values": 0.1}),
    ],
)
def test_the_models_own_scales_fold_too(backbone: str, kwargs: dict[str, object]) -> None:
    images = image(backbone, kwargs)
    model = network(backbone, kwargs, "keep")
    own = {branch.own_scale for branch in anatomy_of(backbone, kwargs).branches if branch.own_scale}
    with torch.no_grad():
        before = model(images)
    names = model.state_dict().keys()
    assert fold(model) == []
    assert names - model.state_dict().keys() == own
    with torch.no_grad():
        assert torch.allclose(model(images), before, rtol=1e-9)


@pytest.mark.parametrize(
    ("backbone", "kwargs", "kind"),
    [
        ("vgg11", {"mlp_ratio": 0.01}, "channel"),
        ("densenet121", {"block_config": [2, 2], "growth_rate": 8}, "groupwise"),
    ],
)
def test_ends_of_blocks_without_shortcut_fold(backbone: str, kwargs: dict[str, object], kind: str) -> None:
    model = network(backbone, kwargs, kind).float()
    images = image(backbone, kwargs).float()[:1]
    with torch.no_grad():
        before = model(images)
        assert fold(model) == []
        assert torch.allclose(model(images), before, rtol=1e-3, atol=1e-5 * float(before.abs().max()))


def test_private_scales_of_shared_layers_fold_into_private_norms_only() -> None:
    """ConvNeXt's branch ends in a shared layer: its scales stay. ResNet's ends in a norm of its own."""
    tied = network("convnext_atto", {}, "layerscale", sharing="stage")
    images = image("convnext_atto", {})
    with torch.no_grad():
        before = tied(images)
    left = fold(tied)
    assert left
    assert all(line.endswith("the weights are shared") for line in left)
    assert len(scales_of(tied)) == len(left)
    with torch.no_grad():
        assert torch.allclose(tied(images), before, rtol=1e-9)
    assert fold(network("resnet18", {}, "layerscale", sharing="stage")) == []


class Activated(nn.Module):
    """conv, scale, activation, scale."""

    def __init__(self, activation: nn.Module, first: Scale, second: Scale):
        super().__init__()
        self.conv, self.activation, self.first, self.second = nn.Conv2d(3, 4, 3), activation, first, second

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.second(self.activation(self.first(self.conv(x))))
        return result


@pytest.mark.parametrize(
    ("activation", "factor", "left"),
    [
        (nn.ReLU(inplace=True), 2.0, []),
        (nn.LeakyReLU(), 2.0, []),
        (nn.ReLU(), -2.0, ["b: it has factors below 0 and comes after aten.relu"]),
        (nn.GELU(), 2.0, ["b: it comes after aten.gelu"]),
        (nn.Hardtanh(0, 6), 2.0, ["b: it comes after aten.hardtanh"]),
    ],
)
def test_factors_pass_through_an_activation_only_where_that_is_exact(
    activation: nn.Module, factor: float, left: list[str]
) -> None:
    def learned(place: str, start: float) -> Scale:
        return Learned(place, 2, channels=4, count=4, start=start, strength=0.0, device="cpu")

    model = Activated(activation, learned("a", -3.0), learned("b", factor))
    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        before = model(images)
        assert fold(model, (3, 8, 8)) == left
        assert torch.allclose(model(images), before, atol=1e-5)
    assert len(scales_of(model)) == len(left)


def test_a_model_that_names_no_size_needs_one() -> None:
    with pytest.raises(SpaceError, match="give their size, as"):
        fold(nn.Sequential(nn.Conv2d(3, 4, 3)))
