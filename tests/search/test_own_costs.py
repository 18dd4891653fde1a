"""A cost of the user's own: code that runs only where it is allowed; counted, constrained and optimised as others."""

import json
from pathlib import Path

import pytest

from search.task import Task, opened
from spaces import InputError
from tests.search.command import archsearch, space_file

MINE = """
import math
calls = []

def estimate(model, input_size):
    assert all(parameter.is_meta for parameter in model.parameters())
    return sum(parameter.numel() for parameter in model.parameters()) / 1024 + input_size[1]

def fails(model, input_size):
    raise RuntimeError("no such flash")

def nothing(model, input_size):
    return math.nan

def leaves(model, input_size):
    raise SystemExit(0)

def text(model, input_size):
    return "12"

def ruins(model, input_size):
    print("ruined")
    for name in [name for name, _ in model.named_children()]:
        delattr(model, name)
    return 1

limit = 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a module of the user's; each has a name of its own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / f"mine_{tmp_path.name}.py").write_text(MINE)
    return tmp_path


def task(folder: Path, function: str, *, allow_code: bool = True) -> Task:
    costs = {"flash_kb": f"mine_{folder.name}:{function}"}
    return opened(space_file(folder, costs=costs), allow_code=allow_code)


def test_it_is_counted_with_the_others(folder: Path) -> None:
    opened_task = task(folder, "estimate")
    plain = next(iter(opened_task.space.backbones()))
    costs = opened_task.evaluator.costs(plain)
    assert costs["flash_kb"] == costs["params"] / 1024 + 16


def test_it_can_neither_change_the_network_nor_print_among_results(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    opened_task = opened(
        space_file(folder, costs={"flash_kb": f"mine_{folder.name}:ruins", "peak_bytes": {}}), allow_code=True
    )
    costs = opened_task.evaluator.costs(next(iter(opened_task.space.backbones())))
    assert costs["flash_kb"] == 1
    assert costs["peak_bytes"] > 4 * costs["params"]
    assert "ruined" not in capsys.readouterr().out


def test_without_leave_it_is_not_even_imported(folder: Path) -> None:
    (folder / "loud.py").write_text("open('imported', 'w').close()")
    path = space_file(folder, costs={"flash_kb": "loud:estimate"})
    with pytest.raises(InputError, match=r"costs\.flash_kb: loud:estimate is code, and runs only .*--allow-code"):
        opened(path)
    assert not (folder / "imported").exists()
    with pytest.raises(
        InputError, match=r"tiny.yaml:\d+: costs\.flash_kb: loud:estimate is not there: unknown function 'estimate'"
    ):
        opened(path, allow_code=True)
    assert (folder / "imported").exists()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("estimates", r"unknown function 'estimates'; did you mean 'estimate'\?"),
        ("limit", "unknown function 'limit'"),
        ("fails", "fails: RuntimeError: no such flash"),
        ("leaves", "fails: SystemExit: 0"),
        ("text", "gives '12', which is no number"),
    ],
)
def test_one_that_does_not_work_is_told_at_once(folder: Path, function: str, message: str) -> None:
    with pytest.raises(InputError, match=rf"costs\.flash_kb: mine_\w+:{function}.*{message}"):
        task(folder, function)


def test_a_module_that_is_not_there_is_told_at_once(folder: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere:f cannot be imported: ModuleNotFoundError: No module named"):
        opened(space_file(folder, costs={"flash_kb": "nowhere:f"}), allow_code=True)


def test_what_is_no_number_is_told_at_once(folder: Path) -> None:
    with pytest.raises(InputError, match=r"nothing gives nan, which is no number up to 1e\+100"):
        task(folder, "nothing")


def test_a_search_by_it_from_the_command_line(folder: Path) -> None:
    function = f"mine_{folder.name}:estimate"
    path = space_file(
        folder,
        costs={"flash_kb": function},
        objectives={"accuracy": "maximize", "flash_kb": "minimize"},
        constraints={"flash_kb": {"max": 500}},
        search={"trials": 2, "fidelity": {"max": 1}},
    )
    refused = archsearch(folder, "run", path.name)
    assert refused.returncode == 2
    assert f"{function} is code" in refused.stderr
    assert not (folder / "runs").exists() or not any((folder / "runs").iterdir())
    done = archsearch(folder, "run", path.name, "--allow-code")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(archsearch(folder, "front", "tiny", "--json").stdout)
    for point in found["points"]:
        assert point["values"]["flash_kb"] == point["costs"]["params"] / 1024 + 16 <= 500
