"""What layers leave for later ones is there when it is needed, and only then: passes, copies, checkpointing, types."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from spaces import Architecture, build
from spaces.techniques.layer_attention import history
from spaces.techniques.layer_attention.mrla import BaseAttention, BaseLayer
from tests.spaces.attended import FAMILIES, attentions, awake, images_for, network

pytestmark = pytest.mark.usefixtures("one_thread")


def attending(family: str, kind: str = "mrla_base") -> nn.Module:
    """In training mode, and with attention that is far from uniform."""
    model = awake(network(family, layer_attention=kind)).train()
    for attention in attentions(model):
        nn.init.normal_(attention.retrieval.query.weight, std=3.0)
    return model


def gradients(model: nn.Module, loss: Callable[[], Tensor]) -> dict[str, Tensor]:
    model.zero_grad()
    torch.manual_seed(0)
    loss().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def in_parts(model: nn.Module, parts: int, reentrant: bool = False) -> Callable[[Tensor], Tensor]:
    """The network with each part of the blocks of its middle stages under activation checkpointing."""

    def run(images: Tensor) -> Tensor:
        net: Any = model
        x = net.maxpool(net.act1(net.bn1(net.conv1(images))))
        for stage in (net.layer1, net.layer2, net.layer3):
            blocks = list(stage)
            size = max(1, len(blocks) // parts)
            for start in range(0, len(blocks), size):
                x = checkpoint(nn.Sequential(*blocks[start : start + size]), x, use_reentrant=reentrant)
        return net.forward_head(x)  # type: ignore[no-any-return]

    return run


@pytest.mark.parametrize("parts", [1, 3])
def test_checkpointed_in_parts_it_learns_the_same(parts: int) -> None:
    model, images = attending("resnet"), images_for("resnet")
    expected = gradients(model, lambda: model(images).square().sum())
    run = in_parts(model, parts)
    for _ in range(2):
        found = gradients(model, lambda: run(images).square().sum())
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["mrla_base", "mrla_light", "ela"])
@pytest.mark.parametrize("family", ["vit", "convnext"])
def test_timms_checkpointing_changes_nothing(family: str, kind: str) -> None:
    model, images = attending(family, kind), images_for(family)
    expected = gradients(model, lambda: model(images).square().sum())
    model.set_grad_checkpointing(True)
    torch.testing.assert_close(gradients(model, lambda: model(images).square().sum()), expected, rtol=1e-4, atol=1e-5)


def test_a_layer_computed_again_is_measured_once() -> None:
    kwargs = {"layers": [5, 2, 2], "channels": [8, 8, 8]}
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(
            build(Architecture(backbone="cifar_resnet20", kwargs=kwargs, choices={"layer_attention": "ela"}), 4)
        )
    images, measured = torch.randn(2, 3, 16, 16), []
    for model, run in zip(models, (models[0], in_parts(models[1], 5)), strict=True):
        run(images).square().sum().backward()
        measured.append(model.skip_controller.divergences)  # type: ignore[union-attr]
    assert measured[0] == measured[1] != (None,) * 3


def test_where_it_cannot_be_told_what_is_computed_again_that_is_said() -> None:
    model, images = attending("resnet"), images_for("resnet")
    run = in_parts(model, 3)
    two = run(images).sum() + run(images + 1).sum()
    with pytest.raises(RuntimeError, match="more than one forward pass waits"):
        two.backward()
    del two
    with pytest.raises(RuntimeError, match="use_reentrant=False"):
        in_parts(model, 3, reentrant=True)(images.requires_grad_()).sum().backward()


def test_two_passes_before_one_backward_pass_do_not_mix() -> None:
    model, images = attending("resnet").eval(), images_for("resnet")
    one = gradients(model, lambda: model(images).square().sum())
    other = gradients(model, lambda: model(images + 1).square().sum())
    both = gradients(model, lambda: model(images).square().sum() + model(images + 1).square().sum())
    torch.testing.assert_close(both, {name: one[name] + other[name] for name in one}, rtol=1e-4, atol=1e-5)


def test_going_back_twice_and_half_way_gives_whole_gradients() -> None:
    model, images = attending("resnet").eval(), images_for("resnet")
    expected = gradients(model, lambda: model(images).square().sum())
    loss = model(images).square().sum()
    last = model.layer_attention[0][2].update.attention.retrieval.value.weight  # type: ignore[index]
    torch.autograd.grad(loss, [last], retain_graph=True)  # comes to the third layer of three
    for _ in range(2):
        model.zero_grad()
        loss.backward(retain_graph=True)
        found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("loss", ["last", "every"])
def test_gradients_are_whole_where_nothing_else_leads_from_layer_to_layer(
    loss: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in training block by block: each block's input is cut off from what made it."""
    model, images = attending("resnet"), images_for("resnet")
    blocks, outs = [block for stage in (model.layer1, model.layer2, model.layer3) for block in stage], list[Tensor]()
    for block in blocks:
        block.register_forward_pre_hook(lambda _module, inputs: (inputs[0].detach(), *inputs[1:]))
        block.register_forward_hook(lambda _module, _inputs, out: outs.append(out))

    def losses() -> Tensor:
        outs.clear()
        answer: Tensor = model(images)
        return answer.square().sum() + (sum(out.square().mean() for out in outs) if loss == "every" else 0.0)

    found = gradients(model, losses)
    monkeypatch.setattr(history, "_whole", lambda: True)
    torch.testing.assert_close(found, gradients(model, losses), rtol=1e-4, atol=1e-5)


def test_gradients_of_gradients_are_refused() -> None:
    model, images = attending("resnet"), images_for("resnet").requires_grad_()
    (gradient,) = torch.autograd.grad(model(images).square().sum(), images, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_a_network_whose_pass_broke_off_can_be_copied() -> None:
    model, images = attending("resnet", "mrla_light"), images_for("resnet")
    model.layer2[1].register_forward_hook(lambda *_: 1 / 0, prepend=True)
    with pytest.raises(ZeroDivisionError):
        model(images)
    copy.deepcopy(model)


def test_a_network_can_be_copied_and_pickled_in_the_middle_of_a_pass() -> None:
    model, images = attending("resnet").eval(), images_for("resnet")
    stages: Any = model.layer_attention
    copies: list[nn.Module] = []

    def take(module: nn.Module, given: object, out: object) -> None:
        assert len(stages[0][0].history.keys) == 2
        handle.remove()
        copies.extend((copy.deepcopy(model), pickle.loads(pickle.dumps(stages))))

    handle = stages[0][1].register_forward_hook(take)
    expected = model(images)
    assert torch.equal(copies[0](images), expected)
    assert not any(layer.history.keys for layer in copies[1].modules() if isinstance(layer, BaseLayer))


@pytest.mark.parametrize("compiled", [0, 1])
def test_blocks_compiled_one_by_one_give_the_same_or_a_reason(compiled: int) -> None:
    model, images = attending("resnet").eval(), images_for("resnet")
    expected = model(images)
    torch._dynamo.reset()
    model.layer2[compiled].compile(backend="aot_eager")
    if compiled == 0:  # of the stage's first block the others see what it left
        torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-5)
    else:
        with pytest.raises(RuntimeError, match="compile the whole model, or every block of the stage"):
            model(images)


def test_nothing_of_a_pass_is_kept_when_it_is_over() -> None:
    model, images = attending("resnet"), images_for("resnet")
    histories = [layer.history for layer in model.modules() if isinstance(layer, BaseLayer)]
    loss = model(images).square().sum()
    assert all(history._last is not None and history._last() is not None for history in histories)
    loss.backward()  # a loss that is kept for later
    assert all(history._last().maps is None for history in histories)  # type: ignore[misc, union-attr]
    del loss
    assert all(history._last() is None for history in histories)  # type: ignore[misc]
    with torch.no_grad():
        model(images)
    assert all(history._values is None and not history.keys for history in histories)


@pytest.mark.parametrize("family", list(FAMILIES))
def test_half_precision_keeps_to_its_type_and_near_the_exact_values(family: str) -> None:
    model, images = attending(family), images_for(family)
    assert any(isinstance(one, BaseAttention) for one in attentions(model))
    model.eval()
    expected = gradients(model, lambda: model(images).float().square().sum())
    types = set()
    for attention in attentions(model):
        attention.register_forward_hook(lambda m, a, out: types.add(out.dtype))

    def loss() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return model(images).float().square().sum()

    found = gradients(model, loss)
    assert types == {torch.bfloat16}
    for name, one in expected.items():
        if one.norm() > 1e-3:
            assert nn.functional.cosine_similarity(found[name].flatten(), one.flatten(), dim=0) > 0.9, name


def test_feature_maps_stay_channels_last() -> None:
    model, images = attending("resnet").eval(), images_for("resnet")
    expected = model(images)
    orders = []
    for attention in attentions(model):
        attention.register_forward_hook(
            lambda m, a, out: orders.append(out.is_contiguous(memory_format=torch.channels_last))
        )
    model.to(memory_format=torch.channels_last)
    found = model(images.to(memory_format=torch.channels_last))
    assert orders == [True] * 7
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
