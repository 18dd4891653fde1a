"""Who runs a network: all compute the same, and what they cannot take, or miss, they say in one message."""

import copy
import sys
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from search.costs import runtimes
from search.costs.latency_ms import Latency
from search.costs.throughput import Throughput
from search.costs.train_seconds import TrainSeconds
from spaces import InputError, SpaceError

QUICK: dict[str, Any] = {"limit_s": 0.2, "spread": 1.0}
SIZE = (3, 32, 32)


def extra() -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="needs the extra onnx")


@pytest.mark.parametrize("runtime", runtimes.RUNTIMES)
def test_every_runtime_computes_the_same_and_is_measured(runtime: str, capfd: pytest.CaptureFixture[str]) -> None:
    if runtime == "onnxruntime":
        extra()
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4)
    norm.running_mean = torch.randn(4)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.ReLU(), Plain(5, width=4)).train()
    images, expected = torch.randn(2, *SIZE), copy.deepcopy(model).eval()
    output = runtimes.RUNTIMES[runtime](model, images, 1)()
    assert output.numpy() == pytest.approx(expected(images).detach().numpy(), abs=1e-5)
    assert Latency(**QUICK, runtime=runtime)(model, SIZE).value > 0
    if runtime == "onnxruntime":
        assert capfd.readouterr() == ("", "")


def test_onnxruntime_has_the_threads_that_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    extra()
    import onnxruntime  # noqa: PLC0415  # an extra

    seen = []
    made = onnxruntime.InferenceSession

    def session(model: bytes, options: Any, **given: Any) -> Any:
        seen.append((options.intra_op_num_threads, options.inter_op_num_threads, given))
        return made(model, options, **given)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    Latency(**QUICK, runtime="onnxruntime", threads=2)(timm.create_model("test_resnet"), SIZE)
    assert seen == [(2, 1, {"providers": ["CPUExecutionProvider"]})]


def test_a_network_is_compiled_however_many_of_its_kind_there_were() -> None:
    """PyTorch compiles the code of a class eight times, and then runs it as it is, without a word."""
    with torch._dynamo.config.patch(recompile_limit=2, fail_on_recompile_limit_hit=True):
        for classes in (1, 2, 3, 4):
            logits = runtimes.compiled(Plain(classes), torch.randn(1, *SIZE), 1)()
            assert logits.shape == (1, classes)


class Plain(nn.Module):
    def __init__(self, classes: int, width: int = 3):
        super().__init__()
        self.linear = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.linear(images.mean(dim=(2, 3)))
        return logits


class Stubborn(nn.Module):
    """Runs, and cannot be exported."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3)) * images.flatten()[0].item().as_integer_ratio()[0]


def test_what_a_runtime_cannot_take_is_one_message() -> None:
    extra()
    assert Latency(**QUICK)(Stubborn(), SIZE).value > 0
    with pytest.raises(
        SpaceError, match=r"^latency_ms: it does not run on 1x3x32x32 float32 on cpu: no export to ONNX: \w"
    ) as told:
        Latency(**QUICK, runtime="onnxruntime")(Stubborn(), SIZE)
    assert "\n" not in str(told.value)
    no_compiler = {"cpp.cxx": ("no-such-compiler",), "force_disable_caches": True}
    with (
        torch._inductor.config.patch(no_compiler),
        pytest.raises(SpaceError, match=r"^latency_ms: it does not run on 1x3x32x32 float32 on cpu: .*ompiler") as told,
    ):
        Latency(**QUICK, runtime="compile")(Plain(2), SIZE)
    assert "\n" not in str(told.value)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(InputError, match=r"needs onnxscript: pip install 'archsearch\[onnx\]'"):
        Latency(runtime="onnxruntime")(Plain(2), SIZE)


GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that PyTorch can use")


@GPU
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_gpu_runs_them_all(dtype: str) -> None:
    model = timm.create_model("test_resnet", num_classes=5)
    for cost in (
        Latency(**QUICK, device="cuda", dtype=dtype),
        Latency(**QUICK, device="cuda", dtype=dtype, runtime="compile"),
        Throughput(**QUICK, device="cuda", dtype=dtype),
        TrainSeconds(**QUICK, device="cuda", dtype=dtype, images=100),
    ):
        assert cost(model, SIZE).value > 0
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}


@GPU
def test_a_gpu_is_waited_for_after_each_pass() -> None:
    model = timm.create_model("resnet18")
    alone = Latency(device="cuda", batch=1)(model, (3, 224, 224)).value
    many = Latency(device="cuda", batch=512)(model, (3, 224, 224)).value
    assert many > 4 * alone  # handing the kernels over takes the same time for both
