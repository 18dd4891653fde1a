"""Every technique once, and every family once with all it can take together: compiled by Inductor, and as ONNX."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spaces import SpaceError
from spaces.techniques import TECHNIQUES
from tests.contracts.families import FAMILIES, Family, explained

pytestmark = pytest.mark.usefixtures("one_thread")

COMPILER = os.environ.get("CXX", "g++")
TOLERANCE = 1e-4
# One file of C++ a network instead of one a kernel, and that not optimised: a fraction of the time in the compiler.
QUICK: dict[str, Any] = {"cpp_wrapper": True, "aot_inductor.debug_compile": True}
ALONE: dict[str, Any] = {
    "width": 0.75,
    "group_size": {"kind": 4, "shuffle": True},
    "norm": "rms",
    "sharing": {"kind": "stage", "transform": True},
    "scaling": {"kind": "adaptive", "conditioned": True},
    "layer_attention": {"kind": "ela", "skip_threshold": 0.5},
}
TOGETHER: dict[str, tuple[Any, ...]] = {  # in the order of composition; the first that applies is taken
    "width": (0.75,),
    "group_size": ("depthwise", 4),
    "norm": ("group", "dyt"),
    "sharing": ("stage", {"kind": "all", "scope": "mlp"}, {"kind": "all", "scope": "spatial_conv"}),
    "scaling": ("se", "layerwise"),
    "layer_attention": ("mrla_base",),
}


@dataclass(frozen=True)
class Case:
    name: str
    family: Family
    choices: dict[str, Any]


def accepted(family: Family, choices: dict[str, Any], technique: str, choice: Any) -> bool:
    """Whether the choice changes the network that `choices` make; a refusal must say why."""
    before = family.architecture(**choices)
    try:
        return family.architecture(**choices, **{technique: choice}).id != before.id
    except SpaceError as error:
        explained(error)
        return False


def alone(technique: str) -> Case:
    """On a small convolutional family, or on vit where it does not apply there."""
    families = {family.name: family for family in FAMILIES}
    choice = ALONE[technique]
    family = next(families[name] for name in ("convnext", "vit") if accepted(families[name], {}, technique, choice))
    return Case(technique, family, {technique: choice})


def together(family: Family) -> Case:
    choices: dict[str, Any] = {}
    for technique, offers in TOGETHER.items():
        for choice in offers:
            if technique not in choices and accepted(family, choices, technique, choice):
                choices[technique] = choice
    assert choices, f"nothing applies to {family.name}"
    return Case(family.name, family, choices)


@pytest.fixture(params=[*TECHNIQUES, *FAMILIES], ids=lambda given: getattr(given, "name", given))
def case(request: pytest.FixtureRequest) -> Case:
    return alone(request.param) if isinstance(request.param, str) else together(request.param)


def awake(case: Case) -> tuple[nn.Module, Tensor, Tensor]:
    """The network in eval mode, images [2, 3, S, S], and its outputs [2, C].

    Parameters that start as one constant get noise and statistics move: zeros and ones would hide a part that
    is lost on the way.
    """
    model, (images, _) = case.family.network(**case.choices), case.family.batch()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.eq(parameter.flatten()[0]).all():
                parameter.add_(0.2 * torch.randn_like(parameter))
        model.train()(images)
        outputs = model.eval()(images[:2])
    return model, images[:2], outputs


def check_equal(found: Tensor, expected: Tensor, case: Case) -> None:
    """To 1e-4, and to a hundredth of what tells the two images apart where that is less."""
    spread = float((expected[0] - expected[1]).abs().max())
    assert spread > TOLERANCE, f"{case.choices}: the outputs say nothing of the images"
    tolerance = min(TOLERANCE, spread / 100)
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance, msg=lambda m: f"{case.choices}: {m}")


def exported(model: nn.Module, images: Tensor, file: Path) -> None:
    with torch.no_grad():
        torch.onnx.export(model, (images,), str(file), dynamo=True, external_data=False, verbose=False)


@pytest.mark.skipif(shutil.which(COMPILER) is None, reason=f"Inductor needs a C++ compiler; there is no {COMPILER}")
def test_inductor_computes_the_same(case: Case) -> None:
    model, images, expected = awake(case)
    torch._dynamo.reset()
    with torch.no_grad():
        found = torch.compile(model, fullgraph=True, options=QUICK)(images)
    check_equal(found, expected, case)


def test_onnx_computes_the_same(case: Case, tmp_path: Path) -> None:
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package)
    runtime = pytest.importorskip("onnxruntime")
    model, images, expected = awake(case)
    file = tmp_path / "model.onnx"
    try:
        exported(model, images, file)
    except torch.onnx.OnnxExporterError:
        try:
            exported(case.family.network().eval(), images, file)
        except torch.onnx.OnnxExporterError as error:
            pytest.skip(f"torch cannot export the plain {case.family.backbone} either: {str(error).splitlines()[0]}")
        raise
    session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    found = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: images.numpy()})[0])
    check_equal(found, expected, case)
