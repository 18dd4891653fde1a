"""What trials get of nodes, what is the fault of whom, and what workers elsewhere are given: without a cluster."""

import errno
import os

import pytest
import torch
from ray.runtime_env import RuntimeEnv

import search
from search.checkpoints.checkpoints import OutOfReach
from search.workers import luggage as luggages
from search.workers.faults import DEATHS, LOSSES, SUSPECTS, Deaths, of_machine
from search.workers.luggage import luggage
from search.workers.pools import GIB, Resources, pool, room
from spaces import InputError

GPU = {"CPU": 16.0, "GPU": 2.0, "memory": 64.0 * GIB}
CPU = {"CPU": 8.0, "memory": 15.5 * GIB}


def test_a_pool_reads_as_ray_counts():
    assert pool("gpu=0.5, cpu=4") == {"GPU": 0.5, "CPU": 4.0}
    assert pool("memory=16,tpu-v4=1") == {"memory": 16.0 * GIB, "tpu-v4": 1.0, "CPU": 1.0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gpu", r"--pool gpu: 'gpu' is not NAME=AMOUNT; for example gpu=1,cpu=4"),
        ("gpu=x", "'gpu=x' is not NAME=AMOUNT"),
        ("gpu=-1", "'gpu=-1' is not NAME=AMOUNT"),
        ("gpu=nan", "'gpu=nan' is not NAME=AMOUNT"),
        ("", "'' is not NAME=AMOUNT"),
        ("cpu=1,CPU=2", "--pool cpu=1,CPU=2: CPU is there twice"),
        ("gpu=1.5", "1.5 GPUs for a trial: allowed are a part of one, or a whole number"),
        ("cpu=0", "a trial needs more than 0 CPUs, not 0"),
    ],
)
def test_a_bad_pool_is_one_message(text, message):
    with pytest.raises(InputError, match=message):
        Resources.asked(pools=[text])


def test_pools_say_all_that_a_trial_gets():
    with pytest.raises(InputError, match="--cpus-per-trial beside --pool: each --pool says all"):
        Resources.asked(pools=["gpu=1"], cpus=2)
    with pytest.raises(InputError, match=r"--memory-per-trial -1 is not a number from 0"):
        Resources.asked(memory=-1)


@pytest.mark.parametrize(
    ("pools", "nodes", "held"),
    [
        (["gpu=1,cpu=4"], [GPU, CPU], [2]),
        (["gpu=1,cpu=4", "cpu=8"], [GPU, CPU], [2, 2]),  # what the GPU trials leave of their node counts too
        (["gpu=1,cpu=8", "cpu=1,memory=8"], [GPU, CPU], [2, 1]),  # none left beside the GPUs, one by memory
        (["gpu=0.1,cpu=1"], [GPU], [16]),
        (["gpu=0.3,cpu=0.1"], [{"CPU": 1.0, "GPU": 1.0}], [3]),
        (["gpu=3,cpu=1"], [GPU, GPU], [0]),  # a trial has one node
        (["cpu=1"], [], [0]),
    ],
)
def test_room_is_counted_on_each_node(pools, nodes, held):
    assert room([pool(text) for text in pools], nodes) == held


def raised(action):
    try:
        action()
    except Exception as error:
        return error
    raise AssertionError("it does not raise")


def wrapped(error):
    try:
        raise RuntimeError("the training ended") from error
    except RuntimeError as outer:
        return outer


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: device-side assert triggered"),
        RuntimeError("CUDA error: unspecified launch failure"),
        RuntimeError("No CUDA GPUs are available"),
        OSError(errno.EIO, "Input/output error"),
        OSError(errno.ESTALE, "Stale file handle"),
        ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
        OutOfReach("s3://bucket is away"),
        wrapped(OSError(errno.EDQUOT, "Disk quota exceeded")),
        raised(lambda: torch.save({"weights": torch.zeros(100_000)}, "/dev/full")),
    ],
    ids=str,
)
def test_what_a_machine_does_is_no_fault_of_the_architecture(error):
    assert of_machine(error)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError("CUDA out of memory"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        FileNotFoundError(errno.ENOENT, "No such file or directory"),
        ValueError("the evaluator ended at 2 of 2 without values for accuracy"),
    ],
    ids=str,
)
def test_what_an_architecture_does_is_its_own_fault(error):
    assert not of_machine(error)


def test_deaths_and_losses_are_counted_apart():
    deaths = Deaths()
    assert [deaths.lost(1) for _ in range(LOSSES)][-2:] == ["", f"{LOSSES} nodes were lost under it"]
    assert [deaths.died(1, "a") for _ in range(DEATHS)][-2:] == ["", f"tried {DEATHS} times"]
    assert deaths.total == DEATHS
    assert deaths.shunned(1) == {"a"}
    assert deaths.shunned(2) == frozenset()


def test_a_node_is_avoided_after_different_trials_died_there_in_a_row():
    deaths = Deaths()
    for number in range(SUSPECTS - 1):
        deaths.died(number, "bad")
        deaths.died(0, "good")  # the same trial again and again says nothing of the node
    assert deaths.condemned(["good", "bad"]) == []
    deaths.reached(7, "bad")
    deaths.died(8, "bad")
    assert deaths.condemned(["good", "bad"]) == []  # it has worked in between
    deaths.died(9, "bad")
    deaths.died(10, "bad")
    assert deaths.condemned(["good", "bad"]) == ["bad"]
    assert deaths.condemned(["good", "bad"]) == []
    assert deaths.shunned(99) == {"bad"}


def test_workers_here_need_nothing_and_workers_elsewhere_get_our_code(monkeypatch):
    for name in luggages.TAKEN:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    assert luggage(None) == {}
    packed = luggage("10.0.0.1:6379")
    assert packed["env_vars"] == {"RAY_CHDIR_TO_TRIAL_DIR": "0", "HF_HUB_OFFLINE": "1"}  # and no secret
    assert packed["py_modules"][0] == os.path.dirname(search.__file__)
    RuntimeEnv(**packed)


def test_a_file_is_added_and_wins(tmp_path):
    (tmp_path / "code").mkdir()
    file = tmp_path / "env.json"
    file.write_text('{"working_dir": "code", "env_vars": {"RAY_CHDIR_TO_TRIAL_DIR": "1", "TOKEN": "x"}}')
    packed = luggage("10.0.0.1:6379", file)
    assert packed["working_dir"] == str(tmp_path / "code")  # relative to the file
    assert packed["env_vars"]["RAY_CHDIR_TO_TRIAL_DIR"] == "1"
    assert packed["env_vars"]["TOKEN"] == "x"
    file.write_text("image_uri: archsearch:latest\n")
    assert "py_modules" not in luggage("10.0.0.1:6379", file)  # Ray refuses code beside an image
    RuntimeEnv(**luggage("10.0.0.1:6379", file))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("workdir: x", "unknown key 'workdir'; did you mean 'working_dir'"),
        ("- pip", "a mapping is needed, not a list"),
        ("{", "is neither YAML nor JSON"),
        ("working_dir: nowhere", "nowhere is not there"),
        ("env_vars: [A]", "env_vars must be a mapping, not a list"),
        ("env_vars: {A: 1}", "env_vars.A must be a text in quotes, not 1"),
        ("!!python/object/apply:os.abort []", "is neither YAML nor JSON"),
    ],
)
def test_a_bad_file_is_one_message(tmp_path, text, message):
    file = tmp_path / "env.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        luggage(None, file)
    assert str(caught.value).startswith(f"--runtime-env {file}")
    with pytest.raises(InputError, match="No such file"):
        luggage(None, tmp_path / "none.yaml")


def test_the_keys_are_those_of_ray():
    ours = set(luggages.KEYS)
    assert ours <= RuntimeEnv.known_fields
    assert {key for key in RuntimeEnv.known_fields - ours if not key.startswith("_")} == {"java_jars"}
