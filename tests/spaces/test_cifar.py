"""ResNets for small images are timm models like any other: in its registry, in the anatomy, in every dimension."""

import multiprocessing
import pickle

import pytest
import timm
import torch
from torch import nn

from spaces import Architecture, build
from spaces.anatomy import anatomy_of

# Depth, and parameters of trunk and classifier with 100 classes.
TRUNKS = {20: 243_508, 56: 614_452, 110: 1_170_868}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("depth", TRUNKS)
def test_trunks_are_as_published(depth: int) -> None:
    """0.244M, 0.614M and 1.171M: bottlenecks with 16, 32, 64 planes, depth 9n + 2."""
    with torch.device("meta"):
        model = timm.create_model(f"cifar_resnet{depth}", num_classes=100)
    assert _count(model) == TRUNKS[depth]
    stacked = [m for name, m in model.named_modules() if isinstance(m, nn.Conv2d) and "downsample" not in name]
    assert len(stacked) + 1 == depth  # and the classifier


def test_timm_lists_them_with_their_image_size() -> None:
    assert timm.list_models("cifar_resnet*") == ["cifar_resnet20", "cifar_resnet56", "cifar_resnet110"]
    assert all(timm.is_model(name) for name in timm.list_models("cifar_resnet*"))
    assert timm.get_pretrained_cfg("cifar_resnet20").input_size == (3, 32, 32)
    assert anatomy_of("cifar_resnet20", {}).image_size == 32


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _count_of(payload: bytes) -> int:
    return _count(pickle.loads(payload))


def test_a_process_that_gets_a_pickled_one_needs_nothing_else() -> None:
    model = timm.create_model("cifar_resnet20", num_classes=100)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_count_of, (pickle.dumps(model),)) == TRUNKS[20]


def test_resolutions_are_32_16_and_8() -> None:
    model = timm.create_model("cifar_resnet20", features_only=True)
    shapes = [tuple(maps.shape[1:]) for maps in model(torch.randn(1, 3, 32, 32))]
    assert shapes[:4] == [(16, 32, 32), (64, 32, 32), (128, 16, 16), (256, 8, 8)]


def test_the_anatomy_finds_three_stages_of_n_residual_blocks() -> None:
    anatomy = anatomy_of("cifar_resnet56", {})
    assert [len(stage.blocks) for stage in anatomy.stages] == [6, 6, 6]
    assert len(anatomy.branches) == 18


@pytest.mark.parametrize(
    "choices",
    [{"width": 0.5}, {"sharing": "stage", "scaling": "rezero"}, {"width": 0.5, "layer_attention": "mrla_base"}],
    ids=str,
)
def test_every_dimension_takes_them(choices: dict[str, object]) -> None:
    torch.manual_seed(0)
    kwargs = {"layers": [3, 3, 3]}
    model = build(Architecture(backbone="cifar_resnet20", kwargs=kwargs, choices=choices), num_classes=4, in_chans=1)
    images, labels = torch.randn(8, 1, 32, 32), torch.arange(8) % 4
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert sum(p.numel() for p in model.parameters()) < _count(timm.create_model("cifar_resnet20", **kwargs))


def test_what_the_stem_needs_cannot_be_changed() -> None:
    with pytest.raises(TypeError, match="stem_type"):
        timm.create_model("cifar_resnet20", stem_type="deep")
