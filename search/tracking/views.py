"""Two saved views of an experiment in MLflow's pages: `Pareto front` and `all trials`.

A view is a tag of the experiment: JSON of a name and of the state of the page, in a format of MLflow's own, as read
in MLflow 3.17 and seen in a browser. Elsewhere nothing is written, and where it is not understood it does no harm. What
a person has changed or deleted is left as it is. Knows stories and MLflow's format, imports no MLflow.
"""

import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from search.report.labels import params_of
from search.report.story import Story
from search.tracking.tracker import key_of, milliseconds, versions
from spaces.schema import ACCURACY

FIRST, BEYOND = (3, 15), (3, 18)  # versions of MLflow: the first to have saved views, the first that was not tried
VIEW = "mlflow.sharedViewState."
WRITTEN = "archsearch.views"  # tag: digests of the views as they were written
FRONT, ALL = "archsearch-front", "archsearch-all"
MOST_AXES = 10  # of parallel coordinates; more cannot be read

State = Mapping[str, Any]


def known_here() -> bool:
    """Whether the MLflow that is installed takes the views in this format."""
    major, minor = versions(["mlflow"])["mlflow"].split(".")[:2]
    return FIRST <= (int(major), int(minor)) < BEYOND


def links(experiment: str) -> str:
    """Markdown that leads from a page of MLflow's to the views."""
    page = f"#/experiments/{experiment}/runs?compareRunsMode=CHART&viewStateShareKey="
    return f"Views: [Pareto front]({page}{FRONT}), [all trials]({page}{ALL})"


def states(story: Story) -> dict[str, State]:
    """The page of each view, by the view's id."""
    directions = story.front.objectives.directions
    metrics = {key_of(name): direction for name, direction in directions.items()}
    best = ACCURACY if ACCURACY in metrics else next(iter(metrics))
    order = f"metrics.`{best}`", directions[best] == "minimize"
    params, others = _params(story), [name for name in metrics if name != best] or ["macs"]
    columns = [*(f"metrics.`{name}`" for name in [best, *others]), *(f"params.`{name}`" for name in params)]
    axes = params[: MOST_AXES - len(metrics)], [*others, best]
    charts = [*(_scatter(name, best) for name in others), _parallel(*axes)]
    trial = "tags.`archsearch.role` = 'trial'"
    return {
        FRONT: _state("tags.on_front = 'true'", order, [*columns, "tags.`arch_id`"], charts),
        ALL: _state(trial, order, [*columns, "tags.`status`", "tags.`on_front`"], charts),
    }


def write(tags: Mapping[str, str], wanted: Mapping[str, State], put: Callable[[str, str], None]) -> None:
    """Write the views that are missing, or as an earlier call has left them but out of date.

    Args:
        tags: of the experiment.
        put: sets one.
    """
    known: dict[str, str] = json.loads(tags.get(WRITTEN, "{}"))
    for view, state in wanted.items():
        held = tags.get(f"{VIEW}{view}")
        if (held is None) != (view not in known) or (held is not None and _digest(held) != known[view]):
            continue  # a person's
        page, now = json.dumps(state, sort_keys=True), milliseconds(time.time())
        before = {} if held is None else json.loads(held)
        if before.get("state") != page:
            name = "Pareto front" if view == FRONT else "all trials"
            envelope = {"name": name, "createdAt": before.get("createdAt", now), "updatedAt": now, "state": page}
            value = json.dumps(envelope)
            put(f"{VIEW}{view}", value)
            known[view] = _digest(value)
            put(WRITTEN, json.dumps(known, sort_keys=True))


def _digest(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()[:16]


def _params(story: Story) -> list[str]:
    """Those that every trained trial has, with differences; parallel coordinates leave out who lacks one."""
    found = [params_of(record.architecture) for record in story.records if record.history]
    first = [name for name in (found[0] if found else {}) if not re.search(r"\.\d+$", name)]  # no single stages
    there = [name for name in first if all(name in params for params in found)]
    return [name for name in there if len({params[name] for params in found}) > 1]


def _state(filtered: str, order: tuple[str, bool], columns: Sequence[str], charts: Sequence[State]) -> State:
    section = {"uuid": "archsearch", "name": "Choices", "display": True, "isReordered": False, "deleted": False}
    shape = {"columns": 1, "cardHeight": 400}  # pixels
    key, ascending = order
    return {
        "searchFilter": filtered,
        "orderByKey": key,
        "orderByAsc": ascending,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": list(columns),
        "runsHiddenMode": "SHOW_ALL",  # else charts show ten runs
        "compareRunCharts": [
            {**chart, "metricSectionId": "archsearch", "deleted": False, "isGenerated": False} for chart in charts
        ],
        "compareRunSections": [{**section, **shape, "isGenerated": False}],
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": False,
    }


def _scatter(x: str, y: str) -> State:
    axes = {"xaxis": {"key": x, "type": "METRIC"}, "yaxis": {"key": y, "type": "METRIC"}}
    return {"uuid": f"archsearch-scatter-{x}", "type": "SCATTER", "runsCountToCompare": 100, **axes}


def _parallel(params: Sequence[str], metrics: Sequence[str]) -> State:
    """Its lines are coloured by the last metric."""
    axes = {"selectedParams": list(params), "selectedMetrics": list(metrics)}
    return {"uuid": "archsearch-parallel", "type": "PARALLEL", "showAllRuns": False, **axes}
