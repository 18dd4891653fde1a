"""Layer attention has its published size and place, and works on any backbone that has layers."""

import copy
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_model, save_model
from timm.layers import DropPath
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from spaces import Architecture, SpaceError, build
from spaces.techniques.layer_attention import LayerAttention, head_dim
from spaces.techniques.layer_attention.mrla import BaseLayer, LightLayer
from tests.spaces.attended import FAMILIES, SMALL, attentions, awake, images_for, network

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("backbone", "classes", "base", "light"),
    [
        ("resnet50", 1000, 166_316, 181_420),
        ("resnet101", 1000, 357_974, 390_486),
        ("cifar_resnet20", 100, 9_908, 10_804),
        ("cifar_resnet56", 100, 29_724, 32_412),
        ("cifar_resnet110", 100, 59_448, 64_824),
    ],
)
def test_added_parameters_are_as_published(backbone: str, classes: int, base: int, light: int) -> None:
    """Of the reference implementation's placement, in 2302.03985's ResNets and DLA's CIFAR ResNets."""
    with torch.device("meta"):
        models = [timm.create_model(backbone, num_classes=classes)]
        for kind in ("mrla_base", "mrla_light"):
            models.append(build(Architecture(backbone=backbone, choices={"layer_attention": kind}), classes))
    counts = [sum(parameter.numel() for parameter in model.parameters()) for model in models]
    assert (counts[1] - counts[0], counts[2] - counts[0]) == (base, light)


class _OnMaps(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts multiply-accumulates that give feature maps: convolutions, and maps times weights."""

    macs = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket is torch.ops.aten.convolution and result.ndim == 4:
            self.macs += result.numel() * math.prod(args[1].shape[1:])
        elif func.overloadpacket in (torch.ops.aten.mul, torch.ops.aten.addcmul) and result.ndim == 4:
            self.macs += result.numel()
        elif func.overloadpacket is torch.ops.aten.bmm:
            self.macs += result.numel() * args[0].shape[-1]
        return result


@pytest.mark.parametrize(("kind", "millions"), [("mrla_base", 63.3), ("mrla_light", 60.7)])
def test_added_macs_are_as_published(kind: str, millions: float) -> None:
    """On the feature maps of ResNet-50 at 224; what Q and K add (0.2M) is left out."""
    macs = []
    for choice in ("none", kind):
        with torch.device("meta"), torch.no_grad(), _OnMaps() as counter:
            model = build(Architecture(backbone="resnet50", choices={"layer_attention": choice}), 1000).eval()
            counter.macs = 0
            model(torch.empty(1, 3, 224, 224))
        macs.append(counter.macs)
    assert (macs[1] - macs[0]) / 1e6 == pytest.approx(millions, abs=0.1)


def test_heads_divide_the_channels() -> None:
    assert [head_dim(channels, 16) for channels in (64, 40, 24, 7, 2048)] == [16, 20, 12, 7, 16]
    assert head_dim(36, 32) == 36


@pytest.mark.parametrize("kind", ["mrla_base", "mrla_light", "ela"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_learns_and_every_new_parameter_with_it(family: str, kind: str, tmp_path: Path) -> None:
    model, images = network(family, layer_attention=kind).train(), images_for(family)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for _ in range(6):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images), torch.tensor([0, 1]))
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    new = dict(model.layer_attention.named_parameters())  # type: ignore[union-attr]
    assert all(p.grad is not None and p.grad.any() for p in new.values() if p.requires_grad)
    fixed = [name for name, p in new.items() if not p.requires_grad]
    first = [layer for layer in model.modules() if isinstance(layer, BaseLayer) and layer.position == 0]
    assert len(fixed) == len(first)
    expected = model.eval()(images)
    assert torch.equal(copy.deepcopy(model)(images), expected)
    save_model(model, str(tmp_path / "model.safetensors"))
    other = network(family, seed=1, layer_attention=kind).eval()
    assert not torch.equal(other(images), expected)
    load_model(other, tmp_path / "model.safetensors")
    assert torch.equal(other(images), expected)


@pytest.mark.parametrize(("family", "kind"), [("resnet", "mrla_light"), ("vit", "mrla_base")])
def test_compiled_it_trains_the_same(family: str, kind: str) -> None:
    model, images = awake(network(family, layer_attention=kind)).train(), images_for(family)
    other = copy.deepcopy(model)
    torch._dynamo.reset()
    compiled = torch.compile(other, backend="aot_eager", fullgraph=True)
    for net in (model, compiled):
        net(images).square().sum().backward()
    for (name, one), two in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(two.grad, one.grad, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize(("family", "kind"), [("resnet", "mrla_base"), ("vit", "mrla_light")])
def test_exported_it_computes_the_same(family: str, kind: str) -> None:
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package)
    runtime = pytest.importorskip("onnxruntime")
    model, images = awake(network(family, layer_attention=kind)).eval(), images_for(family)
    with torch.no_grad():
        expected = model(images)
        program = torch.export.export(model, (images,), strict=False)
        torch.testing.assert_close(program.module()(images), expected)
        content = io.BytesIO()
        torch.onnx.export(model, (images,), content, dynamo=True, verbose=False)
    session = runtime.InferenceSession(content.getvalue(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["mrla_base", "mrla_light"])
def test_it_comes_last_in_any_combination(kind: str) -> None:
    choices = {"width": 0.5, "norm": "group", "sharing": "stage", "scaling": "layerscale", "layer_attention": kind}
    model = network("vit", in_chans=1, **choices).train()
    model(images_for("vit", in_chans=1)).sum().backward()
    assert [attention.retrieval.value.in_channels for attention in attentions(model)] == [24] * 6
    assert len({id(attention.retrieval.value.weight) for attention in attentions(model)}) == 6


@pytest.mark.parametrize(
    ("pool", "depth", "layers"),
    [("token", 7, 6), ("avg", 7, 7), ("avg", 5, 4), ("token", 6, 4)],
)
def test_no_block_is_a_layer_that_nothing_reads_or_that_sees_only_itself(pool: str, depth: int, layers: int) -> None:
    """After the last block only the class token is read; of five layers the last is alone in its run of four."""
    backbone, kwargs = FAMILIES["vit"]
    kwargs = {**kwargs, "global_pool": pool, "depth": depth}
    model = build(Architecture(backbone=backbone, kwargs=kwargs, choices={"layer_attention": "mrla_base"}), 4)
    assert len(attentions(model)) == layers


def test_names_of_the_backbone_stay() -> None:
    plain = network("resnet").state_dict()
    with_attention = network("resnet", layer_attention="mrla_light").state_dict()
    assert [name for name in with_attention if not name.startswith("layer_attention.")] == list(plain)


def test_stochastic_depth_is_that_of_the_block() -> None:
    kwargs = {**SMALL, "drop_path_rate": 0.3}
    model = build(Architecture(backbone="cifar_resnet20", kwargs=kwargs, choices={"layer_attention": "mrla_base"}), 4)
    drops = [layer.update.drop_path for layer in model.modules() if isinstance(layer, BaseLayer | LightLayer)]
    rates = [drop.drop_prob if isinstance(drop, DropPath) else 0.0 for drop in drops]
    assert rates == pytest.approx([0.3 * block / 6 for block in range(7)])


def canonical(backbone: str, kwargs: dict[str, Any], choice: object) -> Any:
    architecture = Architecture(backbone=backbone, kwargs=kwargs, choices={"layer_attention": choice})
    return architecture.canonical.choices.get("layer_attention")


def test_what_changes_nothing_is_dropped() -> None:
    assert canonical("cifar_resnet20", {}, "ela") == "mrla_base"  # no third layer that could be skipped
    assert canonical("cifar_resnet20", SMALL, "ela") == ["ela", "mrla_base", "mrla_base"]
    assert canonical("cifar_resnet20", SMALL, {"kind": "ela", "skip_threshold": 0.3}) == ["ela", *["mrla_base"] * 2]
    assert canonical("resnet18", {"layers": [1, 2, 1, 1]}, "mrla_light") == ["none", "mrla_light", "none", "none"]
    assert canonical("cifar_resnet20", {}, "none") is None
    several = {"kind": "ela", "rule": "none", "skip_threshold": 0.5, "warm_up": 0.5, "probe_every": 0}
    assert canonical("cifar_resnet20", SMALL, several) == [{"kind": "ela", "rule": "none"}, "mrla_base", "mrla_base"]


def test_heads_of_one_size_are_one_architecture() -> None:
    wide = {**SMALL, "channels": [8, 24, 8]}  # 32, 96 and 32 channels come out of the stages

    def of(kind: str, size: int) -> Any:
        return canonical("cifar_resnet20", wide, {"kind": kind, "head_dim": size})

    assert of("mrla_base", 16) == of("mrla_base", 0) == of("mrla_base", 17) == "mrla_base"
    assert of("mrla_light", 32) == of("mrla_light", 31) == "mrla_light"
    assert of("mrla_base", 33) == of("mrla_base", 32) == {"kind": "mrla_base", "head_dim": 32}
    assert of("mrla_base", 24) == ["mrla_base", {"kind": "mrla_base", "head_dim": 24}, "mrla_base"]  # 16, 24, 16
    assert of("ela", 5) == [{"kind": "ela", "head_dim": 4}, *[{"kind": "mrla_base", "head_dim": 4}] * 2]


def test_heads_are_as_many_as_chosen() -> None:
    model = network("resnet", layer_attention={"kind": "mrla_base", "head_dim": 8}, width=0.5)
    assert {attention.retrieval.shape for attention in attentions(model)} == {(2, 8)}


@pytest.mark.parametrize(
    ("backbone", "kwargs", "message"),
    [
        ("vgg11", {}, "it has no residual blocks"),
        ("densenet121", {}, "it has no residual blocks"),
        ("resnet10t", {}, "no stage chosen has two residual blocks that put out feature maps"),
        ("tnt_s_legacy_patch16_224", {"depth": 2}, "its residual blocks put out more than one tensor"),
    ],
)
def test_where_it_does_not_apply_it_says_why(backbone: str, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        canonical(backbone, kwargs, "mrla_base")


@pytest.mark.parametrize("threshold", [0.0, 1.0, -1, "often"])
def test_a_threshold_is_a_share(threshold: object) -> None:
    with pytest.raises(ValueError, match="skip_threshold"):
        LayerAttention().check({"kind": "ela", "skip_threshold": threshold})
