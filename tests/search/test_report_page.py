"""The report as a page: complete in one file, readable in a real browser, harmless whatever its names are."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from search.confirmation.record import Confirmation, Contender, Interval, Retraining
from search.pareto import Objectives
from search.record import State, TrialRecord, front_of
from search.report.history import hypervolume_history
from search.report.page import front_page
from search.report.story import Story
from spaces import Architecture
from tests.search import told

EVIL = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
STATES = (State.STOPPED, State.FAILED, State.INFEASIBLE, State.PAUSED, State.RUNNING, State.DUPLICATE)
RECORDS = [*(told.record(n) for n in range(4)), *(told.record(4 + n, state) for n, state in enumerate(STATES))]
IMPORTANCE = {"accuracy": {"width": 0.75, "norm.2": 0.25}}


def story(records: list[TrialRecord] = RECORDS, name: str = "digits-2", **more: Any) -> Story:
    return Story(name=name, records=records, front=front_of(records, told.OBJECTIVES, told.WORST), **more)


def link(record: TrialRecord) -> str | None:
    return f"#/experiments/1/runs/{record.number:032x}" if record.number != 3 else None


def written(folder: Path, told_story: Story) -> Path:
    path = folder / "page.html"
    path.write_text(front_page(told_story, links=link), encoding="utf-8")
    return path


def data(text: str) -> Any:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found
    return json.loads(found[1])


def confirmation() -> Confirmation:
    def contender(record: TrialRecord | None) -> Contender:
        architecture = Architecture(backbone="resnet18") if record is None else record.architecture
        training = Retraining(seed=0, number=0, network=architecture, values={"test_accuracy": 0.5})
        return Contender(
            architecture=architecture,
            trial=None if record is None else record.number,
            costs={"macs": 2e6},
            retrainings=(training,),
            summary={"test_accuracy": Interval(mean=0.51, low=0.49, high=0.53)},
            verdict=f"keeps its place {EVIL}",
        )

    contenders = (contender(RECORDS[3]), contender(None))
    return Confirmation(trained_on="train", seeds=(0, 1), images=540, margin=0.005, contenders=contenders)


def test_every_standing_is_told_apart_and_every_value_is_there() -> None:
    found = data(front_page(story(), links=link))
    assert found["trials"]["standing"] == [
        *["front"] * 4, "stopped early", "failed", "infeasible, never trained", "paused", "running",
    ]  # fmt: skip
    assert found["trials"]["place"][:4] == [4, 3, 2, 1]
    assert found["values"]["macs"][:2] == [1e6, 2e6]
    assert found["values"]["accuracy"][4] == pytest.approx(0.549)  # where it stood when it was stopped
    assert found["values"]["accuracy"][6] is None
    assert [axis["name"] for axis in found["axes"]] == ["accuracy", "macs", "params"]
    assert found["trials"]["about"][6] == "params 4e6 > 3e6"


def test_nothing_is_loaded_from_anywhere() -> None:
    text = front_page(story(importance=lambda: IMPORTANCE, confirmation=confirmation()), links=link)
    assert not re.search(r"<(?:script|link|img|iframe)[^>]*\s(?:src|href)=", text.replace(EVIL, ""))
    assert "default-src 'none'" in text


def test_the_history_ends_with_the_hypervolume_of_the_front_and_never_falls() -> None:
    directions = {"a": "minimize", "b": "minimize", "c": "maximize"}
    records = [
        TrialRecord(
            number=n,
            architecture=Architecture(choices={"n": n}),
            state=State.COMPLETE,
            seed=0,
            values={"a": n * 37 % 101 / 101, "b": n * 53 % 89 / 89, "c": n * 29 % 97 / 97},
            started=100.0 * n,
            ended=100.0 * n + 50,
            origin="earlier/1" if n < 10 else None,
        )
        for n in range(120)
    ]
    front = front_of(records, Objectives(directions=directions), {"a": 0.9, "b": 0.9, "c": 0.1})
    moments = hypervolume_history(records, front)
    volumes = [moment.hypervolume for moment in moments]
    assert volumes[-1] == pytest.approx(front.hypervolume)
    assert volumes == sorted(volumes)
    assert volumes[0] == pytest.approx(front_of(records[:10], front.objectives, front.reference_point).hypervolume)
    assert [moments[0].trainings, moments[-1].trainings] == [0, 110]
    assert moments[-1].hours == pytest.approx((100 * 109 + 50) / 3600)


def test_an_empty_search_is_a_page_that_says_so(tmp_path: Path, page: Any) -> None:
    page.goto(written(tmp_path, story([])).as_uri())
    page.wait_for_selector("#front .main-svg")
    assert "nothing measured yet" in page.inner_text("#front")
    assert "nothing to choose from" in page.inner_text("body")


def test_names_from_outside_do_no_harm(tmp_path: Path, page: Any) -> None:
    records = [
        TrialRecord(
            number=n,
            architecture=Architecture(choices={EVIL: n}),
            state=State.COMPLETE,
            seed=0,
            costs={"macs": 10.0 - n, EVIL: 1.0},
            values={"accuracy": 0.5 - n / 10, "macs": 10.0 - n},
            reason=EVIL,
            ended=1.0,
        )
        for n in range(2)
    ]
    evil = story(records, name=EVIL, importance=lambda: {EVIL: {EVIL: 1.0}}, confirmation=confirmation())
    page.goto(written(tmp_path, evil).as_uri())
    page.wait_for_selector("#front .point")
    page.click("a.run >> nth=0")
    assert page.title().startswith("</script>")
    assert page.inner_text("h1") == EVIL
    assert page.locator("img").count() == 0
    assert EVIL.split("<")[1].strip("/>") in page.inner_text("#chosen")


def point(page: Any, standing: str, place: int = 0) -> dict[str, float]:
    """The middle of a trial's mark on the screen."""
    group = page.evaluate(
        "name => document.getElementById('front').data.findIndex(one => one.legendgroup === name)", standing
    )
    uid = page.evaluate("group => document.getElementById('front')._fullData[group].uid", group)
    box = page.locator(f"#front .trace{uid} .point").nth(place).bounding_box()
    return {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}


def test_pointing_names_a_trial_and_clicking_opens_its_run(tmp_path: Path, page: Any) -> None:
    page.goto(written(tmp_path, story(importance=lambda: IMPORTANCE)).as_uri())
    page.wait_for_selector("#front .point")
    page.mouse.move(**point(page, "front"))
    page.wait_for_selector("#front .hovertext")
    hover = page.text_content("#front .hoverlayer")
    assert "resnet10t w=0.25" in hover
    assert "front, trial 0" in hover
    with page.expect_popup() as opened:
        page.mouse.click(**point(page, "front"))
    assert opened.value.evaluate("1") == 1
    assert page.input_value("#chosen input") == f"http://127.0.0.1:5000/#/experiments/1/runs/{0:032x}"


def test_any_pair_of_values_can_be_looked_at_and_tables_sorted(tmp_path: Path, page: Any) -> None:
    page.goto(written(tmp_path, story(confirmation=confirmation())).as_uri())
    page.wait_for_selector("#front .point")
    page.select_option("#x", "params")
    assert page.text_content("#front .xtitle") == "params"
    page.select_option("#y", "test_accuracy")
    assert "unmodified backbone (1)" in page.text_content("#front .legend")
    front = page.locator("table.sortable").nth(1)
    front.get_by_role("button", name="macs").click()
    assert front.locator("tbody tr td:first-child").all_inner_texts() == ["4", "3", "2", "1"]
    front.get_by_role("button", name="macs").click()
    assert front.locator("tbody tr td:first-child").all_inner_texts() == ["1", "2", "3", "4"]


def test_in_a_sandbox_a_click_says_where_the_run_is(tmp_path: Path, page: Any) -> None:
    """As MLflow shows an artifact: a blob in a frame that may run scripts, and nothing else."""
    html = written(tmp_path, story()).read_text("utf-8")
    page.route("http://mlflow.test/", lambda route: route.fulfill(body="<body></body>", content_type="text/html"))
    page.goto("http://mlflow.test/")
    page.evaluate(
        """html => {
            const frame = Object.assign(document.createElement("iframe"), { sandbox: "allow-scripts", width: 1200,
              height: 800, src: URL.createObjectURL(new Blob([html], { type: "text/html" })) });
            document.body.append(frame);
        }""",
        html,
    )
    frame = page.frame_locator("iframe")
    frame.locator("#front .point").first.wait_for()
    frame.locator("a.run").first.click()
    assert "copy the address" in frame.locator("#chosen").inner_text()
    assert frame.locator("#chosen input").input_value() == f"http://mlflow.test/#/experiments/1/runs/{2:032x}"
    assert len(page.context.pages) == 1
