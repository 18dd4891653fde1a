"""Costs that take a clock: what reaches the runtime, what is made of the times, what is left of it all afterwards.

Nothing here depends on how fast a machine is; what is compared differs a hundredfold.
"""

import itertools
import re
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import timm
import torch
from torch import Tensor, nn

from search.costs.clock import Timed, clocked, reading_of
from search.costs.cost import Cost, Reading
from search.costs.latency_ms import Latency, latency_ms
from search.costs.throughput import Throughput
from search.costs.train_seconds import TrainSeconds
from spaces import InputError, SpaceError

QUICK = {"limit_s": 0.2, "spread": 1.0}
SIZE = (3, 32, 32)


class Spy(nn.Module):
    """Notes under which conditions it runs."""

    seen: ClassVar[list[dict[str, Any]]] = []

    def __init__(self, work: int = 8):
        super().__init__()
        self.conv = nn.Conv2d(3, work, 3)
        self.dropout = nn.Dropout()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(
            {
                "shape": tuple(images.shape),
                "dtype": images.dtype,
                "weights": self.conv.weight.dtype,
                "threads": torch.get_num_threads(),
                "training": self.training,
                "grad": torch.is_grad_enabled(),
                "autocast": torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None,
                "sum": images.double().sum().item(),
            }
        )
        self.calls += 1
        features: Tensor = self.dropout(self.conv(images)).mean(dim=(2, 3))
        return features


@pytest.fixture
def spy() -> Spy:
    Spy.seen.clear()
    return Spy()


ALL: list[Cost] = [Latency(**QUICK), Throughput(**QUICK, batch=4), TrainSeconds(**QUICK, batch=4, images=10)]


@pytest.mark.parametrize("cost", ALL, ids=lambda cost: cost.name)
def test_a_measured_cost_leaves_everything_as_it_was(cost: Timed, spy: Spy) -> None:
    spy.train()
    before = {name: tensor.clone() for name, tensor in spy.state_dict().items()}
    random, threads = torch.get_rng_state(), torch.get_num_threads()
    reading = cost(spy, SIZE)
    assert cost.timed
    assert cost.unit
    assert reading.value > 0
    assert reading.spread >= 0
    assert spy.training
    assert torch.is_grad_enabled()
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), random)
    for name, tensor in spy.state_dict(keep_vars=True).items():
        assert torch.equal(tensor, before[name])
        assert tensor.grad is None


@pytest.mark.parametrize("kind", [Latency, Throughput])
def test_settings_reach_a_forward_pass(kind: Callable[..., Timed], spy: Spy) -> None:
    kind(**QUICK, batch=3, image_size=16, dtype="bfloat16", threads=2)(spy, SIZE)
    kinds = {tuple(seen.items()) for seen in Spy.seen}
    (seen,) = (dict(kind) for kind in kinds)  # all alike: the same images, too
    total = seen.pop("sum")
    assert abs(total) > 1  # normally distributed, not zeros
    assert seen == {
        "shape": (3, 3, 16, 16),
        "dtype": torch.bfloat16,
        "weights": torch.bfloat16,
        "threads": 2,
        "training": False,
        "grad": False,
        "autocast": None,
    }


def test_settings_reach_a_training_step(spy: Spy) -> None:
    made: list[nn.Module] = []

    def optimizer(model: nn.Module) -> torch.optim.Optimizer:
        made.append(model)
        return torch.optim.SGD(model.parameters(), lr=0.1)

    TrainSeconds(**QUICK, batch=6, images=100, dtype="bfloat16", threads=2, optimizer=optimizer)(spy, SIZE)
    first, *steps = Spy.seen
    assert not first["grad"]  # looks how many classes there are
    for seen in steps:
        assert (seen["shape"], seen["dtype"], seen["weights"]) == ((6, *SIZE), torch.float32, torch.float32)
        assert (seen["training"], seen["grad"], seen["threads"]) == (True, True, 2)
        assert seen["autocast"] == torch.bfloat16
    (trained,) = made
    assert isinstance(trained, Spy)
    assert trained.calls == len(Spy.seen)
    assert not torch.equal(trained.conv.weight, spy.conv.weight)  # the step is a step
    Spy.seen.clear()
    TrainSeconds(**QUICK, batch=6, images=4)(spy, SIZE)
    assert {seen["shape"][0] for seen in Spy.seen} == {4}  # there are no more


def test_an_epoch_has_as_many_steps_as_batches(monkeypatch: pytest.MonkeyPatch, spy: Spy) -> None:
    fixed(monkeypatch, 2.0)
    assert TrainSeconds(images=100, batch=32)(spy, SIZE).value == 4 * 2.0
    assert TrainSeconds(images=96, batch=32)(spy, SIZE).value == 3 * 2.0
    assert TrainSeconds(images=96, batch=32).seconds(spy, SIZE).value == 2.0
    assert Latency()(spy, SIZE).value == 2000.0
    assert Throughput(batch=8)(spy, SIZE).value == 4.0


def fixed(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """What a clock is to have found, after a run."""

    def found(run: Callable[[], object], **_: object) -> Reading:
        run()
        return Reading(value=seconds, spread=0.01)

    monkeypatch.setattr("search.costs.clock.clocked", found)


@pytest.mark.parametrize(
    ("times", "median", "spread", "steady"),
    [
        ([1.0, 2.0, 3.0, 4.0, 100.0], 3.0, 2 / 3, False),
        ([1.0, 1.0, 1.0, 1.0, 100.0], 1.0, 0.0, True),
        ([0.98, 0.99, 1.0, 1.01, 1.02], 1.0, 0.02, True),
        ([1.0, 1.0, 1.0], 1.0, 0.0, False),  # too few to know
    ],
)
def test_of_the_times_median_and_quartiles_count(
    times: list[float], median: float, spread: float, steady: bool
) -> None:
    reading = reading_of(times, 0.05)
    assert reading.value == pytest.approx(median)
    assert reading.spread == pytest.approx(spread)
    assert reading.steady is steady


class Hands:
    """A clock that is moved by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.now, self.done = 0.0, 0.0
        monkeypatch.setattr("time.perf_counter", lambda: self.now)

    def wait(self) -> None:
        """For what was handed over and takes its time."""
        self.now = max(self.now, self.done)


@pytest.mark.parametrize("length", [1e-5, 0.003, 0.9, 20.0])
def test_the_first_runs_do_not_count_and_the_others_are_waited_for(
    monkeypatch: pytest.MonkeyPatch, length: float
) -> None:
    hands, runs = Hands(monkeypatch), 0

    def run() -> None:
        nonlocal runs
        runs += 1
        hands.now += length / 10
        hands.done = max(hands.now, hands.done) + (length if runs > 1 else 100 * length)

    reading = clocked(run, wait=hands.wait, limit_s=5.0)
    assert reading.value == pytest.approx(length, rel=0.11)  # or a tenth more, to hand it over alone
    assert reading.steady is (length < 1.25)  # four within the limit
    assert hands.now < 5 + 102 * length


def test_it_is_repeated_until_the_spread_is_small_or_the_limit_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    hands = Hands(monkeypatch)
    lengths = itertools.chain([0.1] * 10, itertools.cycle([0.1, 0.2]))
    assert clocked(lambda: setattr(hands, "now", hands.now + next(lengths))).steady
    began = hands.now
    uneven = clocked(lambda: setattr(hands, "now", hands.now + next(lengths)))
    assert not uneven.steady
    assert uneven.spread > 0.3
    assert 5.0 <= hands.now - began < 5.6


def test_more_work_takes_longer() -> None:
    little, much = Spy(work=2), Spy(work=4000)
    assert Latency(**QUICK)(much, SIZE).value > Latency(**QUICK)(little, SIZE).value
    assert Throughput(**QUICK, batch=2)(much, SIZE).value < Throughput(**QUICK, batch=2)(little, SIZE).value
    steps = [TrainSeconds(**QUICK, batch=2, images=2)(network, SIZE).value for network in (little, much)]
    assert steps[0] < steps[1]


def test_a_spread_that_nothing_has_is_marked() -> None:
    reading = Latency(spread=1e-12, limit_s=0.05)(Spy(), SIZE)
    assert not reading.steady
    assert reading.value > 0


def test_images_that_do_not_suit_a_network_are_one_message() -> None:
    vit = timm.create_model("vit_tiny_patch16_224", depth=1)
    with pytest.raises(SpaceError, match=r"^latency_ms: it does not run on 1x3x32x32 float32 on cpu: Input height"):
        Latency(**QUICK)(vit, SIZE)
    assert Latency(**QUICK, image_size=224)(vit, SIZE).value > 0


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: Latency(device="gpu"), "latency_ms: unknown device 'gpu'"),
        (lambda: Latency(dtype="int8"), "latency_ms: unknown dtype 'int8'"),
        (lambda: Throughput(runtime="compiled"), "throughput: unknown runtime 'compiled'; did you mean 'compile'?"),
        (lambda: Latency(name="ms", batch=0), "ms: batch must be above 0, not 0"),
        (lambda: TrainSeconds(images=0), "train_seconds: images must be above 0, not 0"),
        (
            lambda: Latency(runtime="onnxruntime", dtype="float16"),
            "latency_ms: float16 is not run by onnxruntime; allowed is float32",
        ),
    ],
)
def test_a_setting_that_does_not_exist_is_one_message(made: Callable[[], Timed], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        made()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_said() -> None:
    with pytest.raises(InputError, match="latency_ms: device is cuda and there is no GPU that PyTorch can use"):
        Latency(device="cuda")(Spy(), SIZE)


def test_latency_of_a_model_at_hand(monkeypatch: pytest.MonkeyPatch, spy: Spy) -> None:
    fixed(monkeypatch, 0.25)
    assert latency_ms(spy, SIZE, batch=2) == 250.0
    assert {seen["shape"][0] for seen in Spy.seen} == {2}
