"""removal: branches whose gate died really go, and the smaller network is an architecture of its own."""

import pytest
import torch
from torch import Tensor, nn

from search.costs.macs import macs
from search.costs.params import params
from spaces import Architecture, SpaceError, build
from spaces.anatomy import anatomy_of
from spaces.removal import remove_dead
from spaces.techniques.layer_attention.mrla import BaseLayer, LightLayer
from spaces.techniques.scaling.removed import First
from spaces.techniques.scaling.scales import Gate, Learned, scales_of

pytestmark = pytest.mark.usefixtures("one_thread")

SWIN: dict[str, object] = {"img_size": 64, "window_size": 4, "depths": [2, 2], "embed_dim": 24, "num_heads": [2, 4]}
BACKBONES: list[tuple[str, dict[str, object], dict[int, list[int]]]] = [  # dead branches by stage
    ("resnet26", {}, {0: [0], 1: [1], 2: [0, 1]}),
    ("convnext_atto", {}, {0: [0, 1], 2: [1, 3]}),
    ("vit_tiny_patch16_224", {"img_size": 32, "patch_size": 8, "depth": 3}, {0: [0, 3, 4, 5]}),
    ("efficientnet_b0", {}, {1: [0], 5: [0, 2]}),
    ("swin_tiny_patch4_window7_224", SWIN, {0: [0, 1], 1: [2, 3]}),
    ("mixer_s32_224", {"img_size": 64}, {0: [0, 3, 4, 5]}),
]
NAMES = [name for name, _, _ in BACKBONES]


def images(kwargs: dict[str, object]) -> Tensor:
    size = kwargs.get("img_size", 64)
    assert isinstance(size, int)
    return torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(0))


def trained(architecture: Architecture, dead: dict[int, list[int]]) -> nn.Module:
    """A network whose weights are all different, and whose gates are closed at `dead`; others stand at 1."""
    torch.manual_seed(0)
    model = build(architecture, num_classes=4)
    assert architecture.backbone is not None
    anatomy = anatomy_of(architecture.backbone, architecture.kwargs)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
        for stage, indices in dead.items():
            gates = [scale for place, scale in scales_of(model).items() if anatomy.owner(place) == stage]
            for index in indices:
                gate = gates[index]
                assert isinstance(gate, Learned | Gate)
                _ = gate.gamma.fill_(-1e-8) if isinstance(gate, Learned) else gate.bias.fill_(-1e3)
    return model


@pytest.mark.parametrize("conditioned", [False, True])
@pytest.mark.parametrize(("backbone", "kwargs", "dead"), BACKBONES, ids=NAMES)
def test_dead_branches_go_with_their_weights_and_work(
    backbone: str, kwargs: dict[str, object], dead: dict[int, list[int]], conditioned: bool
) -> None:
    gates = {"kind": "adaptive", "conditioned": conditioned}
    architecture = Architecture(backbone=backbone, kwargs=kwargs, choices={"scaling": gates})
    model, data = trained(architecture, dead), images(kwargs)
    anatomy = anatomy_of(backbone, kwargs)
    branches = [anatomy.ends(stage)[index] for stage, some in dead.items() for index in some]
    weights = {name for branch in branches for name in branch.parameters if name != branch.own_scale}
    sizes = [p.numel() for name, p in anatomy.model.named_parameters() if name in weights]
    result = remove_dead(model, architecture, [data[:2], data[2:]])
    assert not result.kept
    assert len(result.removed) == sum(map(len, dead.values()))
    gate_sizes = [p.numel() for place in result.removed for p in scales_of(model)[place].parameters()]
    assert params(model) - params(result.model) == sum(sizes) + sum(gate_sizes)
    size = (3, data.shape[-1], data.shape[-1])
    assert macs(result.model, size) < macs(model, size)
    with torch.no_grad():
        assert torch.allclose(result.model.eval()(data), model.eval()(data), rtol=1e-4, atol=1e-5)
    again = build(Architecture.from_json(result.architecture.to_json()), num_classes=4).eval()
    again.load_state_dict(result.model.state_dict())
    with torch.no_grad():
        assert torch.equal(again(data), result.model(data))


def test_the_choice_names_the_branches_and_removal_goes_on_from_there() -> None:
    architecture = Architecture(backbone="convnext_atto", choices={"scaling": "adaptive"})
    first = remove_dead(trained(architecture, {2: [1]}), architecture, [images({})])
    assert first.architecture.canonical.choices["scaling"][2] == {"kind": "adaptive", "removed": "1"}
    assert isinstance(first.model.get_submodule("stages.2.blocks.1"), First)
    nn.init.zeros_(scales_of(first.model)["stages.2.blocks.3.drop_path"].gamma)  # type: ignore[arg-type]
    second = remove_dead(first.model, first.architecture, [images({})])
    assert second.architecture.choices["scaling"][2] == {"kind": "adaptive", "removed": "1,3"}
    assert "2gone" in second.architecture.label
    assert remove_dead(second.model, second.architecture, [images({})]).removed == ()


def test_a_reduced_network_learns() -> None:
    choices = {"scaling": ["adaptive", "adaptive", {"kind": "adaptive", "removed": "0,1"}, "adaptive"]}
    model = build(Architecture(backbone="resnet26", choices=choices), num_classes=4).train()
    loss = nn.functional.cross_entropy(model(images({})), torch.arange(4))
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_removal_goes_together_with_other_dimensions() -> None:
    choices = {"scaling": "adaptive", "width": 0.5, "sharing": "stage"}
    architecture = Architecture(backbone="convnext_atto", choices=choices)
    model = trained(architecture, {0: [1], 2: [0, 2]})
    result = remove_dead(model, architecture, [images({})])
    assert len(result.removed) == 3
    assert macs(result.model, (3, 64, 64)) < macs(model, (3, 64, 64))


@pytest.mark.parametrize("attention", ["mrla_base", "mrla_light", "ela"])
@pytest.mark.parametrize(("backbone", "kwargs", "dead"), [BACKBONES[0], BACKBONES[1], BACKBONES[2]], ids=NAMES[:3])
def test_attention_between_layers_goes_on_over_what_is_left_of_a_block(
    backbone: str, kwargs: dict[str, object], dead: dict[int, list[int]], attention: str
) -> None:
    """Also where it takes the shortcut from a part that is gone, and gives a block negative inputs."""
    architecture = Architecture(
        backbone=backbone, kwargs=kwargs, choices={"scaling": "adaptive", "layer_attention": attention}
    )
    model = trained(architecture, dead)
    result = remove_dead(model, architecture, [images(kwargs)])
    assert len(result.removed) == sum(map(len, dead.values()))
    assert layers_run(result.model, images(kwargs)) == layers_run(model, images(kwargs)) > 0
    with torch.no_grad():
        assert torch.allclose(result.model(images(kwargs)), model(images(kwargs)), rtol=1e-4, atol=1e-4)


def layers_run(model: nn.Module, data: Tensor) -> int:
    """How often layer attention is called in a forward pass in evaluation mode."""
    calls: list[str] = []
    hooks = [
        layer.register_forward_hook(lambda *_: calls.append("layer"))
        for layer in model.modules()
        if isinstance(layer, BaseLayer | LightLayer)
    ]
    with torch.no_grad():
        model.eval()(data)
    for hook in hooks:
        hook.remove()
    return len(calls)


def test_what_cannot_be_replaced_stays_and_says_why() -> None:
    """The second half of this block takes what the first half, whose gates are open, puts out in another layout."""
    architecture = Architecture(backbone="edgenext_xx_small", choices={"scaling": "adaptive"})
    model = build(architecture, num_classes=4)
    for place in ("stages.0.blocks.1.drop_path", "stages.1.blocks.1.mlp"):
        nn.init.zeros_(scales_of(model)[place].gamma)  # type: ignore[arg-type]
    result = remove_dead(model, architecture, [images({})])
    assert result.removed == ("stages.0.blocks.1.drop_path",)
    reason = "nothing that stands in for it in stages.1.blocks.1 gives the same output"
    assert result.kept == {"stages.1.blocks.1.mlp": reason}
    choices = ["keep", {"kind": "adaptive", "removed": "2"}, "keep", "keep"]
    with pytest.raises(SpaceError, match=f"branch 2 of stage 2 cannot be removed: {reason}"):
        build(Architecture(backbone="edgenext_xx_small", choices={"scaling": choices}), num_classes=4)


def test_open_gates_stay() -> None:
    architecture = Architecture(backbone="resnet10t", choices={"scaling": "adaptive"})
    model = build(architecture, num_classes=4)
    result = remove_dead(model, architecture, [images({})])
    assert (result.model, result.removed, result.kept) == (model, (), {})
