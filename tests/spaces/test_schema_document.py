"""What is read as plain data, and what is refused before anyone asks what it means."""

import time
from pathlib import Path

import pytest

from spaces.schema import load
from tests.spaces.space_files import TEXT, refused, written

BROKEN = [
    (b"", None, "the file is empty"),
    (b"# nothing\n", None, "the file is empty"),
    (b"- a\n", 1, "the top of a space file is a mapping"),
    (b"a: 1\nb: caf\xe9\n", 2, "not UTF-8 text (byte 0xe9)"),
    (b"name: x\nsearch:\n\ttrials: 3\n", 3, "a tab; YAML is indented with spaces"),
    (b"name: x\nsearch: {}\nname: y\n", 3, "written twice (first in line 1)"),
    (b"name: x\n---\nname: y\n", 2, "a second document"),
    (b"name: x\nrungs: [1, 2\n", 3, "not YAML: expected ',' or ']'"),
    (b"name: x\ntrials: *nope\n", 2, "found undefined alias 'nope'"),
    (b"name: &a [*a]\n", 1, "an alias that contains itself"),
    (b"name: x\n<<: {trials: 1}\n", 2, "`<<` is not part of YAML 1.2"),
    (b"name: x\n1: y\n", 2, "the key 1 is not text"),
    (b"? [a]\n: y\n", 1, "a key is one word"),
    (b"%YAML 1.1\n---\nname: x\n", 2, "a space file is YAML 1.2"),
    (b"name: x\nb: \x00\n", 2, "not YAML: unacceptable character"),
    (b'name: x\nb: "\\ud800"\n', 2, "holds a control character"),
    (b"name: x\nb: 1e999\n", 2, "inf is not a finite number"),
    (b"name: x\nb: !!int 5x\n", 2, "'5x' cannot be read as !!int"),
    (b"name: x\nb: 99999999999999999999\n", 2, "beyond the largest"),
    (b"name: x\nb: !secret y\n", 2, "the tag !secret is refused"),
    (b"name: x\nb: !!binary aGk=\n", 2, "the tag !!binary is refused"),
    (b"name: " + b"x" * 1_000_001, None, "larger than 1000000 bytes"),
    (b"name: x\nb: " + b"[" * 100_000, 2, "nested more than 32 deep"),
]


@pytest.mark.parametrize(("raw", "line", "message"), BROKEN, ids=[row[2] for row in BROKEN])
def test_what_is_not_one_plain_yaml_mapping_is_refused(tmp_path: Path, raw: bytes, line: int, message: str) -> None:
    path = tmp_path / "space.yaml"
    path.write_bytes(raw)
    started = time.perf_counter()
    error = refused(path)
    assert time.perf_counter() - started < 5
    assert (error.file, error.line) == (str(path), line)
    assert message in error.reason


def test_missing_file_and_directory(tmp_path: Path) -> None:
    (tmp_path / "quickstart.yaml").write_text(TEXT)
    nearest = str(tmp_path / "quickstart.yaml")
    assert refused(tmp_path / "quickstat.yaml").reason == f"there is no such file; did you mean {nearest!r}?"
    assert "this is a directory" in refused(str(tmp_path)).reason
    assert refused("/dev/zero").reason == "not a plain file"


def test_python_tags_do_not_run(tmp_path: Path) -> None:
    proof = tmp_path / "ran"
    path = written(tmp_path, "trials: 16", f"trials: !!python/object/apply:os.system ['touch {proof}']")
    error = refused(path)
    assert (error.line, error.key) == (21, "search.trials")
    assert "the tag !!python/object/apply:os.system is refused" in error.reason
    assert not proof.exists()


def test_aliases_that_explode_are_refused_quickly(tmp_path: Path) -> None:
    path = tmp_path / "bomb.yaml"
    laughs = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 20))
    path.write_text("a0: &a0 [ha]\n" + laughs)
    started = time.perf_counter()
    assert "more than 10000 values, with every use of an alias counted" in refused(path).reason
    assert time.perf_counter() - started < 5


def test_an_alias_is_read_as_what_it_stands_for(tmp_path: Path) -> None:
    path = written(tmp_path, "group_size: [keep]\n", "group_size: &same [keep]\n")
    path.write_text(path.read_text().replace("norm: [keep]", "norm: *same"))
    assert load(path).dimensions["norm"].choices == ("keep",)
    path.write_text(path.read_text().replace("[keep]", "[kept]"))
    error = refused(path)
    assert (error.line, error.key) == (10, "dimensions.group_size[0]")


def test_numbers_and_words_are_those_of_yaml_1_2(tmp_path: Path) -> None:
    space = load(written(tmp_path, "{max: 3.0e6}", "{min: 0o17, max: 3e+6}"))
    assert (space.constraints["params"].min, space.constraints["params"].max) == (15, 3e6)
    path = tmp_path / "plain.yaml"
    path.write_text(
        "name: x\ndimensions: {a: [no, on, off, 2026-01-01, none, 1:30, 012]}\n"
        "objectives: {e: minimize}\nsearch: {trials: 1}"
    )
    assert load(path).dimensions["a"].choices == ("no", "on", "off", "2026-01-01", "none", "1:30", 12)
