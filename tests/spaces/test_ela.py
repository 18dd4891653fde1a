"""Redundant layers are measured, found, and skipped at no cost; layers that differ are not."""

import copy
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from safetensors.torch import load_model, save_model
from scipy import stats
from torch import Tensor, distributed, nn
from torch.utils.flop_counter import FlopCounterMode

from spaces import Architecture, build
from spaces.techniques.layer_attention.ela import Gate, Policy, SkipController, redundancy
from spaces.techniques.layer_attention.mrla import BaseLayer
from spaces.techniques.layer_attention.rules import beta_quantile, quantiles

pytestmark = pytest.mark.usefixtures("one_thread")

KWARGS = {"layers": [2, 6, 2], "channels": [8, 8, 8]}  # the middle stage has four gates


def network(threshold: float = 0.3, seed: int = 0, **knobs: object) -> nn.Module:
    torch.manual_seed(seed)
    choices = {"layer_attention": {"kind": "ela", "skip_threshold": threshold, **knobs}}
    return build(Architecture(backbone="cifar_resnet20", kwargs=KWARGS, choices=choices), 4)


def controller_of(model: nn.Module) -> SkipController:
    return next(module for module in model.modules() if isinstance(module, SkipController))


def gated(model: nn.Module) -> list[BaseLayer]:
    return [layer for layer in model.modules() if isinstance(layer, BaseLayer) and isinstance(layer.gate, Gate)]


def craft(model: nn.Module, alike: tuple[int, ...]) -> None:
    """Queries at zero make attention uniform, as alike as can be; large ones make each layer its own."""
    layers = [layer for layer in model.modules() if isinstance(layer, BaseLayer)][2:8]
    for place, layer in enumerate(layers):
        weight = layer.update.attention.retrieval.query.weight
        nn.init.zeros_(weight) if place in alike else nn.init.constant_(weight, 300.0 * (-1) ** place)


def epoch(model: nn.Module, number: int, epochs: int, learning_rate: float = 0.0) -> None:
    """A few batches of random data, then the end of the epoch."""
    generator = torch.Generator().manual_seed(number)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=learning_rate)
    model.train()
    for _ in range(3):
        images, labels = torch.randn(8, 3, 16, 16, generator=generator), torch.arange(8) % 4
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    controller_of(model).end_epoch(number, epochs)


def products(model: nn.Module, images: Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(images)
    return counter.get_total_flops() // 2


def test_redundancy_by_hand() -> None:
    before = torch.tensor([[[0.5, 0.5], [0.9, 0.1]]]).log()
    logits = torch.tensor([[[0.25, 0.25, 0.5], [0.3, 0.3, 0.4]]]).log()
    by_hand = (0.0 + 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)) / 2
    assert float(redundancy(logits, before)) == pytest.approx(by_hand, rel=1e-5)


def test_identical_attention_is_redundant_and_disjoint_attention_is_not() -> None:
    one = torch.tensor([[[20.0, 0.0, 0.0]]])
    assert float(redundancy(torch.cat([one, one[..., :1]], -1), one)) < 1e-6
    assert float(redundancy(torch.tensor([[[0.0, 20.0, 0.0, 0.0]]]), one)) > 10


def test_quantiles_keep_the_order_and_are_of_the_likeliest_beta() -> None:
    divergences = [0.02, 0.5, 0.01, 0.9, 0.04]
    levels = quantiles(divergences)
    assert sorted(levels) == [level for _, level in sorted(zip(divergences, levels, strict=True))]
    xs, bound = [1 - math.exp(-kl) for kl in divergences], 1 - math.exp(-0.05)

    def likelihood(alpha: float, beta: float) -> float:
        found = stats.beta(alpha, beta)
        return sum(float(found.logpdf(x) if x < bound else found.logsf(bound)) for x in xs)

    # no other of a grid by hand is likelier than that of which these are the quantiles
    grid = itertools.product([0.1 * step for step in range(5, 30)], range(10, 80))
    alpha, beta = max(grid, key=lambda pair: likelihood(*pair))
    assert levels == pytest.approx([float(stats.beta.cdf(x, alpha, beta)) for x in xs], abs=0.02)


def test_how_far_a_divergence_is_above_the_guard_does_not_matter() -> None:
    alike = [0.002, 0.01, 0.02, 0.03, 0.04]
    levels = quantiles([*alike, 0.06, 0.07, 0.08])
    assert quantiles([*alike, 8, 100, 500])[:5] == pytest.approx(levels[:5], abs=1e-9)
    assert sum(level < 0.3 for level in levels) == 2  # of eight
    assert [level < 0.6 for level in levels] == [True] * 5 + [False] * 3


def test_a_divergence_more_or_less_does_not_turn_everything_over() -> None:
    """Here scipy.stats.beta.fit finds no parameters, or such as put all or none below the threshold."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        alike = (torch.rand(29, generator=generator) * math.log(30) + math.log(1e-5)).exp().tolist()
        assert 2 <= sum(beta_quantile([*alike, 30.0], 0.3, Random(0))) <= 12
    assert quantiles([0.0] * 20 + [8.0])[0] == pytest.approx(quantiles([0.0] * 21 + [8.0])[0], abs=0.01)


def test_where_all_are_equal_the_divergence_itself_decides() -> None:
    assert quantiles([0.2, 0.2, 0.2]) == pytest.approx([1 - math.exp(-0.2)] * 3)


def test_only_layers_from_the_third_of_a_run_have_a_gate() -> None:
    model = network()
    assert [layer.position for layer in gated(model)] == [2, 3, 4, 5]
    assert controller_of(model).gates == tuple(layer.gate for layer in gated(model))
    assert controller_of(model).blocks == tuple(f"layer2.{block}" for block in range(2, 6))
    assert model.get_submodule("skip_controller") is controller_of(model)


def test_training_skips_the_layers_that_repeat_and_keeps_those_that_differ() -> None:
    model = network(threshold=0.5)
    craft(model, alike=(1, 2, 3))  # layers 3 and 4 attend as the one before each does
    for number in range(1, 4):
        epoch(model, number, 20, learning_rate=1e-4)
    controller = controller_of(model)
    assert controller.skipped == (True, True, False, False)
    assert controller.divergences[0] == pytest.approx(0, abs=1e-3)
    assert all(kl is not None and kl > 0.05 for kl in controller.divergences[2:])


def test_a_layer_compares_itself_with_the_last_one_kept() -> None:
    model = network()
    craft(model, alike=(1, 4))  # the fifth repeats the second, and nothing between them
    layers = gated(model)
    images = torch.randn(8, 3, 16, 16)
    model.train()(images)
    assert layers[2].gate.divergence > 0.05
    for layer in layers[:2]:
        layer.gate.skip(True)
    for measured in (layers[2].gate.total, layers[2].gate.weight):
        measured.zero_()
    model(images)
    assert layers[2].gate.divergence == pytest.approx(0, abs=1e-6)


def decided(divergences: Sequence[float], **policy: Any) -> tuple[bool, ...]:
    """The mask after the half of ten epochs, of gates that measured these."""
    given = {"rule": "beta_quantile", "threshold": 0.3, "warm_up": 0.1, "probe_every": 10, **policy}
    gates = {f"block{place}": Gate(Policy(**given)) for place in range(len(divergences))}
    for gate, divergence in zip(gates.values(), divergences, strict=True):
        gate.total.fill_(divergence)
        gate.weight.fill_(1.0)
    controller = SkipController(gates, len(gates) + 2)
    controller.end_epoch(5, 10)
    assert controller.skipped_share == sum(controller.skipped) / (len(gates) + 2)
    return controller.skipped


def test_more_is_skipped_under_a_higher_threshold() -> None:
    divergences = (0.001, 0.01, 0.02, 0.03, 0.04, 0.2)
    masks = [decided(divergences, threshold=threshold) for threshold in (0.05, 0.3, 0.6, 0.99)]
    assert all(a <= b for low, high in zip(masks, masks[1:], strict=False) for a, b in zip(low, high, strict=True))
    assert sum(masks[0]) < sum(masks[1]) < sum(masks[3]) == 5  # the sixth is above kappa


def test_what_differs_is_kept_whatever_its_rank() -> None:
    assert decided((0.06, 0.2, 0.5, 0.9), threshold=0.9) == (False,) * 4


def test_the_mask_of_each_rule_by_hand() -> None:
    divergences = (0.04, 0.3, 0.01, 0.02)
    # x = 1 - exp(-KL) = 0.0392, 0.0099, 0.0198 and one above 0.0488: Beta(2.06, 57.5) is the likeliest,
    # of which 0.0392 is the quantile 0.66, 0.0198 is 0.31 and 0.0099 is 0.11
    assert decided(divergences, threshold=0.3) == (False, False, True, False)
    assert decided(divergences, threshold=0.4) == (False, False, True, True)
    assert decided(divergences, threshold=0.7) == (True, False, True, True)
    assert decided(divergences, rule="percentile", threshold=0.5) == (False, False, True, True)
    assert decided(divergences, rule="percentile", threshold=0.9) == (True,) * 4  # four of four, whatever they are
    assert decided(divergences, rule="kl_threshold", threshold=0.03) == (False, False, True, True)
    assert decided(divergences, rule="none", threshold=0.9) == (False,) * 4


def test_random_skips_as_many_as_percentile_and_always_the_same() -> None:
    divergences = [place / 100 for place in range(12)]
    masks = []
    for seed in range(5):
        torch.manual_seed(seed)
        masks.append(decided(divergences, rule="random", threshold=0.25))
        assert sum(masks[-1]) == sum(decided(divergences, rule="percentile", threshold=0.25)) == 3
        torch.manual_seed(seed)
        assert decided(divergences, rule="random", threshold=0.25) == masks[-1]
    assert len(set(masks)) == 5


def test_stages_may_have_policies_of_their_own() -> None:
    choices = ["none", {"kind": "ela", "rule": "percentile", "skip_threshold": 0.5}, {"kind": "ela", "rule": "none"}]
    kwargs = {"layers": [2, 6, 6], "channels": [8, 8, 8]}
    torch.manual_seed(0)
    model = build(Architecture(backbone="cifar_resnet20", kwargs=kwargs, choices={"layer_attention": choices}), 4)
    epoch(model, 2, 20)
    controller = controller_of(model)
    assert controller.blocks == tuple(f"layer{stage}.{block}" for stage in (2, 3) for block in range(2, 6))
    assert sum(controller.skipped) == sum(controller.skipped[:4]) > 0
    assert controller.retrievals == 12


def test_nothing_is_decided_in_warm_up_or_after_the_last_epoch() -> None:
    model = network(threshold=0.5)
    craft(model, alike=(1, 2, 3))
    for number in (1, 2):
        epoch(model, number, 30)
        assert not any(controller_of(model).skipped)  # warm-up: 10% of 30 epochs
    epoch(model, 30, 30)
    assert not any(controller_of(model).skipped)
    epoch(model, 3, 30)
    assert any(controller_of(model).skipped)


def test_warm_up_is_rounded_up_to_whole_epochs() -> None:
    found = [Policy(rule="none", threshold=0.3, warm_up=share, probe_every=0).first(100) for share in (0, 0.07, 0.071)]
    assert found == [1, 7, 8]


@pytest.mark.parametrize("probe_every", [0, 2])
def test_probe_epochs_measure_skipped_layers_again_and_can_bring_them_back(probe_every: int) -> None:
    model = network(threshold=0.5, probe_every=probe_every)
    controller, for_good = controller_of(model), not probe_every
    craft(model, alike=(1, 2, 3))
    epoch(model, 2, 20)
    assert controller.skipped[:2] == (True, True)
    craft(model, alike=())
    epoch(model, 3, 20)
    assert controller.skipped[:2] == (True, True)  # not measured, so not decided anew
    before = controller.divergences[:2]
    epoch(model, 4, 20)  # the next one is a probe
    assert controller.divergences[:2] == before  # as last measured
    assert [gate.open for gate in controller.gates[:2]] == [not for_good] * 2
    with torch.no_grad():  # as where the statistics of batch norms are taken anew
        assert not any(gate.open for gate in controller.gates[:2])
    model.eval()
    assert not any(gate.open for gate in controller.gates[:2])  # evaluation keeps the decisions
    model.train()
    epoch(model, 5, 20)
    assert controller.skipped[:2] == (for_good, for_good)
    assert (controller.divergences[:2] == before) is for_good


@pytest.mark.parametrize("rule", ["percentile", "random", "beta_quantile"])
@pytest.mark.parametrize("probe_every", [0, 5])
def test_between_probes_no_more_are_skipped_though_what_is_kept_converges(rule: str, probe_every: int) -> None:
    policy = Policy(rule=rule, threshold=0.25, warm_up=0.1, probe_every=probe_every)
    gates = {f"block{place}": Gate(policy) for place in range(12)}
    controller = SkipController(gates, 12)
    masks = []
    for number in range(1, 13):
        for place, gate in enumerate(gates.values()):
            if not gate.skipped or gate.probing:
                gate.total.fill_(0.001 * (place + 1) * 0.5**number)
                gate.weight.fill_(1.0)
        controller.end_epoch(number, 40)
        masks.append(controller.skipped)
    assert not any(map(any, masks[:3]))  # warm-up
    assert masks[3:9] == [masks[3]] * 6
    assert sum(masks[3]) > 0
    assert rule == "beta_quantile" or all(sum(mask) == 3 for mask in masks[3:])


def test_more_join_what_is_skipped_once_they_are_redundant_too() -> None:
    policy = Policy(rule="kl_threshold", threshold=0.05, warm_up=0.1, probe_every=0)
    gates = {f"block{place}": Gate(policy) for place in range(3)}
    controller = SkipController(gates, 3)
    for number, divergences in enumerate([(0.01, 0.2, 0.3), (0.9, 0.04, 0.3)], 1):
        for gate, divergence in zip(gates.values(), divergences, strict=True):
            if not gate.skipped:
                gate.total.fill_(divergence)
                gate.weight.fill_(1.0)
        controller.end_epoch(number, 10)
    assert controller.skipped == (True, True, False)


def test_a_batch_that_overflowed_is_not_counted() -> None:
    model = network().train()
    for images in (torch.randn(8, 3, 16, 16), torch.full((8, 3, 16, 16), math.nan)):
        model(images)
        divergences = controller_of(model).divergences
        assert all(kl is not None and math.isfinite(kl) for kl in divergences)
    assert all(gate.weight == pytest.approx(0.1) for gate in controller_of(model).gates)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_it_trains_in_other_types(dtype: torch.dtype) -> None:
    model = network().to(dtype).train()
    model(torch.randn(8, 3, 16, 16, dtype=dtype)).sum().backward()
    assert all(kl is not None for kl in controller_of(model).divergences)


def test_nothing_is_measured_where_nothing_is_learnt() -> None:
    model = network().train()
    with torch.no_grad():
        model(torch.randn(8, 3, 16, 16))
    assert controller_of(model).divergences == (None,) * 4


def test_a_skipped_layer_costs_nothing_and_nothing_of_it_changes() -> None:
    model, images = network(), torch.randn(2, 3, 16, 16)
    full, layers, theirs = products(model, images), gated(model), 0
    for layer in layers:
        theirs += products(layer.update.attention.retrieval, torch.randn(2, 32, 8, 8))
        theirs += (layer.position + 1) * 2 * 32 * 8 * 8  # the sum over the layers so far
        layer.gate.skip(True)
    assert full - products(model, images) == theirs > 0
    statistics = [value.clone() for layer in layers for value in layer.update.buffers()]
    model.train()(images).sum().backward()
    assert all(map(torch.equal, statistics, (value for layer in layers for value in layer.update.buffers())))
    skipped = {id(parameter) for layer in layers for parameter in layer.update.parameters()}
    assert all((p.grad is None) == (id(p) in skipped) for p in model.parameters() if p.requires_grad)


def test_a_network_with_all_gates_closed_is_the_one_without_those_layers() -> None:
    model, images = network(), torch.randn(2, 3, 16, 16)
    layers = gated(model)
    for layer in layers:
        layer.gate.skip(True)
    expected = model.eval()(images)
    for layer in layers:
        layer.gate.skip(False)
        layer.update = nn.Identity()
    assert torch.equal(model(images), expected)


def test_the_mask_is_the_same_in_training_and_evaluation_and_survives_a_checkpoint(tmp_path: Path) -> None:
    model = network(threshold=0.5)
    craft(model, alike=(1, 2, 3))
    for number in (2, 3):
        epoch(model, number, 20)
    images = torch.randn(2, 3, 16, 16)
    expected = model.eval()(images)
    save_model(model, str(tmp_path / "model.safetensors"))
    for other in (network(threshold=0.5, seed=1), network(threshold=0.5, seed=2)):
        assert not torch.allclose(other.eval()(images), expected)
    loaded, restored = network(seed=1), network(seed=2)
    load_model(loaded, tmp_path / "model.safetensors")
    restored.load_state_dict(model.state_dict())
    for other in (loaded, restored, copy.deepcopy(model)):
        assert controller_of(other).skipped == controller_of(model).skipped
        assert [layer.gate.open for layer in gated(other)] == [layer.gate.open for layer in gated(model)]
        assert torch.equal(other.eval()(images), expected)


def test_a_copy_whose_buffers_are_written_follows_them_from_the_next_evaluation() -> None:
    """As averaged models do, which never load a state."""
    model = network()
    average = copy.deepcopy(model)
    gated(model)[0].gate.skip(True)
    for name, value in average.state_dict().items():
        value.copy_(model.state_dict()[name])
    average.eval()
    assert not gated(average)[0].gate.open


def test_decisions_reach_a_compiled_network() -> None:
    model = network(threshold=0.5)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    images = torch.randn(2, 3, 16, 16)
    model.train()
    compiled(images).sum().backward()
    assert all(kl is not None for kl in controller_of(model).divergences)
    for layer in gated(model):
        layer.gate.skip(True)
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(compiled(images), model(images), rtol=1e-5, atol=1e-5)


def _rank(rank: int, folder: str) -> None:
    """Trains on images of its own, and writes down what it then skips."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    model = network(threshold=0.5)
    craft(model, alike=(1, 2, 3))
    alone = copy.deepcopy(model).train()
    parallel = nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    generator = torch.Generator().manual_seed(rank)
    for number in range(1, 4):
        images = (rank + 1) * torch.randn(8, 3, 16, 16, generator=generator)
        alone(images)
        optimizer.zero_grad()
        parallel(images).square().mean().backward()
        optimizer.step()
        controller_of(model).end_epoch(number, 20)
    found = {"skipped": controller_of(model).skipped, "kl": controller_of(model).divergences}
    found["learnt"] = dict(model.named_parameters())
    torch.save(found | {"own": controller_of(alone).divergences}, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def test_processes_that_train_together_skip_the_same_layers(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_rank, args=(str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(2))
    assert first["skipped"] == second["skipped"] == (True, True, False, False)
    assert first["kl"] == second["kl"]
    assert first["own"][2:] != second["own"][2:]  # what each measured by itself
    torch.testing.assert_close(first["learnt"], second["learnt"])
