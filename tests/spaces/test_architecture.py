"""Identity: equal networks have equal ids in any process, unequal ones do not."""

import json
import pickle
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spaces import Architecture, SpaceError

VIT = {"img_size": 32, "patch_size": 8}


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ({"choices": {"sharing": "stage"}}, {}),  # one block a stage: nothing to share
        ({"choices": {"width": 1.0}}, {}),
        ({"choices": {"width": 1}}, {"choices": {"width": 1.0}}),
        ({"choices": {"width": 0.505}}, {"choices": {"width": 0.5}}),  # the same channels after rounding
        ({"choices": {"width": [0.5, 0.5, 0.5, 0.5]}}, {"choices": {"width": 0.5}}),
        ({"choices": {"scaling": "none"}}, {"choices": {"scaling": "keep"}}),  # a ResNet has no own scales
        ({"choices": {"norm": "keep", "group_size": "keep", "layer_attention": "none"}}, {}),
        ({"kwargs": {"drop_path_rate": 1}}, {"kwargs": {"drop_path_rate": 1.0}}),
        ({"kwargs": {"drop_path_rate": 0.0}}, {}),  # the default of the constructor
    ],
)
def test_equal_networks_have_equal_ids(one: dict[str, dict[str, object]], two: dict[str, dict[str, object]]) -> None:
    first, second = Architecture(backbone="resnet10t", **one), Architecture(backbone="resnet10t", **two)
    assert first.id == second.id
    assert first.canonical == second.canonical


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ({"choices": {"scaling": "rezero"}}, {}),
        ({"choices": {"scaling": "layerscale"}}, {"choices": {"scaling": "rezero"}}),
        ({"choices": {"scaling": "none"}}, {"choices": {"scaling": "keep"}}),  # ConvNeXt has own scales
        ({"choices": {"width": 0.5}}, {"choices": {"width": 0.25}}),
        ({"kwargs": {"drop_path_rate": 0.1}}, {}),
        ({"kwargs": {"ls_init_value": 0.1}}, {}),  # only the initial values differ
    ],
)
def test_different_networks_have_different_ids(
    one: dict[str, dict[str, object]], two: dict[str, dict[str, object]]
) -> None:
    assert Architecture(backbone="convnext_atto", **one).id != Architecture(backbone="convnext_atto", **two).id


def test_the_id_is_the_start_of_the_sha256_of_the_canonical_json_in_any_process() -> None:
    given = Architecture(backbone="vit_tiny_patch16_224", kwargs={**VIT, "depth": 12}, choices={"width": 0.5})
    assert given.canonical.kwargs == VIT
    script = (
        "import hashlib, json, sys; from spaces import Architecture;"
        "a = Architecture.from_json(sys.argv[1]);"
        "plain = json.dumps(a.canonical.to_dict(), sort_keys=True, separators=(',', ':'));"
        "print(a.id, hashlib.sha256(plain.encode()).hexdigest()[:12])"
    )
    result = subprocess.run([sys.executable, "-c", script, given.to_json()], capture_output=True, text=True, check=True)
    assert result.stdout.split() == [given.id, given.id]


def test_labels_tell_architectures_apart() -> None:
    choices = {"scaling": "rezero", "width": 0.5, "sharing": "stage"}
    assert Architecture(backbone="convnext_atto", choices=choices).label == "convnext_atto w=0.5 share=stage rezero"
    assert Architecture(choices={"op": "conv", "k": 3}).label == "op=conv k=3"
    per_stage = Architecture(backbone="convnext_atto", choices={"width": [1.0, 1.0, 0.5, 1.0]})
    assert per_stage.label == "convnext_atto w=1.0,1.0,0.5,1.0"


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.text(), json_values, max_size=3), st.dictionaries(st.text(), json_values, max_size=3))
@settings(max_examples=50)
def test_json_and_pickle_round_trips(kwargs: dict[str, object], choices: dict[str, object]) -> None:
    given = Architecture(backbone="any", kwargs=kwargs, choices=choices)
    assert Architecture.from_json(given.to_json()) == given
    assert pickle.loads(pickle.dumps(given)) == given
    assert hash(Architecture.from_json(given.to_json())) == hash(given)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "an architecture is a mapping, not list"),
        (json.dumps({"backbon": "resnet18"}), "unknown key of an architecture 'backbon'; did you mean 'backbone'?"),
        (json.dumps({"backbone": 3}), "3 is not a name"),
        (json.dumps({"backbone": "resnet18", "choices": []}), "an empty list is not a mapping"),
        ('{"backbone": "resnet18", "kwargs": {"a": NaN}}', "is not made of JSON values"),
    ],
)
def test_a_bad_architecture_file_says_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(SpaceError) as caught:
        Architecture.from_json(text)
    assert message in str(caught.value)


def test_arguments_that_only_work_together_work() -> None:
    wide = Architecture(backbone="vit_tiny_patch16_224", kwargs={**VIT, "embed_dim": 128, "num_heads": 4})
    assert wide.canonical.kwargs == wide.kwargs
    assert Architecture(backbone="vit_tiny_patch16_224", kwargs={**VIT, "class_token": False, "global_pool": "avg"}).id


def test_an_architecture_cannot_be_changed() -> None:
    given = Architecture(backbone="resnet10t", choices={"width": 0.5})
    with pytest.raises(TypeError):
        given.choices["width"] = 0.25  # type: ignore[index]


def test_layerscale_that_starts_as_the_models_own_is_the_models_own() -> None:
    kwargs = {"ls_init_value": 0.1}  # what LayerScale starts with at 12 blocks
    own = Architecture(backbone="convnext_atto", kwargs=kwargs)
    assert Architecture(backbone="convnext_atto", kwargs=kwargs, choices={"scaling": "layerscale"}).id == own.id


def test_a_pretrained_tag_names_weights_and_not_a_network() -> None:
    assert Architecture(backbone="resnet18.a1_in1k").id == Architecture(backbone="resnet18").id
