"""Who runs a network forward: PyTorch as it is, torch.compile, or ONNX Runtime.

Each takes a network and images and gives what runs one on the other; all compute the same.
"""

import copy
import importlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from search.costs.clock import DTYPES, Timed
from spaces import InputError
from spaces.errors import unknown

Run = Callable[[], Any]
"""Gives the logits `[N, num_classes]`, as a Tensor or an onnxruntime.OrtValue."""

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_EXTRA = ("onnx", "onnxscript", "onnxruntime")


def eager(model: nn.Module, images: Tensor, threads: int) -> Run:
    network = _copy(model, images)

    @torch.inference_mode()
    def run() -> Any:
        return network(images)

    return run


def compiled(model: nn.Module, images: Tensor, threads: int) -> Run:
    """Compiled, as is slow, before it is returned; for as many threads as PyTorch has now.

    All that was compiled before in this process is forgotten: PyTorch compiles the code of a class a few times only,
    and then runs it as it is.
    """
    torch.compiler.reset()
    network = torch.compile(_copy(model, images), dynamic=False)

    @torch.inference_mode()
    def run() -> Any:
        return network(images)

    run()
    return run


def onnxruntime(model: nn.Module, images: Tensor, threads: int) -> Run:
    """Exported for images of exactly this shape.

    Raises:
        InputError: the extra is not installed, or its build of ONNX Runtime has no GPUs.
    """
    if _PROVIDERS[images.device.type] not in installed().get_available_providers():
        raise InputError("runtime onnxruntime on cuda needs the package onnxruntime-gpu in the place of onnxruntime")
    program = to_onnx(_copy(model, images.cpu()), (images.cpu(),))
    return session_run(program.SerializeToString(), images, threads)


def to_onnx(model: nn.Module | ExportedProgram, args: tuple[Tensor, ...] = (), **settings: Any) -> Any:
    """The onnx.ModelProto of a network; `settings` as those of `torch.onnx.export`.

    Raises:
        InputError: the extra is not installed.
        RuntimeError: torch has no ONNX for an operator of it.
    """
    installed()
    try:
        with silence():
            program: Any = torch.onnx.export(model, args, dynamo=True, verbose=False, **settings)
    except torch.onnx.OnnxExporterError as error:
        raise RuntimeError(f"no export to ONNX: {error.__cause__ or error}") from error
    return program.model_proto


def session_run(program: bytes, images: Tensor, threads: int) -> Run:
    """What runs an ONNX program, of one input and one output, on these images, where they are."""
    ort, provider = installed(), _PROVIDERS[images.device.type]
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = ort.InferenceSession(program, options, providers=[provider])
    binding = session.io_binding()
    given = ort.OrtValue.ortvalue_from_numpy(images.cpu().numpy(), images.device.type, images.device.index or 0)
    binding.bind_ortvalue_input(session.get_inputs()[0].name, given)
    binding.bind_output(session.get_outputs()[0].name, images.device.type)

    def run() -> Any:
        session.run_with_iobinding(binding)
        return binding.get_outputs()[0]

    return run


RUNTIMES = {"eager": eager, "compile": compiled, "onnxruntime": onnxruntime}


@dataclass(frozen=True, kw_only=True)
class Forward(Timed):
    """A measured cost of forward passes in evaluation mode.

    Attributes:
        dtype: of weights and images.
        runtime: `eager`, `compile` or `onnxruntime`, which runs float32 only.
    """

    runtime: str = "eager"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.runtime not in RUNTIMES:
            raise InputError(f"{self.name}: {unknown('runtime', self.runtime, RUNTIMES)}")
        if self.runtime == "onnxruntime" and self.dtype != "float32":
            raise InputError(f"{self.name}: {self.dtype} is not run by onnxruntime; allowed is float32")

    def prepared(self, model: nn.Module, images: Tensor) -> Run:
        return RUNTIMES[self.runtime](model, images.to(DTYPES[self.dtype]), self.threads)


def _copy(model: nn.Module, images: Tensor) -> nn.Module:
    """In evaluation mode, where the images are and of their type."""
    return copy.deepcopy(model).eval().requires_grad_(False).to(images.device, images.dtype)


def installed() -> ModuleType:
    """onnxruntime; InputError where the extra `onnx` is not installed."""
    try:
        return [importlib.import_module(package) for package in _EXTRA][-1]
    except ImportError as error:
        raise InputError(f"ONNX needs {error.name}: pip install 'archsearch[onnx]'") from None


@contextmanager
def silence() -> Iterator[None]:
    """The exporter reports its progress, and warns of what its own parts do."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(action="ignore"), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)
