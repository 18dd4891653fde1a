"""The house rules that a machine can check: layers, types, style, what imports what."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check", "search", "spaces", "tests"],
        ["ruff", "format", "--check", "search", "spaces", "tests"],
        ["mypy"],
        ["lint-imports"],
    ],
    ids=lambda command: " ".join(command),
)
def test_the_checkers_find_nothing(command: list[str]) -> None:
    result = subprocess.run([BIN / command[0], *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    "module",
    ["spaces", "search.training", "search.costs", "search.data", "search.model", "search.trial"],
)
def test_it_imports_where_only_torch_and_timm_are(module: str) -> None:
    script = (
        f"import {module}, sys;"
        "found = {name.partition('.')[0] for name in sys.modules} & {'ray', 'optuna', 'mlflow'};"
        "sys.exit(f'imports {found}' if found else 0)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_the_top_level_holds_what_the_customer_fixed() -> None:
    result = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode:
        pytest.skip("not a git checkout")
    top = {line.split("/")[0] for line in result.stdout.splitlines()}
    fixed = {"search", "spaces", "tests", "runs", "pyproject.toml", "README.md", "LICENSE"}
    assert {name for name in top if not name.startswith(".")} <= fixed
