"""Memory counted without data: against arithmetic done by hand, real runs, and what torch itself reports."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.checkpoint import checkpoint

from search.costs.memory import hollow, tensors
from search.costs.peak_bytes import PeakBytes, peak_of_forward
from search.costs.train_peak_bytes import TrainPeakBytes, adamw, peak_of_step
from search.training import optimizer_of
from spaces import InputError
from spaces.schema import Train
from tests.contracts.families import FAMILIES, Family

FLOAT, LONG = 4, 8  # bytes
TECHNIQUES: list[dict[str, Any]] = [
    {"width": 0.5, "norm": "group"},
    {"group_size": {"kind": 4, "shuffle": True}, "scaling": {"kind": "adaptive", "conditioned": True}},
    {"sharing": {"kind": "stage", "transform": True}},
    {"layer_attention": "mrla_base"},
    {"layer_attention": {"kind": "ela", "skip_threshold": 0.5}},
]


def labels(batch: int) -> Tensor:
    return torch.zeros(batch, dtype=torch.long)


def forward(model: nn.Module, batch: int, size: tuple[int, int, int]) -> float:
    return PeakBytes(batch=batch)(model, size).value


def step(model: nn.Module, batch: int, size: tuple[int, int, int]) -> float:
    return TrainPeakBytes(batch=batch)(model, size).value


class Residual(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.branch = nn.Linear(width, width, bias=False)

    def forward(self, values: Tensor) -> Tensor:
        return values + self.branch(values)


class TestByHand:
    """Images are the caller's, so they live all the time."""

    def test_a_chain_holds_what_goes_in_and_what_comes_out(self) -> None:
        chain = nn.Sequential(
            nn.Flatten(), nn.Linear(12, 32, bias=False), nn.ReLU(), nn.Linear(32, 8, bias=False), nn.ReLU()
        )
        weights = 12 * 32 + 32 * 8
        assert forward(chain, 4, (3, 2, 2)) == FLOAT * (weights + 4 * (12 + 32 + 32))

    def test_what_is_done_in_place_takes_nothing(self) -> None:
        chain = nn.Sequential(nn.Flatten(), nn.Linear(12, 32, bias=False), nn.ReLU(inplace=True))
        assert forward(chain, 4, (3, 2, 2)) == FLOAT * (12 * 32 + 4 * (12 + 32))

    def test_a_residual_holds_its_input_as_well(self) -> None:
        model = nn.Sequential(nn.Flatten(), Residual(12), Residual(12))
        assert forward(model, 4, (3, 2, 2)) == FLOAT * (2 * 12 * 12 + 4 * (12 + 3 * 12))

    def test_a_convolution_with_a_norm(self) -> None:
        model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
        stored = FLOAT * (8 * 3 * 9 + 4 * 8) + LONG  # weight and bias, mean and variance; the number of batches
        assert forward(model, 4, (3, 6, 6)) == stored + FLOAT * 4 * 36 * (3 + 8 + 8)

    def test_tied_weights_are_there_once(self) -> None:
        shared = nn.Linear(12, 12, bias=False)
        tied = nn.Sequential(nn.Flatten(), nn.Linear(12, 12, bias=False), nn.ReLU(), nn.Linear(12, 12, bias=False))
        tied[3].weight = tied[1].weight
        for model in (nn.Sequential(nn.Flatten(), shared, nn.ReLU(), shared), tied):
            assert forward(model, 4, (3, 2, 2)) == FLOAT * (12 * 12 + 4 * 3 * 12)

    @pytest.mark.parametrize(
        ("make", "state"),
        [
            (lambda model: torch.optim.SGD(model.parameters(), fused=True), 0),
            (lambda model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=True), 480),
            (adamw, 2 * 480 + 1),  # both moments, and how many steps were taken
        ],
    )
    def test_a_step_of_one_layer(self, make: Callable[[nn.Module], torch.optim.Optimizer], state: int) -> None:
        """The most is there when the gradient of the weights has been made from that of the logits."""
        model = nn.Sequential(nn.Flatten(), nn.Linear(48, 10, bias=False))
        weights, images, logits, scalars = 480, 4 * 48, 4 * 10, 2  # the loss and its own gradient
        expected = FLOAT * (2 * weights + state + images + logits + scalars) + 4 * LONG
        assert TrainPeakBytes(batch=4, optimizer=make)(model, (3, 4, 4)).value == expected

    def test_a_step_holds_what_autograd_saves(self) -> None:
        """Most at the start of the way back: images, hidden layer, log-probabilities, two gradients of their size."""
        model = nn.Sequential(nn.Flatten(), nn.Linear(12, 12, bias=False), nn.ReLU(), nn.Linear(12, 12, bias=False))
        stateless = TrainPeakBytes(batch=100, optimizer=lambda model: torch.optim.SGD(model.parameters(), fused=True))
        weights, scalars = 2 * 12 * 12, 2  # the loss and its own gradient
        expected = FLOAT * (weights + 5 * 100 * 12 + scalars) + 100 * LONG
        assert stateless(model, (3, 2, 2)).value == expected

    def test_what_is_computed_again_need_not_be_held(self) -> None:
        class Again(nn.Sequential):
            def forward(self, values: Tensor) -> Tensor:
                return checkpoint(super().forward, values, use_reentrant=False)

        layers = [nn.Sequential(nn.Linear(12, 12), nn.GELU(), nn.Linear(12, 12), nn.GELU()) for _ in range(6)]
        saving = nn.Sequential(nn.Flatten(), *(Again(*layer) for layer in layers))
        assert step(saving, 200, (3, 2, 2)) < 0.6 * step(nn.Sequential(nn.Flatten(), *layers), 200, (3, 2, 2))


class TestReal:
    @pytest.mark.parametrize("family", FAMILIES[1::5], ids=lambda family: family.name)
    def test_as_many_as_in_a_run_with_data(self, family: Family) -> None:
        model, size = family.network(), (3, family.side, family.side)
        with torch.device("meta"):
            empty = family.network()
        images = torch.randn(8, *size)
        real = peak_of_forward(copy.deepcopy(model).eval(), images)
        assert forward(model, 8, size) == forward(empty, 8, size) == real
        real = peak_of_step(copy.deepcopy(model).train(), images, labels(8), adamw)
        assert step(model, 8, size) == step(empty, 8, size) == real

    @pytest.mark.parametrize("choices", TECHNIQUES, ids=lambda choices: next(iter(choices)))
    def test_with_techniques(self, choices: dict[str, Any]) -> None:
        family = next(family for family in FAMILIES if family.name == ("vit" if "sharing" in choices else "resnet"))
        model, size = family.network(**choices), (3, 32, 32)
        with torch.device("meta"):
            empty = family.network(**choices)
        images = torch.randn(4, *size)
        assert forward(empty, 4, size) == peak_of_forward(copy.deepcopy(model).eval(), images)
        assert step(empty, 4, size) == peak_of_step(model, images, labels(4), adamw)

    @pytest.mark.parametrize("name", ["sgd", "adamw", "lamb", "adafactor"])
    def test_of_the_recipe_s_optimizer(self, name: str) -> None:
        def optimizer(model: nn.Module) -> torch.optim.Optimizer:
            return optimizer_of(Train(batch_size=4, lr=1e-3, optimizer=name), model)

        model = FAMILIES[0].network()
        counted = TrainPeakBytes(batch=4, optimizer=optimizer)(model, (3, 32, 32)).value
        assert counted == peak_of_step(model, torch.randn(4, 3, 32, 32), labels(4), optimizer)

    def test_of_an_optimizer_that_needs_values(self) -> None:
        def optimizer(model: nn.Module) -> torch.optim.Optimizer:
            return optimizer_of(Train(batch_size=4, lr=1e-3, optimizer="muon"), model)

        with pytest.raises(InputError, match=r"cannot be counted with Muon, whose step needs the values of gradients"):
            TrainPeakBytes(batch=4, optimizer=optimizer)(FAMILIES[0].network(), (3, 32, 32))


class TestReported:
    """The same of others who count."""

    def test_by_the_allocator_of_the_cpu(self) -> None:
        """From the log of the profiler: every byte that is taken and given back, temporary ones of kernels included."""
        model = nn.Sequential(
            nn.Flatten(), nn.Linear(12, 300), nn.ReLU(), nn.Linear(300, 200), nn.LayerNorm(200), nn.Linear(200, 10)
        )
        counted = step(model, 64, (3, 2, 2))
        images, targets, optimizer = torch.randn(64, 3, 2, 2), labels(64), adamw(model)
        live = sum(tensor.untyped_storage().nbytes() for tensor in (*tensors(model), images, targets))
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            for name in ("first", "second"):
                with record_function(name):
                    nn.functional.cross_entropy(model(images), targets).backward()
                    optimizer.step()
                    optimizer.zero_grad()
        events = profiler.profiler.kineto_results.events()
        begin = next(event.start_ns() for event in events if event.name() == "second")
        peak = 0
        for event in sorted((event for event in events if event.name() == "[memory]"), key=lambda e: e.start_ns()):
            live += event.nbytes()
            peak = max(peak, live) if event.start_ns() > begin else 0
        assert counted == peak

    def test_by_torch_s_tracker(self) -> None:
        model, size = FAMILIES[0].network(), (3, 32, 32)
        with FakeTensorMode(allow_non_fake_inputs=True):
            twin, images, targets = hollow(model, training=True), torch.empty(4, *size), labels(4)
            optimizer, tracker = adamw(twin), MemTracker()
            tracker.track_external(twin, images, targets)
            with tracker:
                for _ in range(2):
                    tracker.reset_mod_stats()
                    nn.functional.cross_entropy(twin(images), targets).backward()
                    optimizer.step()
                    optimizer.zero_grad()
        (peak,) = tracker.get_tracker_snapshot("peak").values()
        assert step(model, 4, size) == peak["Total"]

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: compares with torch.cuda")
    @pytest.mark.parametrize(("name", "most"), [("vit_tiny_patch16_224", 1.05), ("resnet18", 1.3)])
    def test_by_the_allocator_of_a_gpu(self, name: str, most: float) -> None:
        """A GPU takes at least as much, and more for what convolutions work with; matrix products keep theirs."""
        model, size, batch = timm.create_model(name, num_classes=10), (3, 224, 224), 64
        device = torch.device("cuda")
        torch.zeros(8, 8, device=device) @ torch.zeros(8, 8, device=device)
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        there = copy.deepcopy(model).to(device).train()
        images, optimizer = torch.randn(batch, *size, device=device), adamw(there)
        targets = labels(batch).to(device)
        for _ in range(2):
            torch.cuda.reset_peak_memory_stats()
            nn.functional.cross_entropy(there(images), targets).backward()
            optimizer.step()
            optimizer.zero_grad()
        measured = torch.cuda.max_memory_allocated() - before
        assert 0.98 < measured / step(model, batch, size) < most


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224"])
def test_grows_by_as_much_with_every_image(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=10)
    for cost in (forward, step):
        peaks = [cost(model, batch, (3, 224, 224)) for batch in (16, 32, 64)]
        assert peaks[2] - peaks[1] == pytest.approx(2 * (peaks[1] - peaks[0]), rel=0.01)
        assert peaks[1] - peaks[0] > 16 * 3 * 224 * 224 * FLOAT


def test_a_step_takes_more_than_a_forward_pass() -> None:
    model = FAMILIES[0].network()
    assert step(model, 8, (3, 64, 64)) > forward(model, 8, (3, 64, 64)) > 0


def test_the_model_stays_as_it_is() -> None:
    model = timm.create_model("vit_tiny_patch16_224", num_classes=10, drop_rate=0.5).train()
    model.blocks[0].eval()
    before = {name: (tensor, tensor.clone()) for name, tensor in model.state_dict(keep_vars=True).items()}
    modes, state = [module.training for module in model.modules()], torch.get_rng_state()
    with torch.no_grad():
        assert forward(model, 2, (3, 224, 224)) < step(model, 2, (3, 224, 224))
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    for name, tensor in model.state_dict(keep_vars=True).items():
        assert tensor is before[name][0]
        assert torch.equal(tensor, before[name][1])
        assert tensor.grad is None


def test_costs_say_what_they_are() -> None:
    costs = PeakBytes(), TrainPeakBytes(), PeakBytes(name="one_image"), TrainPeakBytes(name="mine", batch=8)
    assert [cost.name for cost in costs] == ["peak_bytes", "train_peak_bytes", "one_image", "mine"]
    assert {(cost.unit, cost.timed) for cost in costs} == {("bytes", False)}


def test_images_that_do_not_suit_are_the_network_s_matter() -> None:
    with pytest.raises(AssertionError, match="Input height"):
        forward(timm.create_model("vit_tiny_patch16_224"), 1, (3, 32, 32))
