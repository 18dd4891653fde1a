"""What a search leaves in MLflow: one experiment a space, one run a search, one nested run a trial, a model a winner.

The study is the truth, MLflow its picture for people. Every call may be repeated: it sends only what differs
from what MLflow holds. A thread of its own does the sending, so the search never waits for it; while MLflow does not
answer, what is to be sent waits. `reconcile` repairs the rest at the next start. Only this package imports mlflow, by
`MlflowClient`, without MLflow's state of the process, and only the driver uses it. Knows records, nothing of studies
or Ray.
"""

import dataclasses
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self, final

from search.confirmation.record import Confirmation, Contender
from search.record import State, TrialRecord
from search.report.labels import flat, label_of, params_of
from search.report.note import note
from search.report.page import front_page
from search.report.picture import front_figure
from search.report.story import Story
from search.tracking import mlflow_store as store  # before mlflow, which reads the environment that it sets

# isort: split
from mlflow.exceptions import MlflowException

from search.report.skipping import skipping_figure
from search.report.strengths import Strengths, strengths_figure
from search.skipping import Skipping
from search.tracking import tracker as told
from search.tracking import views
from search.tracking.confirmed import confirmed_rows, confirmed_tags
from search.tracking.mlflow_runs import ROLE, TAG_CHARS, Held, Runs
from search.tracking.outbox import Courier, first_line
from search.tracking.pace import Pace
from search.tracking.registry import Registry

logger = logging.getLogger(__name__)
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # the outbox says it in one line

PICTURE_EVERY_S, PAGE_EVERY_S = 15.0, 60.0  # at most
PAGE_ANYWAY_S = 600.0  # with the same front: the page takes some megabytes
PATIENCE_AT_END_S = 30.0  # without an answer of MLflow


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
        self._courier = Courier("MLflow", self._read)
        self._trials: dict[int, Held] = {}
        self._on_front: set[int] = set()  # as MLflow has it
        self._story: Story | None = None
        self._drawn: object = None  # what picture and description were made of, and the page
        self._paged: object = None
        self._paged_front: Sequence[TrialRecord] = ()
        self._paged_at = 0.0
        self._model: str | None = None  # registered
        self._views: Mapping[str, views.State] = {}  # as they were written last
        self._pace, self._page_pace = Pace(PICTURE_EVERY_S), Pace(PAGE_EVERY_S)

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
            self._runs = Runs(self._client, self._experiment)
            self._search = self._runs.of_search(search, key)
            self._registry = Registry(self._client, self._experiment, search=search, key=key)
            self._read()
            self._describe(text, params)
        except Exception as error:  # MLflow's own, SQLAlchemy's or the system's
            raise store.refusal(self._uri, error) from error
        return self._search.id

    def log(self, record: TrialRecord) -> None:
        self._courier.do(record.number, partial(self._write, record))
        if not record.state.open and (skipping := Skipping.of(record.history)):
            self._courier.do(("skipping", record.number), partial(self._write_skipping, record, skipping))

    def run_of(self, number: int) -> str | None:
        run = self._trials.get(number)
        return run.id if run else None

    def reconcile(self, records: Iterable[TrialRecord]) -> None:
        known = {record.number: record for record in records}
        for number in self._trials.keys() - known.keys():
            self._courier.do(number, partial(self._forget, number))
        for record in known.values():
            self.log(record)

    def front(self, story: Story) -> None:
        self._story = story
        self._courier.do("front", partial(self._write_front, story))
        self._courier.do("drawings", self._draw_in_time)

    def log_strengths(self, record: TrialRecord, strengths: Strengths) -> None:
        self._courier.do(("strengths", record.number), partial(self._write_strengths, record, strengths))

    def log_model(self, record: TrialRecord, folder: Path) -> None:
        contender = self._contender(record.number)
        self._courier.do(("model", record.number), partial(self._write_model, record, folder, contender))

    def confirmed(self, confirmation: Confirmation) -> None:
        for contender in confirmation.contenders:
            tags = confirmed_tags(contender, confirmation)
            self._courier.do(("confirmed", contender.architecture), partial(self._write_confirmed, contender, tags))

    def settle(self) -> bool:
        """Wait until all is there, or MLflow has not answered for a while; whether all is there."""
        return self._courier.flush(PATIENCE_AT_END_S)

    def finish(self, status: told.Status) -> None:
        self._courier.do("last drawings", self._draw_last)  # behind all that they lead to
        self._courier.do("finish", partial(self._close, status))
        self.settle()

    def _describe(self, text: str, params: Mapping[str, Any]) -> None:
        """What the whole search has in common; a changed setting becomes a tag, as MLflow's params are final."""
        given, held, tags = flat(params), self._search.params, told.surroundings()
        for name, value in given.items():
            if held.get(name, value) != value:
                tags[f"resumed.{name}"] = value
        if text:
            self._client.log_text(self._search.id, text, "space.yaml")
        self._runs.write(self._search, tags=tags, params=given, status="RUNNING")

    def _read(self) -> None:
        """Learn anew what MLflow holds of this search."""
        self._search = self._runs.again(self._search)
        children = self._runs.children(self._search, "trial")
        self._trials = {int(run.tags["trial_key"].rpartition("/")[2]): run for run in children}
        self._on_front = {number for number, run in self._trials.items() if run.tags.get("on_front") == "true"}

    def _contender(self, number: int) -> Contender | None:
        confirmation = self._story.confirmation if self._story else None
        return confirmation.of(number) if confirmation else None

    def _write(self, record: TrialRecord) -> None:
        key = f"{self._name}/{record.number}"
        tags = {ROLE: "trial", "trial_key": key, **told.tags_of(record)}
        run = self._trials.get(record.number)
        if run and run.tags.get("architecture") != tags["architecture"][:TAG_CHARS]:
            self._forget(record.number)  # a proposal that the study has lost
            run = None
        if run is None:
            first = {"mlflow.parentRunId": self._search.id, "on_front": "false", **tags}
            run = self._runs.create(label_of(record.architecture), first, record.started)
            self._trials[record.number] = run
        if run.tags.get("confirmed") == "true":  # the mean of several tests stands there
            record = dataclasses.replace(record, test_accuracy=None)
        rows, tags[told.SENT] = told.news(record, run.metrics, run.tags.get(told.SENT, ""))
        params = params_of(record.architecture)
        status = told.STATUS[record.state]
        self._runs.write(run, tags=tags, params=params, rows=rows, status=status, ended=record.ended)

    def _write_confirmed(self, contender: Contender, tags: Mapping[str, str]) -> None:
        run = self._baseline(contender) if contender.trial is None else self._trials[contender.trial]
        self._runs.write(run, tags=tags, rows=confirmed_rows(contender, run.metrics))

    def _baseline(self, contender: Contender) -> Held:
        """The run of an unmodified backbone, beside those of the trials; made where there is none."""
        known = self._runs.children(self._search, "baseline")
        if found := next((run for run in known if run.tags.get("arch_id") == contender.architecture.id), None):
            return found
        label = label_of(contender.architecture)
        tags = {
            "mlflow.parentRunId": self._search.id,
            ROLE: "baseline",
            "arch_id": contender.architecture.id,
            "architecture": contender.architecture.to_json(),
            "backbone": contender.architecture.backbone or "",
            "status": str(State.COMPLETE),
        }
        run = self._runs.create(f"{label} unmodified", tags, None)
        self._runs.write(run, params=params_of(contender.architecture), status="FINISHED")
        return run

    def _forget(self, number: int) -> None:
        if number in self._trials:
            self._runs.delete(self._trials[number])
            del self._trials[number]
            self._on_front.discard(number)

    def _write_front(self, story: Story) -> None:
        members = {record.number: record for record in story.front.members}
        for number in self._on_front ^ members.keys():
            if number not in self._trials:
                self._write(members[number])
            on_front = number in members
            self._runs.write(self._trials[number], tags={"on_front": "true" if on_front else "false"})
            (self._on_front.add if on_front else self._on_front.discard)(number)
        rows = told.progress(story.records, story.front)
        if any(self._search.metrics.get(row.key) != row.value for row in rows):
            self._runs.write(self._search, rows=rows)

    def _draw_in_time(self) -> None:
        if self._pace.due:
            self._draw()
        old = time.monotonic() - self._paged_at > PAGE_ANYWAY_S
        if self._story and self._page_pace.due and (old or self._story.front.members != self._paged_front):
            self._draw_page()

    def _draw_last(self) -> None:
        self._draw()
        self._draw_page()

    def _draw(self) -> None:
        """The picture and the description, unless the last ones tell the same."""
        story = self._story
        shown = story, len(self._trials), self._model
        if story is None or shown == self._drawn:
            return
        with self._pace.timed():
            figure = front_figure(story.records, story.front, title=self._name)
            self._client.log_figure(self._search.id, figure, "front.png")
            self._describe_front(story)
        self._drawn = shown

    def _draw_page(self) -> None:
        """The page, some megabytes, unless the last one tells the same."""
        story = self._story
        shown = story, len(self._trials)
        if story is None or shown == self._paged:
            return
        with self._page_pace.timed():
            self._client.log_text(self._search.id, front_page(story, links=self._link), "front.html")
        self._paged, self._paged_front, self._paged_at = shown, story.front.members, time.monotonic()

    def _link(self, record: TrialRecord) -> str | None:
        run = self._trials.get(record.number)
        return f"#/experiments/{self._experiment}/runs/{run.id}" if run else None

    def _describe_front(self, story: Story) -> None:
        """The description in Markdown, and the views to which it leads."""
        above = ""
        if views.known_here() and story.front.members:
            self._write_views(story)
            models = f", [models](#/models/{self._model})" if self._model else ""
            above = f"{views.links(self._experiment)}{models}\n\n"
        said = above + note(story, self._link, TAG_CHARS - len(above))
        self._runs.write(self._search, tags={"mlflow.note.content": said})

    def _write_views(self, story: Story) -> None:
        """No search needs them: what MLflow will not take is left out."""
        try:
            wanted = views.states(story)
            if wanted == self._views:
                return
            tags = self._client.get_experiment(self._experiment).tags
            views.write(tags, wanted, partial(self._client.set_experiment_tag, self._experiment))
            self._views = wanted
        except (MlflowException, ValueError, TypeError) as error:
            logger.debug("MLflow takes no saved views: %s", first_line(error))

    def _write_model(self, record: TrialRecord, folder: Path, contender: Contender | None) -> None:
        self._write(record)
        self._registry.keep(record, folder, self._trials[record.number].id, contender)
        if self._story is not None:
            self._model = self._registry.point(self._story.front, self._story.confirmation)

    def _write_strengths(self, record: TrialRecord, strengths: Strengths) -> None:
        self._write(record)
        run = self._trials[record.number]
        figure = strengths_figure(strengths, title=label_of(record.architecture))
        self._client.log_dict(run.id, dict(strengths), "strengths.json")
        self._client.log_figure(run.id, figure, "strengths.png")

    def _write_skipping(self, record: TrialRecord, skipping: Skipping) -> None:
        """Picture and numbers of a training that is over, unless they are there."""
        self._write(record)
        run = self._trials[record.number]
        if run.tags.get(told.DRAWN) == run.tags[told.SENT]:
            return
        figure = skipping_figure(skipping, title=label_of(record.architecture))
        self._client.log_dict(run.id, skipping.to_dict(), "layer_attention.json")
        self._client.log_figure(run.id, figure, "layer_attention.png")
        self._runs.write(run, tags={told.DRAWN: run.tags[told.SENT]})

    def _close(self, status: told.Status) -> None:
        if status != "RUNNING":
            for run in self._trials.values():
                if run.status == "RUNNING":
                    self._runs.write(run, status="KILLED")
        self._runs.write(self._search, status=status)
