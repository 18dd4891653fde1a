"""simplify: the same outputs of fewer parts, and an architecture for it only where its network takes the weights."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spaces import Architecture, build
from spaces.simplify import simplify
from spaces.techniques.layer_attention.ela import SkipController
from spaces.techniques.scaling.scales import scales_of

pytestmark = pytest.mark.usefixtures("one_thread")

VIT = {"img_size": 32, "patch_size": 8, "depth": 5, "embed_dim": 48}
SIZE = (3, 32, 32)


def network(architecture: Architecture, skipped: int = 0) -> nn.Module:
    """In evaluation mode, with weights and statistics that are all different; the first gates are closed."""
    torch.manual_seed(0)
    model = build(architecture, num_classes=4)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point() and tensor.numel() > 1:
                tensor.add_(0.1 * torch.rand_like(tensor))
    for controller in model.modules():
        if isinstance(controller, SkipController):
            for gate in controller.gates[:skipped]:
                gate.skip(True)
    return model.eval()


def outputs(model: nn.Module) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(torch.randn(2, *SIZE, generator=torch.Generator().manual_seed(0)))
    return found


CONDITIONED = {"kind": "adaptive", "conditioned": True}


@pytest.mark.parametrize(
    ("backbone", "kwargs", "choices", "simpler"),
    [
        ("resnet10t", {}, {"width": 0.25, "scaling": "layerscale"}, {"width": 0.25}),
        ("convnext_atto", {}, {"width": 0.25}, {"width": 0.25, "scaling": "none"}),
        (
            "resnet10t",
            {},
            {"scaling": ["rezero", "se", CONDITIONED, "uniform"]},
            {"scaling": ["keep", "se", CONDITIONED, "keep"]},
        ),
        ("vit_tiny_patch16_224", VIT, {"layer_attention": "ela"}, {"layer_attention": "mrla_base"}),
    ],
)
def test_an_architecture_takes_the_weights(
    backbone: str, kwargs: dict[str, Any], choices: dict[str, Any], simpler: dict[str, Any]
) -> None:
    architecture = Architecture(backbone=backbone, kwargs=kwargs, choices=choices)
    model = network(architecture)
    before, names = outputs(model), model.state_dict().keys()
    simple = simplify(model, architecture, SIZE)
    assert simple.architecture == Architecture(backbone=backbone, kwargs=kwargs, choices=simpler).canonical
    again = build(simple.architecture, num_classes=4).eval()
    again.load_state_dict(simple.model.state_dict())
    for found in (simple.model, again):
        torch.testing.assert_close(outputs(found), before, rtol=1e-4, atol=1e-4 * float(before.abs().max()))
    assert len(simple.model.state_dict()) < len(names)
    assert model.state_dict().keys() == names
    assert torch.equal(outputs(model), before)


def test_what_is_skipped_is_gone_and_no_architecture_says_so() -> None:
    architecture = Architecture(backbone="vit_tiny_patch16_224", kwargs=VIT, choices={"layer_attention": "ela"})
    model = network(architecture, skipped=2)
    simple = simplify(model, architecture, SIZE)
    assert simple.architecture is None
    assert simple.notes == ("2 layer attentions that are skipped are removed",)
    torch.testing.assert_close(outputs(simple.model), outputs(model))
    count = sum(parameter.numel() for parameter in model.parameters())
    attention = sum(parameter.numel() for parameter in model.layer_attention[0][2].parameters())
    assert sum(parameter.numel() for parameter in simple.model.parameters()) == count - 2 * attention
    assert not any("gate" in name or "probing" in name for name in simple.model.state_dict())


def test_scales_of_shared_layers_stay_and_so_does_the_architecture() -> None:
    architecture = Architecture(
        backbone="convnext_atto",
        kwargs={"depths": [2, 2, 2, 2], "dims": [8, 16, 24, 32]},
        choices={"sharing": "stage", "scaling": "layerscale"},
    )
    model = network(architecture)
    simple = simplify(model, architecture, SIZE)
    assert simple.architecture == architecture.canonical
    assert simple.notes == ("8 scales stay: the weights are shared",)
    assert scales_of(simple.model).keys() == scales_of(model).keys()
    torch.testing.assert_close(outputs(simple.model), outputs(model))


def test_half_folded_and_reduced_networks_have_no_architecture() -> None:
    kwargs = {"depths": [1, 2, 1, 1], "dims": [8, 16, 24, 32]}
    partly = Architecture(
        backbone="convnext_atto",
        kwargs=kwargs,
        choices={"sharing": "stage", "scaling": {"kind": "uniform", "factor": 0.5}},
    )
    removed = Architecture(
        backbone="resnet18",
        kwargs={"channels": [16, 24, 32, 48]},
        choices={"scaling": [{"kind": "adaptive", "removed": "1"}, "adaptive", "keep", "keep"]},
    )
    for architecture, notes in (
        (partly, ("3 scales are folded into the weights before them", "2 scales stay: the weights are shared")),
        (removed, ("3 scales are folded into the weights before them",)),
    ):
        model = network(architecture)
        simple = simplify(model, architecture, SIZE)
        assert simple.architecture is None
        assert simple.notes == notes
        wanted = outputs(model)
        torch.testing.assert_close(outputs(simple.model), wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))
