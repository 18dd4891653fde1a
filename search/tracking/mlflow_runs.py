"""The runs of one search in MLflow: the search's own and, nested in it, its children; each written only as it differs.

Knows names, tags and rows, nothing of trials.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Self, final

from search.tracking import mlflow_store  # noqa: F401  before mlflow, which reads the environment that it sets

# isort: split
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag

from search.tracking import tracker as told

TAG_CHARS, PARAM_CHARS = 8000, 6000  # MLflow's own limits
METRICS_A_CALL = 800  # MLflow takes 1000 metrics, params and tags together
ROLE = "archsearch.role"


@dataclass(kw_only=True)
class Held:
    """What MLflow holds of a run, as far as it is known here."""

    id: str
    status: str
    tags: dict[str, str]
    params: dict[str, str]
    metrics: dict[str, float]

    @classmethod
    def of(cls, run: Run) -> Self:
        tags, params, metrics = dict(run.data.tags), dict(run.data.params), dict(run.data.metrics)
        return cls(id=run.info.run_id, status=run.info.status, tags=tags, params=params, metrics=metrics)


@final
class Runs:
    """The runs of an experiment, reached by a client."""

    def __init__(self, client: MlflowClient, experiment: str):
        self._client, self._experiment = client, experiment

    def of_search(self, search: str, key: str) -> Held:
        """The run of a search, made where there is none."""
        if not re.fullmatch(r"[\w-]+", key):
            raise ValueError(f"{key!r} is no key of a search")
        found = self._client.search_runs([self._experiment], f"tags.`archsearch.key` = '{key}'", max_results=1)
        tags = {"archsearch.key": key, ROLE: "search", "archsearch.search": search}
        return Held.of(found[0]) if found else self.create(search, tags, None)

    def again(self, run: Held) -> Held:
        return Held.of(self._client.get_run(run.id))

    def children(self, parent: Held, role: str) -> Iterator[Held]:
        mine, token = f"tags.`mlflow.parentRunId` = '{parent.id}' AND tags.`{ROLE}` = '{role}'", None
        while True:
            page = self._client.search_runs([self._experiment], mine, max_results=1000, page_token=token)
            yield from map(Held.of, page)
            if not (token := page.token):
                break

    def create(self, name: str, tags: Mapping[str, str], started: float | None) -> Held:
        since = None if started is None else told.milliseconds(started)
        first = {key: value[:TAG_CHARS] for key, value in {**told.source(), **tags}.items()}
        return Held.of(self._client.create_run(self._experiment, since, first, name))

    def delete(self, run: Held) -> None:
        self._client.delete_run(run.id)  # it can be restored in MLflow

    def write(
        self,
        run: Held,
        *,
        tags: Mapping[str, str] = MappingProxyType({}),
        params: Mapping[str, str] = MappingProxyType({}),
        rows: Sequence[told.Row] = (),
        status: told.Status | None = None,
        ended: float | None = None,
    ) -> None:
        """Write what MLflow does not hold yet: one call for all, one more where the run ends or goes on."""
        tags = {name: value[:TAG_CHARS] for name, value in tags.items()}
        tags = {name: value for name, value in tags.items() if run.tags.get(name) != value}
        params = {name: value[:PARAM_CHARS] for name, value in params.items() if name not in run.params}
        metrics = [Metric(*row) for row in rows]
        split = len(metrics) > METRICS_A_CALL  # MLflow would split them too, but write the tags first
        if split:
            self._client.log_batch(run.id, metrics=metrics)
        self._client.log_batch(
            run.id,
            metrics=() if split else metrics,
            params=[Param(name, value) for name, value in params.items()],
            tags=[RunTag(name, value) for name, value in tags.items()],
        )
        run.tags.update(tags)
        run.params.update(params)
        run.metrics.update({metric.key: metric.value for metric in metrics})
        if status and status != run.status:
            if status in ("RUNNING", "SCHEDULED"):
                self._client.update_run(run.id, status)
            else:
                self._client.set_terminated(run.id, status, None if ended is None else told.milliseconds(ended))
            run.status = status
