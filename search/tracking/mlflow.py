"""What a search leaves in MLflow: one experiment a space, one run a search, one nested run a trial.

The study is the truth, MLflow its picture for people. Every call may be repeated: it sends only what differs
from what MLflow holds. While MLflow does not answer, what is to be sent waits in an `Outbox` and the search
goes on; `reconcile` repairs the rest at the next start. Only this module and `search.tracking.mlflow_store` import
mlflow, by `MlflowClient`, without MLflow's state of the process, and only the driver uses it. Knows records,
nothing of studies or Ray.
"""

import logging
import re
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self, final

import numpy as np

from search.tracking import mlflow_store as store  # before mlflow, which reads the environment that it sets

# isort: split
import mlflow.models
import mlflow.pyfunc
from mlflow.entities import LoggedModelOutput, Metric, Param, Run, RunTag
from mlflow.types import Schema, TensorSpec

from search.model import read_model
from search.record import Front, TrialRecord
from search.report.picture import front_figure, front_table
from search.tracking import tracker as told
from search.tracking.outbox import Outbox
from search.tracking.strengths import Strengths, strengths_figure

logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # the outbox says it in one line

TAG_CHARS, PARAM_CHARS = 8000, 6000  # MLflow's own limits
METRICS_A_CALL = 800  # MLflow takes 1000 metrics, params and tags together
PICTURE_EVERY_S = 15.0
PATIENCE_AT_END_S = 30.0


@dataclass(kw_only=True)
class _Run:
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
class MlflowTracker:
    """The Tracker on an MLflow store or server.

    Args:
        tracking_uri: `sqlite:///FILE`, `http://HOST:PORT` or another that MLflow knows.
        artifacts: URL of the folder of pictures and models of new experiments; None leaves the place to the server.
        given: the user asks for that folder; an experiment that has another one is refused.
    """

    def __init__(self, tracking_uri: str, artifacts: str | None = None, *, given: bool = False):
        self._uri, self._artifacts, self._given = tracking_uri, artifacts, given
        self._outbox = Outbox("MLflow", self._read)
        self._trials: dict[int, _Run] = {}
        self._shown: tuple[Sequence[TrialRecord], Front] | None = None
        self._drawn: object = None
        self._drawn_at = -PICTURE_EVERY_S  # on time.monotonic, which may start at 0

    @classmethod
    def of(cls, runs: Path, *, tracking: str | None = None, artifacts: str | None = None) -> Self:
        """On `mlflow.db` and `mlartifacts` in a folder of searches, where nothing else is given."""
        served = tracking is not None and tracking.startswith(("http:", "https:", "databricks"))
        place = artifacts or (None if served else told.artifacts_of(runs).as_uri())
        return cls(tracking or told.store_of(runs), place, given=artifacts is not None)

    def start(self, *, space: str, search: str, key: str, text: str, params: Mapping[str, Any]) -> str:
        self._name = search
        try:
            self._client = store.connect(self._uri)
            self._experiment = store.find_experiment(self._client, space, self._artifacts, given=self._given)
            self._search = self._find_search(search, key)
            self._read()
            self._describe(text, params)
        except Exception as error:  # MLflow's own, SQLAlchemy's or the system's
            raise store.refusal(self._uri, error) from error
        return self._search.id

    def log(self, record: TrialRecord) -> str | None:
        self._outbox.do(record.number, partial(self._write, record))
        run = self._trials.get(record.number)
        return run.id if run else None

    def reconcile(self, records: Iterable[TrialRecord]) -> None:
        known = {record.number: record for record in records}
        for number in self._trials.keys() - known.keys():
            self._outbox.do(number, partial(self._forget, number))
        for number, record in known.items():
            self._outbox.do(number, partial(self._write, record))

    def front(self, records: Sequence[TrialRecord], front: Front) -> None:
        self._shown = (records, front)
        self._outbox.do("front", partial(self._write_front, records, front))

    def log_model(self, record: TrialRecord, folder: Path) -> None:
        self._outbox.do(("model", record.number), partial(self._write_model, record, folder))

    def log_strengths(self, record: TrialRecord, strengths: Strengths) -> None:
        self._outbox.do(("strengths", record.number), partial(self._write_strengths, record, strengths))

    def finish(self, status: told.Status) -> None:
        self._outbox.do("finish", partial(self._close, status))
        self._outbox.flush(PATIENCE_AT_END_S)

    def _find_search(self, search: str, key: str) -> _Run:
        if not re.fullmatch(r"[\w-]+", key):
            raise ValueError(f"{key!r} is no key of a search")
        found = self._client.search_runs([self._experiment], f"tags.`archsearch.key` = '{key}'", max_results=1)
        tags = {"archsearch.key": key, "archsearch.role": "search", "archsearch.search": search}
        return _Run.of(found[0] if found else self._create(search, tags, None))

    def _create(self, name: str, tags: dict[str, str], started: float | None) -> Run:
        since = None if started is None else told.milliseconds(started)
        return self._client.create_run(self._experiment, since, {**told.source(), **tags}, name)

    def _describe(self, text: str, params: Mapping[str, Any]) -> None:
        """What the whole search has in common; a changed setting becomes a tag, as MLflow's params are final."""
        given, held, tags = told.flat(params), self._search.params, told.surroundings()
        for name, value in given.items():
            if held.get(name, value) != value:
                tags[f"resumed.{name}"] = value
        self._client.log_text(self._search.id, text, "space.yaml")
        self._send(self._search, tags=tags, params=given, status="RUNNING")

    def _read(self) -> None:
        """Learn anew what MLflow holds of this search."""
        self._search = _Run.of(self._client.get_run(self._search.id))
        mine = f"tags.`mlflow.parentRunId` = '{self._search.id}' AND tags.`archsearch.role` = 'trial'"
        trials, token = {}, None
        while True:
            page = self._client.search_runs([self._experiment], mine, max_results=1000, page_token=token)
            for run in map(_Run.of, page):
                trials[int(run.tags["trial_key"].rpartition("/")[2])] = run
            if not (token := page.token):
                break
        self._trials = trials

    def _send(
        self,
        run: _Run,
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

    def _write(self, record: TrialRecord) -> None:
        key = f"{self._name}/{record.number}"
        tags = {"archsearch.role": "trial", "trial_key": key, **told.tags_of(record)}
        run = self._trials.get(record.number)
        if run and run.tags.get("architecture") != tags["architecture"][:TAG_CHARS]:
            self._forget(record.number)  # a proposal that the study has lost
            run = None
        if run is None:
            first = {"mlflow.parentRunId": self._search.id, "on_front": "false", **tags}
            run = _Run.of(self._create(told.label_of(record.architecture), first, record.started))
            self._trials[record.number] = run
        rows, tags[told.SENT] = told.news(record, run.metrics, run.tags.get(told.SENT, ""))
        params = told.params_of(record.architecture)
        self._send(run, tags=tags, params=params, rows=rows, status=told.STATUS[record.state], ended=record.ended)

    def _forget(self, number: int) -> None:
        if number in self._trials:
            self._client.delete_run(self._trials[number].id)  # it can be restored in MLflow
            del self._trials[number]

    def _write_front(self, records: Sequence[TrialRecord], front: Front) -> None:
        for record in front.members:
            if record.number not in self._trials:
                self._write(record)
        members = {record.number for record in front.members}
        for number, run in self._trials.items():
            self._send(run, tags={"on_front": "true" if number in members else "false"})
        rows = told.progress(records, front)
        if any(self._search.metrics.get(row.key) != row.value for row in rows):
            self._send(self._search, rows=rows)
        if time.monotonic() - self._drawn_at >= PICTURE_EVERY_S:
            self._draw()

    def _draw(self) -> None:
        """The picture and the table, unless the last ones tell the same."""
        if self._shown is None or self._shown is self._drawn:
            return
        records, front = self._shown
        self._client.log_figure(self._search.id, front_figure(records, front, title=self._name), "front.png")
        self._send(self._search, tags={"mlflow.note.content": f"### Front\n\n{front_table(front)}\n"})
        self._drawn, self._drawn_at = self._shown, time.monotonic()

    def _write_model(self, record: TrialRecord, folder: Path) -> None:
        self._write(record)
        run = self._trials[record.number]
        for model in self._client.search_logged_models([self._experiment], f"source_run_id = '{run.id}'"):
            if model.status == "READY":
                return
            self._client.delete_logged_model(model.model_id)  # of a crash in the middle
        name = re.sub(r"[/:.%\"']", "_", told.label_of(record.architecture))  # which MLflow refuses in names
        results = {key: repr(value) for key, value in {**record.costs, **record.values}.items()}
        tags = {"trial_key": run.tags["trial_key"], **told.tags_of(record), **results}
        model = self._client.create_logged_model(self._experiment, name, run.id, tags, run.params, "archsearch")
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary) / "model"
            _package(folder, path, mlflow.models.Model(model_id=model.model_id, run_id=run.id))
            self._client.log_model_artifacts(model.model_id, str(path))
        self._client.finalize_logged_model(model.model_id, "READY")
        self._client.log_outputs(run.id, [LoggedModelOutput(model.model_id, record.fidelity)])

    def _write_strengths(self, record: TrialRecord, strengths: Strengths) -> None:
        self._write(record)
        run = self._trials[record.number]
        figure = strengths_figure(strengths, title=told.label_of(record.architecture))
        self._client.log_dict(run.id, dict(strengths), "strengths.json")
        self._client.log_figure(run.id, figure, "strengths.png")

    def _close(self, status: told.Status) -> None:
        self._draw()
        if status != "RUNNING":
            for run in self._trials.values():
                if run.status == "RUNNING":
                    self._send(run, status="KILLED")
        self._send(self._search, status=status)


def _package(folder: Path, path: Path, model: mlflow.models.Model) -> None:
    """The model folder as an MLflow model that loads by search.model: files of data, nothing pickled."""
    content = read_model(folder)
    images = TensorSpec(np.dtype(np.uint8), (-1, -1, -1, content.preprocessing.in_chans))
    probabilities = TensorSpec(np.dtype(np.float32), (-1, len(content.classes)))
    mlflow.pyfunc.save_model(
        path=str(path),
        loader_module="search.model",
        data_path=str(folder),
        mlflow_model=model,
        signature=mlflow.models.ModelSignature(inputs=Schema([images]), outputs=Schema([probabilities])),
        input_example=np.zeros((1, 8, 8, content.preprocessing.in_chans), np.uint8),  # any size is taken
        pip_requirements=[f"{name}=={number}" for name, number in told.versions(told.MODEL_NEEDS).items()],
    )
