"""Attention over layers computes what is published: the formulas, one by one, against code written anew."""

import math

import pytest
import torch
from torch import Tensor, nn

from spaces.techniques.layer_attention.mrla import BaseAttention, BaseLayer, kernel_of
from tests.spaces.attended import attentions, awake, images_for, network

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(("channels", "taps"), [(64, 3), (256, 5), (512, 5), (1024, 5), (2048, 7)])
def test_kernels_of_q_and_k_are_as_published(channels: int, taps: int) -> None:
    assert kernel_of(channels) == taps


def naive(attention: BaseAttention, keys: list[Tensor], values: list[Tensor], maps: Tensor) -> Tensor:
    """The reference's way, with a concatenation of all keys and values for every layer."""
    retrieval = attention.retrieval
    heads, size = retrieval.shape
    pooled = nn.functional.adaptive_avg_pool2d(maps, 1).flatten(1).unsqueeze(1)
    keys.append(retrieval.key(pooled))
    values.append(retrieval.value(maps).unsqueeze(1))
    query = retrieval.query(pooled).view(len(maps), heads, 1, size)
    key = torch.cat(keys, 1).view(len(maps), -1, heads, size).transpose(1, 2)
    value = torch.cat(values, 1).view(len(maps), -1, heads, size * maps[0, 0].numel()).transpose(1, 2)
    weights = torch.softmax(query @ key.transpose(-1, -2) / math.sqrt(size), -1)
    return (weights @ value).reshape(maps.shape)


def test_the_base_form_equals_the_reference_with_its_gradients() -> None:
    model = awake(network("resnet", layer_attention="mrla_base")).train()
    for attention in attentions(model):
        nn.init.normal_(attention.retrieval.query.weight, std=3.0)
    images = images_for("resnet")
    expected = model(images)
    expected.square().sum().backward()
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    for stage in model.layer_attention:  # type: ignore[union-attr]
        keys: list[Tensor] = []
        values: list[Tensor] = []
        for layer in stage:
            attention = layer.update.attention
            attention.forward = lambda maps, a=attention, k=keys, v=values: naive(a, k, v, maps)
    found = model(images)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    found.square().sum().backward()
    again = [p.grad for p in model.parameters() if p.grad is not None]
    torch.testing.assert_close(again, gradients, rtol=1e-3, atol=1e-4)


def test_the_base_form_adds_relu_of_bn_after_the_block() -> None:
    model = network("resnet", layer_attention="mrla_base").eval()
    layer = model.layer_attention[0][0]  # type: ignore[index]
    seen: dict[str, Tensor] = {}
    model.get_submodule("layer1.0.act3").register_forward_hook(lambda m, a, out: seen.update(block=out))
    model.get_submodule("layer1.1").register_forward_pre_hook(lambda m, args: seen.update(next=args[0]))
    model(images_for("resnet"))
    value = layer.update.attention.retrieval.value(seen["block"])  # over one layer, all the weight is on it
    torch.testing.assert_close(seen["next"], seen["block"] + torch.relu(layer.update.norm(value)))


@pytest.mark.parametrize("block", [0, 1])
def test_the_light_form_carries_the_shortcut_after_its_projection(block: int) -> None:
    model = awake(network("resnet", layer_attention="mrla_light")).eval()
    layer = model.layer_attention[1][block]  # type: ignore[index]
    seen: dict[str, Tensor] = {}
    model.get_submodule(f"layer2.{block}.act3").register_forward_hook(lambda m, a, out: seen.update(block=out))
    model.get_submodule(f"layer2.{block}").register_forward_pre_hook(lambda m, args: seen.update(given=args[0]))
    model.get_submodule(f"layer2.{block}").register_forward_hook(lambda m, a, out: seen.update(out=out))
    model(images_for("resnet"))
    attention, x = layer.update.attention, seen["block"]
    shortcut = model.get_submodule("layer2.0.downsample")(seen["given"]) if block == 0 else seen["given"]
    heads, size = attention.retrieval.shape
    pooled = x.mean((2, 3)).unsqueeze(1)
    query, key = (one(pooled).view(2, heads, size) for one in (attention.retrieval.query, attention.retrieval.key))
    weight = torch.sigmoid((query * key).sum(-1) / math.sqrt(size)).repeat_interleave(size, 1)[..., None, None]
    out = weight * attention.retrieval.value(x) + attention.carry.view(1, -1, 1, 1) * shortcut
    torch.testing.assert_close(seen["out"], x + layer.update.norm(out), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["mrla_base", "mrla_light"])
def test_class_tokens_get_their_norm_only(kind: str) -> None:
    model = network("vit", layer_attention=kind).eval()
    layer, tokens = model.layer_attention[0][0], torch.randn(2, 17, 48)  # type: ignore[index]
    previous = () if kind == "mrla_base" else (torch.randn(2, 17, 48),)
    out = layer.update(tokens, *previous)
    torch.testing.assert_close(out[:, 0], tokens[:, 0] + layer.update.norm(tokens[:, 0]))
    moved = tokens.clone()
    moved[:, 0] += 1
    if kind == "mrla_base":
        layer.history.arrive(0)
    torch.testing.assert_close(layer.update(moved, *previous)[:, 1:], out[:, 1:])


def test_tokens_lie_in_rows_as_the_image_does() -> None:
    model = network("vit", layer_attention="mrla_base").eval()
    update = model.layer_attention[0][0].update  # type: ignore[index]
    value = update.attention.retrieval.value.weight
    nn.init.zeros_(value)
    with torch.no_grad():
        value[:, :, 0, 1] = 1.0  # each position takes that of the one above it
    tokens = torch.randn(2, 17, 48)
    normed, added = update.norm(tokens)[:, 1:], (update(tokens) - tokens)[:, 1:]
    torch.testing.assert_close(added[:, 4:], normed[:, :-4], rtol=1e-4, atol=1e-5)
    assert not added[:, :4].any()


@pytest.mark.parametrize(
    ("family", "seen"),
    [("resnet", [1, 2, 3, 1, 2, 1, 2]), ("vit", [1, 2, 3, 4, 1, 2]), ("swin", [1, 2, 1, 2])],
)
def test_what_is_seen_starts_anew_in_each_stage_and_every_fourth_block_of_tokens(family: str, seen: list[int]) -> None:
    model = network(family, layer_attention="mrla_base").eval()
    layers = [layer for layer in model.modules() if isinstance(layer, BaseLayer)]
    lengths: list[int] = []
    for layer in layers:
        layer.update.register_forward_hook(lambda m, a, out, h=layer.history: lengths.append(len(h.keys)))
    model(images_for(family))
    assert lengths == seen
    assert not any(layer.history.keys for layer in layers)


@pytest.mark.parametrize("kind", ["mrla_base", "mrla_light"])
def test_a_pass_that_breaks_off_leaves_the_next_one_as_it_is(kind: str) -> None:
    model, images = network("resnet", layer_attention=kind).eval(), images_for("resnet")
    expected = model(images)

    def fail(module: nn.Module, given: object) -> None:
        raise KeyboardInterrupt

    hook = model.get_submodule("layer1.2.conv2").register_forward_pre_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        model(images)
    hook.remove()
    assert torch.equal(model(images), expected)


def test_half_precision_keeps_the_softmax_exact() -> None:
    model, images = network("resnet", layer_attention="mrla_base").eval(), images_for("resnet")
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        model(images)
        layer = model.layer_attention[0][0]  # type: ignore[index]
        layer.update.attention(torch.randn(2, 32, 8, 8))
    assert layer.history.logits[0].dtype == torch.float32
