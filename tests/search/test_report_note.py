"""The description of a search in Markdown, and the command that writes its report."""

import re
from pathlib import Path
from typing import Any

import pytest

from search.commands.report import report
from search.record import State, TrialRecord, front_of
from search.report.note import note
from search.report.story import Story
from search.study import studies
from spaces import Architecture, InputError
from tests.search import told
from tests.search.command import archsearch
from tests.search.plain import REFERENCE, Table, drive, plain_space


def story(records: list[TrialRecord], **more: Any) -> Story:
    return Story(name="digits-2", records=records, front=front_of(records, told.OBJECTIVES, told.WORST), **more)


def link(record: TrialRecord) -> str:
    return f"#/experiments/1/runs/{record.number:032x}"


def test_it_says_how_the_search_stands_how_to_choose_and_what_to_type() -> None:
    records = [told.record(0), told.record(1), told.record(2, State.STOPPED), told.record(3, State.INFEASIBLE)]
    text = note(story(records), link, 8000)
    assert "4 trials: 2 complete, 1 stopped. Never trained: 1 infeasible. The front has 2 members" in text
    assert "decide what you can afford, take the best accuracy within it" in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert table[0] == "| # | architecture | accuracy | macs | params | id | trial |"
    assert table[2].startswith(f"| 1 | [resnet10t w=0.5](#/experiments/1/runs/{1:032x}) | 0.519 | 2.00 M | 100.00 k |")
    assert f"archsearch pick digits-2 --id {records[1].network.id}" in text


def test_a_search_without_a_front_has_no_table() -> None:
    text = note(story([told.record(0, State.RUNNING)]), link, 8000)
    assert "nothing to choose from" in text
    assert "|" not in text


def test_a_long_front_is_cut_to_what_a_tag_takes() -> None:
    text = note(story([told.record(n) for n in range(400)]), link, 8000)
    rows = len(re.findall(r"^\| \d", text, re.MULTILINE))
    assert len(text) <= 8000
    assert rows > 20
    assert f"and {400 - rows} more" in text
    assert "archsearch pick" in text


def test_names_from_outside_are_text() -> None:
    evil = "a|b](javascript:alert(1)) <img src=x> `code`"
    record = TrialRecord(
        number=0,
        architecture=Architecture(choices={evil: 1}),
        state=State.COMPLETE,
        seed=0,
        values={"accuracy": 0.5, "macs": 1.0},
    )
    row = next(line for line in note(story([record]), link, 8000).splitlines() if line.startswith("| 1 |"))
    assert len(re.findall(r"(?<!\\)\|", row)) == 7
    assert not re.search(r"(?<!\\)[<>`]", row)
    assert not re.search(r"(?<!\\)\]\(javascript", row)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report") / "runs"
    study = studies.begin(folder / "plain", plain_space(trials=20), Table(), reference_point=REFERENCE)
    drive(study, Table())
    study.close()
    return folder


def test_the_command_writes_a_page_and_replaces_only_its_own(runs: Path, tmp_path: Path) -> None:
    first = archsearch(tmp_path, "report", "plain", "--runs", runs)
    assert first.returncode == 0, first.stderr
    assert "plain-report.html" in first.stdout
    page = (tmp_path / "plain-report.html").read_text("utf-8")
    assert "<h1>plain</h1>" in page
    report("plain", runs=runs, output=tmp_path / "plain-report.html")
    (tmp_path / "mine.html").write_text("<p>mine</p>")
    with pytest.raises(InputError, match=r"mine\.html is no report of archsearch and stays as it is"):
        report("plain", runs=runs, output=tmp_path / "mine.html")
    assert (tmp_path / "mine.html").read_text() == "<p>mine</p>"
