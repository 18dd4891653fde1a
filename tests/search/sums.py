"""Whether the study, MLflow and `front --json` tell the same of a search."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from search import results
from search.record import State
from search.tracking.tracker import store_of
from tests.search.command import archsearch


def front_json(folder: Path, name: str) -> dict[str, Any]:
    result = archsearch(folder, "front", name, "--json")
    assert result.returncode == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def runs_in_mlflow(folder: Path, name: str) -> list[Any]:
    client = MlflowClient(store_of(folder / "runs"))
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    parent = client.search_runs(experiments, f"tags.`archsearch.search` = '{name}'")
    assert len(parent) == 1
    return list(client.search_runs(experiments, f"tags.`mlflow.parentRunId` = '{parent[0].info.run_id}'"))


def check_that_everything_adds_up(folder: Path, name: str, trials: int) -> None:
    """The study, MLflow and `front --json` tell the same; the front is of full fidelity."""
    study = results.opened(folder / "runs", name)
    said, children = front_json(folder, name), runs_in_mlflow(folder, name)
    records = study.records()
    counts = Counter(str(record.state) for record in records)
    assert {state: n for state, n in said["trials"].items() if n} == dict(counts)
    assert Counter(run.data.tags["status"] for run in children) == counts
    assert counts["complete"] + counts["stopped"] + counts["failed"] == trials
    assert counts["running"] == 0
    started = [record.architecture.id for record in records if record.state.counts]
    assert len(started) == len(set(started)), "an architecture was trained twice"
    assert [point["id"] for point in said["points"]] == [record.architecture.id for record in study.front.members]
    for record in study.front.members:
        assert record.state is State.COMPLETE
        assert record.fidelity == study.file.search.fidelity.max
    on_front = {run.info.run_id for run in children if run.data.tags["on_front"] == "true"}
    assert on_front == {point["mlflow_run_id"] for point in said["points"]}
    kept = {int(path.parent.name) for path in study.directory.glob("trials/*/model.safetensors")}
    assert kept == {record.number for record in study.front.members}
