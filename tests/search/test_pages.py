"""MLflow's own pages of a finished search, in a real browser: what a user sees who comes to choose a model."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from mlflow import MlflowClient

from search import results
from search.record import Front, TrialRecord
from tests.search.browser import chromium
from tests.search.command import COMMAND, archsearch, space_file
from tests.search.server import wait_until_up

SHOWN_MS = 60_000  # for a page of MLflow's to come up on a busy machine
WITHOUT_ASSISTANT = """
    if (window === window.top) {
        localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true");
        localStorage.setItem("mlflow.assistant.panelOpen_v1", "false");
    }
"""  # which covers a quarter of a page
SHOTS = os.environ.get("ARCHSEARCH_SHOTS")  # a folder for pictures of the pages, such as those in the README


@dataclass(frozen=True, kw_only=True)
class Pages:
    """The served pages of one search."""

    url: str
    records: list[TrialRecord]
    front: Front
    experiment: str
    run: str

    def open(self, page: Any, path: str) -> None:
        page.add_init_script(WITHOUT_ASSISTANT)
        page.set_default_timeout(SHOWN_MS)
        page.goto(f"{self.url}/#{path}")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    chromium()  # rather before a search than after it
    folder = tmp_path_factory.mktemp("pages")
    ended = archsearch(
        folder, "run", space_file(folder, search__fidelity={"rungs": [1, 2], "reduction": 2}), timeout=600
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    client = MlflowClient(f"sqlite:///{folder}/runs/mlflow.db")
    experiment = client.get_experiment_by_name("tiny").experiment_id
    (search,) = client.search_runs([experiment], "tags.`archsearch.role` = 'search'")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (folder / "log").open("wb") as log:
        served = subprocess.Popen(
            [*COMMAND, "ui", "--port", str(port)], cwd=folder, stdout=log, stderr=log, start_new_session=True
        )
    try:
        wait_until_up(f"http://127.0.0.1:{port}", served, folder / "log")
        study = results.opened(folder / "runs", "tiny")
        yield Pages(
            url=f"http://127.0.0.1:{port}",
            records=study.records(),
            front=study.front,
            experiment=experiment,
            run=search.info.run_id,
        )
    finally:
        os.killpg(served.pid, signal.SIGTERM)
        served.wait(30)


def _shot(page: Any, name: str) -> None:
    if SHOTS:
        page.screenshot(path=f"{SHOTS}/{name}.png")


def test_the_experiment_lists_the_search_and_its_trials(pages: Pages, page: Any) -> None:
    pages.open(page, "/experiments")
    page.get_by_role("link", name="tiny", exact=True).first.wait_for()
    pages.open(page, f"/experiments/{pages.experiment}/runs?orderByKey=metrics.`accuracy`&orderByAsc=false")
    trained = [record.network.label for record in pages.records if record.history]
    for name in ("tiny", *trained):
        page.get_by_role("link", name=name, exact=True).first.wait_for()
    page.get_by_text(f"{len(pages.records) + 1} matching runs").wait_for()
    shown = {link.inner_text() for link in page.get_by_role("link").all()}
    assert {"tiny", *trained} <= shown


def test_the_filter_leaves_the_front(pages: Pages, page: Any) -> None:
    pages.open(page, f"/experiments/{pages.experiment}/runs?orderByKey=metrics.`accuracy`&orderByAsc=false")
    page.get_by_text(f"{len(pages.records) + 1} matching runs").wait_for()
    box = page.get_by_placeholder("metrics.rmse")
    box.fill("tags.on_front = 'true'")
    box.press("Enter")
    members = [member.network.label for member in pages.front.members]
    page.get_by_text(f"{len(members)} matching run").wait_for()
    for name in members:
        page.get_by_role("link", name=name, exact=True).first.wait_for()
    stopped = {record.network.label for record in pages.records} - set(members)
    for name in stopped:
        assert page.get_by_role("link", name=name, exact=True).count() == 0, name
    _shot(page, "filter")


def test_the_saved_view_shows_the_front_as_a_scatter(pages: Pages, page: Any) -> None:
    pages.open(page, f"/experiments/{pages.experiment}/runs?orderByKey=metrics.`accuracy`")
    page.get_by_role("button", name="Views").click()
    page.get_by_text("all trials", exact=True).first.wait_for()
    page.get_by_text("Pareto front", exact=True).first.click()
    page.get_by_text(f"{len(pages.front.members)} matching run").wait_for()
    page.locator("label:has(input[value=CHART])").click()  # MLflow opens a view as a table
    page.locator(".scatterlayer .point").first.wait_for()
    assert page.locator(".scatterlayer .point").count() == len(pages.front.members)
    _shot(page, "view")


def test_the_interactive_front_renders_among_the_artifacts(pages: Pages, page: Any) -> None:
    pages.open(page, f"/experiments/{pages.experiment}/runs/{pages.run}/artifacts/front.html")
    inside = page.frame_locator("iframe.mlflow-html-iframe")
    inside.locator(".scatterlayer .point").first.wait_for()
    drawn = sum(record.state.counts and bool(record.history) for record in pages.records)
    assert inside.locator(".scatterlayer .point").count() >= drawn
    for member in pages.front.members:
        inside.get_by_role("link", name=member.network.label, exact=True).wait_for()
    _shot(page, "front")


def test_the_search_is_described_with_links_to_its_front(pages: Pages, page: Any) -> None:
    pages.open(page, f"/experiments/{pages.experiment}/runs/{pages.run}")
    first = pages.front.members[0]
    link = page.get_by_role("table").get_by_role("link", name=first.network.label, exact=True)
    link.wait_for()
    _shot(page, "search")
    with page.context.expect_page() as opened:
        link.click()
    opened.value.get_by_role("heading", name=first.network.label).wait_for()
    assert opened.value.url.endswith(f"/runs/{first.mlflow_run_id}")


def test_the_registered_model_shows_its_aliases(pages: Pages, page: Any) -> None:
    pages.open(page, "/models/tiny")
    for alias in ("most-accurate", "cheapest", "knee"):
        page.get_by_text(alias, exact=False).nth(1).wait_for()  # beyond the description
        assert f"@ {alias}" in " ".join(page.inner_text("body").split())
    _shot(page, "model")
