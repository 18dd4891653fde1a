"""What a survey says of a model is what an architecture of that model does."""

import logging
import multiprocessing
import warnings

import pytest
import torch

from spaces import Architecture, SpaceError, build
from spaces.anatomy import anatomy_of
from spaces.survey import Finding, matching, survey, surveys
from spaces.techniques import TECHNIQUES

pytestmark = pytest.mark.usefixtures("one_thread")

MODELS = ("resnet10t", "test_vit", "vgg11")


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, Finding]]:
    return dict(surveys(MODELS))


def test_every_dimension_of_every_model_is_told_with_its_default_first(found: dict[str, dict[str, Finding]]) -> None:
    assert list(found) == list(MODELS)
    for findings in found.values():
        assert list(findings) == list(TECHNIQUES)
        for dimension, finding in findings.items():
            assert finding.choices[0] == TECHNIQUES[dimension].default
            assert finding.applies == (len(finding.choices) > 1)
            assert finding.applies or finding.reason


@pytest.mark.parametrize("name", MODELS)
def test_what_is_told_changes_the_network_and_what_is_left_out_cannot(
    name: str, found: dict[str, dict[str, Finding]]
) -> None:
    plain = Architecture(backbone=name).id
    for dimension, finding in found[name].items():
        technique = TECHNIQUES[dimension]
        offers = list(map(technique.check, technique.offers(anatomy_of(name, {}))))
        assert {str(choice) for choice in finding.choices} <= {str(choice) for choice in [technique.default, *offers]}
        for choice in finding.choices[1:]:
            assert Architecture(backbone=name, choices={dimension: choice}).id != plain
        for choice in offers:
            if choice not in finding.choices:
                assert finding.reason
                assert _refused_or_idle(name, dimension, choice, plain)


def _refused_or_idle(name: str, dimension: str, choice: object, plain: str) -> bool:
    architecture = Architecture(backbone=name, choices={dimension: choice})
    try:
        with torch.device("meta"):
            build(architecture, 10)
    except SpaceError:
        return True
    return architecture.id == plain


def test_reasons_name_what_is_missing(found: dict[str, dict[str, Finding]]) -> None:
    assert found["vgg11"]["norm"].reason == "it has no normalisation layers"
    assert "it has no residual" in found["vgg11"]["layer_attention"].reason
    assert found["resnet10t"]["sharing"].reason
    assert "spatial convolutions" in found["test_vit"]["group_size"].reason
    assert found["resnet10t"]["norm"].reason == "batch: it changes nothing"
    assert not found["resnet10t"]["sharing"].applies


def test_a_model_that_does_not_run_takes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str, kwargs: object) -> None:
        raise SpaceError(f"{name} does not run on an image of 224 x 224: no")

    monkeypatch.setattr("spaces.survey.anatomy_of", broken)
    findings = survey("resnet10t")
    assert list(findings) == list(TECHNIQUES)
    for finding in findings.values():
        assert not finding.applies
        assert finding.reason == "resnet10t does not run on an image of 224 x 224: no"


def test_what_timm_warns_of_is_not_heard(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def loud(name: str, kwargs: object) -> None:
        warnings.warn("look", stacklevel=1)
        logging.getLogger("timm.models").error("look")
        raise SpaceError("no")

    monkeypatch.setattr("spaces.survey.anatomy_of", loud)
    survey("resnet10t")
    assert capfd.readouterr() == ("", "")
    assert not logging.root.manager.disable


def test_many_models_are_read_in_processes_in_their_order_and_quietly(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("spaces.survey.WORTH_A_PROCESS", 1)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    names = ["test_vit", "test_resnet"]
    rows = list(surveys(names))
    assert [name for name, _ in rows] == names
    assert rows[0][1] == survey("test_vit")
    assert capfd.readouterr() == ("", "")
    assert not multiprocessing.active_children()


def test_patterns_name_models_and_an_unknown_one_says_what_is_near() -> None:
    assert matching("vgg11*") == ("vgg11", "vgg11_bn")
    assert matching("resnet18") == ("resnet18",)
    with pytest.raises(SpaceError, match="unknown backbone 'resnet19'; did you mean 'resnet1"):
        matching("resnet19")
