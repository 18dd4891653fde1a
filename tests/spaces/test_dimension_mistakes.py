"""Every mistake in how a dimension is written: the key, what is allowed and the nearest name."""

from pathlib import Path
from typing import Any

import pytest

from spaces import SearchSpace, SpaceError, load
from spaces.techniques import TECHNIQUES
from tests.search.command import archsearch, space_file
from tests.spaces.space_files import refused, with_changes, written

NETWORKS: dict[str, Any] = {
    "data": {"source": "digits", "image_size": 32},
    "backbones": ["resnet10t"],
    "objectives": {"accuracy": "maximize"},
    "search": {"trials": 1, "fidelity": {"max": 1}},
}
MANY = [number / 1000 for number in range(1, 1001)]


def with_dimension(name: str, given: object) -> dict[str, Any]:
    return with_changes(**NETWORKS, dimensions={name: given})


@pytest.mark.parametrize(
    ("name", "given", "key", "message"),
    [
        # what a kind takes
        ("scaling", [{"kind": "rezero", "factor": 0.5}], "[0]", "'factor' is no parameter of rezero, only of uniform"),
        ("scaling", [{"kind": "rezero", "penaly": 1}], "[0]", "unknown parameter 'penaly'; scaling rezero has none"),
        ("scaling", [{"kind": "uniform", "facter": 1}], "[0]", "did you mean 'factor'? (allowed: factor)"),
        ("scaling", [{"factor": 0.5}], "[0]", "a mapping (factor) has no kind; for example {kind: keep}"),
        ("scaling", [{"kind": ["uniform"]}], "[0]", "a list is no choice of scaling (allowed: adaptive, "),
        ("scaling", [["uniform"]], "[0]", "a list is no choice of scaling"),
        ("scaling", [None], "[0]", "an empty value (null) is no choice of scaling"),
        ("group_size", [{"kind": "depthwise", "shuffle": True}], "[0]", "'shuffle' is no parameter of depthwise"),
        # values of parameters in a choice
        ("scaling", [{"kind": "uniform", "factor": True}], "[0]", "factor: true is not a number above 0 up to 16"),
        ("scaling", [{"kind": "uniform", "factor": "0.5"}], "[0]", "factor: '0.5' is not a number"),
        ("scaling", [{"kind": "uniform", "factor": [0.5]}], "[0]", "factor: a list is not a number"),
        ("scaling", [{"kind": "groupwise", "groups": 2.5}], "[0]", "groups: 2.5 is not a whole number from 1 up to"),
        ("scaling", [{"kind": "groupwise", "groups": 10**9}], "[0]", "groups: 1000000000 is not a whole number"),
        ("scaling", [{"kind": "adaptive", "removed": "a"}], "[0]", "removed: 'a' is not a text such as 1,3"),
        ("scaling", [{"kind": "adaptive", "removed": "1" * 10_000}], "[0]", "1111... is not a text such as 1,3"),
        ("scaling", [{"kind": "adaptive", "removed": 0}], "[0]", "removed: 0 is not a text such as 1,3"),
        ("scaling", [{"kind": "adaptive", "conditioned": 1}], "[0]", "conditioned: 1 is not one of false, true"),
        ("sharing", [{"kind": "cycle", "unique": 10**9}], "[0]", "is not a whole number from 1 up to 1000"),
        ("sharing", [{"kind": "stage", "scope": "blok"}], "[0]", "scope: 'blok' is not one of block, attention"),
        ("width", [{"kind": 0.5, "multiple": 257}], "[0]", "multiple: 257 is not a whole number from 1 up to 256"),
        # the same choice in two ways
        ("width", [0.5, {"kind": 0.5, "multiple": 8}], "[1]", "the choice 0.5 is there twice"),
        ("scaling", ["uniform", {"kind": "uniform", "factor": 0.5}], "[1]", 'the choice "uniform" is there twice'),
        ("group_size", [4, 4.0], "[1]", "the choice 4 is there twice"),
        # parameters that are searched
        ("scaling", {"kind": ["uniform"], "factr": [1]}, ".factr", "unknown key 'factr'; did you mean 'factor'?"),
        ("scaling", {"kind": ["uniform"], "factor": 0.5}, ".factor", "0.5 is neither a list of values nor a range"),
        (
            "scaling",
            {"kind": ["uniform"], "factor": []},
            ".factor",
            "an empty list is not a list of at least one",
        ),
        ("scaling", {"kind": ["uniform"], "factor": [1, [2]]}, ".factor[1]", "a list is not a number above 0 up to 16"),
        ("scaling", {"kind": ["uniform"], "factor": [1, 1.0]}, ".factor[1]", "the value 1.0 is there twice"),
        ("group_size", {"kind": [4], "shuffle": [0]}, ".shuffle[0]", "0 is not one of false, true"),
        (
            "layer_attention",
            {"kind": ["ela"], "skip_threshold": [1]},
            ".skip_threshold[0]",
            "1 is not a number",
        ),
        ("layer_attention", {"kind": ["ela"], "skip_threshold": {"low": 0.1}}, ".skip_threshold.high", "is missing"),
        (
            "layer_attention",
            {"kind": ["ela"], "skip_threshold": {"low": 0.1, "high": 0.9, "step": 0}},
            ".skip_threshold.step",
            "0.0 is not a step above 0",
        ),
        (
            "layer_attention",
            {"kind": ["ela"], "skip_threshold": {"low": 0.1, "high": 0.9, "step": 1e-9}},
            ".skip_threshold.step",
            "with at most 1000 from low to high",
        ),
        # the form of a dimension
        ("norm", {"kind": ["keep"], "per": ["stage"]}, ".per", "a list is no value (allowed: network, stage)"),
        ("norm", {"kind": ["keep"], "choices": ["keep"]}, "", "`choices` and `kind` mean the same; keep one"),
        ("norm", {"kind": "keep"}, ".kind", "'keep' is not a list of at least one choice"),
        ("norm", {"choices": ["keep"], "unique": [1]}, ".unique", "unknown key 'unique'"),
        ("norm", None, "", "an empty value (null) is not a list of choices"),
        # more than can be looked at
        ("width", [*MANY, 8], "", "1,001 choices with all values of their parameters; at most 1,000 can be looked at"),
        ("scaling", {"kind": ["keep", "adaptive"], "penalty": MANY, "conditioned": [False, True]}, "", "2,001 choices"),
    ],
)
def test_a_mistake_is_told_with_its_key_and_what_is_allowed(name: str, given: object, key: str, message: str) -> None:
    error = refused(with_dimension(name, given))
    assert error.key == f"dimensions.{name}{key}"
    assert message in error.reason
    assert len(str(error)) < 300


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"x" * 10_000: ["keep"]}, "a key of 10,000 characters; the longest may have 200"),
        ({"scaling": {"kind": ["keep"], "x" * 10_000: [1]}}, "a key of 10,000 characters"),
        ({"scaling": ["x" * 10_000]}, "xxxx... (allowed: adaptive, "),
    ],
)
def test_a_message_stays_short_whatever_it_is_about(given: dict[str, Any], message: str) -> None:
    error = refused(with_changes(**NETWORKS, dimensions=given))
    assert message in error.reason
    assert len(str(error)) < 300


def test_a_parameter_has_a_line(tmp_path: Path) -> None:
    error = refused(written(tmp_path, "[none, rezero, layerscale]", "{kind: [uniform], factor: [.nan]}"))
    assert (error.line, error.key) == (8, "dimensions.scaling.factor[0]")


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("width", [4000], "no choice applies to resnet10t: 4000 channels are more than 8 times the 64 of stage 1"),
        ("scaling", [{"kind": "adaptive", "removed": "9999"}], "stage 1 has 1 branches; 9999, counted from 0, is none"),
        ("layer_attention", ["ela"], "no stage chosen has two residual blocks"),
    ],
)
def test_what_does_not_fit_the_backbone_is_told_with_the_reason(name: str, given: object, message: str) -> None:
    file = load(with_dimension(name, given))
    with pytest.raises(SpaceError) as caught:
        SearchSpace(file)
    assert caught.value.key == f"dimensions.{name}"
    assert message in caught.value.reason


def test_extremes_that_are_allowed_are_built() -> None:
    allowed: dict[str, list[Any]] = {
        "width": [1e-9, {"kind": 0.5, "multiple": 256}],
        "group_size": [65_536],
        "scaling": [{"kind": "groupwise", "groups": 65_536}, {"kind": "uniform", "factor": 16}],
        "sharing": [{"kind": "cycle", "unique": 1000}],
    }
    for name, given in allowed.items():
        assert SearchSpace(load(with_dimension(name, given))).size == len(given)


def test_a_knob_knows_its_bounds() -> None:
    """Numbers have two, so that nothing a stranger writes makes a network endless; texts have a form."""
    for technique in TECHNIQUES.values():
        for name, knob in technique.knobs.items():
            assert knob.check(knob.default) == knob.default, name
            wrong: list[Any] = [10**400, -(10**400), float("nan"), float("inf"), None, [], {}, "\n", "\0"]
            for given in wrong:
                with pytest.raises(ValueError, match=" is not "):
                    knob.check(given)


def test_the_command_line_ends_with_code_2_and_one_message(tmp_path: Path) -> None:
    file = space_file(tmp_path, dimensions={"width": [4000]})
    ended = archsearch(tmp_path, "run", file, "--trials", 1)
    assert ended.returncode == 2
    assert "dimensions.width: no choice applies to resnet10t: 4000 channels" in " ".join(ended.stderr.split())
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "runs").exists()
