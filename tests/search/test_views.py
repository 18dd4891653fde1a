"""The saved views of an experiment: written once, kept up to date, and never over what a person has done."""

import dataclasses
import json
from pathlib import Path

import pytest

from search.record import State, TrialRecord
from search.tracking import views
from search.tracking.mlflow import MlflowTracker
from spaces import Architecture
from tests.search.server import Server
from tests.search.told import client, open_tracker, record, start, story

FRONT, ALL = f"{views.VIEW}{views.FRONT}", f"{views.VIEW}{views.ALL}"


def differing(number: int) -> TrialRecord:
    """Trials that differ in width and scaling; one more choice where the backbone is another."""
    choices = {"width": (0.25, 0.5)[number % 2], "scaling": ("none", "rezero")[number // 2 % 2]}
    other = {} if number % 4 else {"norm": "group"}
    shape = Architecture(backbone="resnet10t", choices={**choices, **other})
    return dataclasses.replace(record(number), architecture=shape)


def test_a_view_shows_the_objectives_and_what_trials_differ_in() -> None:
    told = story([differing(number) for number in range(4)])
    front, every = (views.states(told)[view] for view in (views.FRONT, views.ALL))
    assert front["searchFilter"] == "tags.on_front = 'true'"
    assert every["searchFilter"] == "tags.`archsearch.role` = 'trial'"
    assert front["selectedColumns"][:4] == [
        "metrics.`accuracy`",
        "metrics.`macs`",
        "params.`width`",
        "params.`scaling`",
    ]
    assert (front["orderByKey"], front["orderByAsc"]) == ("metrics.`accuracy`", False)
    scatter, parallel = front["compareRunCharts"]
    assert (scatter["type"], scatter["xaxis"]["key"], scatter["yaxis"]["key"]) == ("SCATTER", "macs", "accuracy")
    assert parallel["selectedParams"] == ["width", "scaling"]  # not the same backbone, not the norm of one trial
    assert parallel["selectedMetrics"] == ["macs", "accuracy"]


def test_views_are_written_once_and_again_where_they_are_out_of_date() -> None:
    tags: dict[str, str] = {}
    written: list[str] = []

    def put(name: str, value: str) -> None:
        written.append(name)
        tags[name] = value

    few = views.states(story([differing(0)]))
    views.write(tags, few, put)
    assert set(written) == {FRONT, ALL, views.WRITTEN}
    assert json.loads(tags[FRONT])["name"] == "Pareto front"
    assert json.loads(json.loads(tags[ALL])["state"]) == few[views.ALL]
    written.clear()
    views.write(tags, few, put)
    assert written == []
    created = json.loads(tags[FRONT])["createdAt"]
    more = views.states(story([differing(number) for number in range(4)]))
    views.write(tags, more, put)
    assert json.loads(json.loads(tags[FRONT])["state"]) == more[views.FRONT]
    assert json.loads(tags[FRONT])["createdAt"] == created


def test_what_a_person_has_changed_or_deleted_stays_so() -> None:
    tags: dict[str, str] = {}
    views.write(tags, views.states(story([differing(0)])), tags.__setitem__)
    tags[FRONT] = json.dumps({**json.loads(tags[FRONT]), "name": "mine"})
    del tags[ALL]
    before = dict(tags)
    views.write(tags, views.states(story([differing(number) for number in range(4)])), tags.__setitem__)
    assert tags == before


@pytest.mark.parametrize(("version", "known"), [("3.14.9", False), ("3.17.2", True), ("3.18.0", False), ("4.0", False)])
def test_only_a_known_mlflow_gets_views(version: str, known: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "versions", lambda packages: dict.fromkeys(packages, version))
    assert views.known_here() is known


def test_a_search_goes_on_where_its_views_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "VIEW", "x" * 300)  # longer than MLflow takes a name
    tracker = open_tracker(tmp_path)
    tracker.front(story([differing(0)]))
    tracker.finish("FINISHED")
    experiment = client(tmp_path).get_experiment_by_name("digits")
    assert not experiment.tags
    parent = client(tmp_path).search_runs([experiment.experiment_id], "tags.`archsearch.role` = 'search'")[0]
    assert "### Front" in parent.data.tags["mlflow.note.content"]


def test_the_views_show_their_points_in_a_browser(tmp_path: Path, page) -> None:
    server = Server(tmp_path)
    server.start()
    try:
        tracker = MlflowTracker(server.uri)
        start(tracker)
        records = [differing(number) for number in range(12)]
        stopped = dataclasses.replace(records[0], number=12, state=State.STOPPED, values={})
        told = story([*records, stopped])
        tracker.reconcile(told.records)
        tracker.front(told)
        tracker.finish("FINISHED")
        address = f"{server.uri}/#/experiments/1/runs?compareRunsMode=CHART&viewStateShareKey="
        page.set_viewport_size({"width": 1600, "height": 1800})  # charts are drawn only once they are in sight
        for view, trials in ((views.FRONT, len(told.front.members)), (views.ALL, 13)):
            page.goto(f"{address}{view}")
            for shown in (".scatterlayer .point", "text=Parallel Coordinates", f"text={trials} matching run"):
                page.locator(shown).first.wait_for(timeout=60_000)
            assert page.locator(".scatterlayer .point").count() == trials
            assert page.get_by_text(f"{trials} matching run").count() == 1
    finally:
        server.stop()
