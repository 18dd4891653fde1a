"""The models of a search in MLflow's registry: one registered model a search, a version a member of the front.

A version is a LoggedModel of a trial's run; weights that are there already make no second one. Three aliases are ours,
all others the user's. The way back, `fetched`, takes data from MLflow and leaves reading it to `search.model`.
Knows records, nothing of studies or Ray.
"""

import hashlib
import logging
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import TypeVar, final

import numpy as np

from search.tracking import mlflow_store as store  # before mlflow, which reads the environment that it sets

# isort: split
import mlflow.artifacts
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from search.confirmation.record import Confirmation, Contender
from search.model import WEIGHTS
from search.pareto import knee
from search.record import Front, TrialRecord
from search.report.labels import label_of
from search.report.note import plain
from search.report.points import shown
from search.tracking import tracker as told
from search.tracking.logged_model import log
from spaces import InputError
from spaces.errors import unknown
from spaces.schema import ACCURACY, JUDGED

logger = logging.getLogger(__name__)
Found = TypeVar("Found")

ALIASES = ("most-accurate", "cheapest", "knee")
ALLOWED = "allowed are RUN_ID, models:/NAME@ALIAS, models:/NAME/VERSION and models:/m-ID"


def aliased(front: Front, confirmation: Confirmation | None = None) -> dict[str, int]:
    """Which members the aliases name: numbers of trials. Where all are confirmed, by their mean validation accuracy.

    `most-accurate` needs accuracy as an objective; `cheapest` is the best in the first objective that is a cost;
    `knee` see `search.pareto.knee`.
    """
    if not front.members:
        return {}
    means = {m.number: mean for m in front.members if (mean := _mean(m, confirmation)) is not None}
    if len(means) == len(front.members):
        values = [{**member.values, ACCURACY: means[member.number]} for member in front.members]
    else:
        values = [dict(member.values) for member in front.members]
    points = front.objectives.minimised(values)
    names = front.objectives.names
    costs = [place for place, name in enumerate(names) if name not in (ACCURACY, *JUDGED)]
    found = {"knee": knee(points)}
    found |= {"most-accurate": int(np.argmin(points[:, names.index(ACCURACY)]))} if ACCURACY in names else {}
    found |= {"cheapest": int(np.argmin(points[:, costs[0]]))} if costs else {}
    return {alias: front.members[place].number for alias, place in found.items()}


def _mean(member: TrialRecord, confirmation: Confirmation | None) -> float | None:
    """Of the validation accuracy of a member that is confirmed."""
    contender = None if confirmation is None else confirmation.of(member.number)
    found = None if contender is None else contender.summary.get("val_accuracy")
    return None if found is None else found.mean


@final
class Registry:
    """The registered model of one search, made with its first version.

    Args:
        key: of the search; a registered model of its name that another search or a person has made is not touched.
    """

    def __init__(self, client: MlflowClient, experiment: str, *, search: str, key: str):
        self._client, self._experiment, self._search, self._key = client, experiment, search, key
        self._meant: dict[int, str] = {}  # versions that were kept last, by trial

    def keep(self, record: TrialRecord, folder: Path, run_id: str, confirmed: Contender | None) -> None:
        """Log a model folder with the run of its trial, and register it; nothing where its weights are there.

        Args:
            confirmed: what is known of the weights where they are those of a confirmation.
        """
        weights = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()[:16]
        tags = _tags(record, confirmed) | {"trial": str(record.number), "weights": weights}
        found = self._client.search_logged_models([self._experiment], f"source_run_id = '{run_id}'")
        for broken in (model for model in found if model.status != "READY"):
            self._client.delete_logged_model(broken.model_id)  # of a crash in the middle
        there = (model for model in found if model.status == "READY" and model.tags.get("weights") == weights)
        model = next(there, None) or log(self._client, self._experiment, record, folder, run_id, tags)
        key = {"trial": tags["trial"], "weights": weights}
        if same := [version for version in self._versions() if version.tags.items() >= key.items()]:
            self._tell(same[-1], tags, _description(record, confirmed))
            self._meant[record.number] = str(same[-1].version)
            return
        made = self._client.create_model_version(
            self._make(),
            model.artifact_location,  # `models:/m-ID` a client would look up in the store of its process
            run_id,
            tags,
            description=_description(record, confirmed),
            await_creation_for=0,
            model_id=model.model_id,
        )
        self._meant[record.number] = str(made.version)

    def _tell(self, version: ModelVersion, tags: Mapping[str, str], description: str) -> None:
        """What is known of a version now, as after another confirmation."""
        news = {name: value for name, value in tags.items() if version.tags.get(name) != value}
        for name, value in news.items():
            self._client.set_model_version_tag(version.name, version.version, name, value)
        if news:
            self._client.update_model_version(version.name, version.version, description)

    def point(self, front: Front, confirmation: Confirmation | None = None) -> str | None:
        """Set tags and aliases where every member has a version: the one kept last is meant; the name of the model."""
        versions = self._versions()
        meant = {int(version.tags["trial"]): str(version.version) for version in versions} | self._meant
        name, members = self.name, {member.number for member in front.members}
        if name is None or not members <= meant.keys():
            return name
        on = {meant[number] for number in members}
        for version in versions:
            on_front = "true" if str(version.version) in on else "false"
            if version.tags.get("on_front") != on_front:
                self._client.set_model_version_tag(name, version.version, "on_front", on_front)
        held = {alias: str(version) for alias, version in self._client.get_registered_model(name).aliases.items()}
        wanted = {alias: meant[number] for alias, number in aliased(front, confirmation).items()}
        for alias in ALIASES:
            if alias in wanted and held.get(alias) != wanted[alias]:
                self._client.set_registered_model_alias(name, alias, wanted[alias])
            elif alias in held and alias not in wanted:
                self._client.delete_registered_model_alias(name, alias)
        return name

    @property
    def name(self) -> str | None:
        """Of the registered model; None where there is none yet."""
        found = self._client.search_registered_models(f"tags.`archsearch.key` = '{self._key}'")
        return str(found[0].name) if found else None

    def _make(self) -> str:
        """The registered model's name: the search's, or the next that is free."""
        if (name := self.name) is not None:
            return name
        tags = {"archsearch.key": self._key, "archsearch.search": self._search}
        for number in count(1):
            name = self._search if number == 1 else f"{self._search}-{number}"
            try:
                self._client.create_registered_model(name, tags, _ABOUT.format(search=self._search))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                continue
            if number > 1:
                logger.warning("MLflow has a model %s that is not of this search; this one's is %s", self._search, name)
            return name
        raise AssertionError("numbers never end")

    def _versions(self) -> list[ModelVersion]:
        """Those of this search, oldest first."""
        if (name := self.name) is None:
            return []
        found = self._client.search_model_versions(f"name = '{name}'")
        ours = [one for one in found if one.tags.get("trial", "").isdigit() and "weights" in one.tags]
        return sorted(ours, key=lambda version: int(version.version))


_ABOUT = (
    "The front of the search {search}, a version for each of its models. The aliases `most-accurate`, `cheapest` and "
    "`knee` are kept up to date by archsearch; others are yours."
)


def _tags(record: TrialRecord, confirmed: Contender | None) -> dict[str, str]:
    """Of a version: raw numbers, with the unit in the name (`latency_ms`), so that they can be compared."""
    numbers = {**record.costs, **record.values}
    if record.test_accuracy is not None:
        numbers["test_accuracy"] = record.test_accuracy
    if confirmed is not None:
        numbers |= {**confirmed.costs, **{name: interval.mean for name, interval in confirmed.summary.items()}}
    known = {"backbone": record.architecture.backbone or "", "arch_id": record.network.id}
    known |= {told.key_of(name): f"{value:.10g}" for name, value in numbers.items()}
    if confirmed is None:
        return known
    return {**known, "arch_id": confirmed.median.network.id, "confirmed": "true", "verdict": confirmed.verdict}


def _description(record: TrialRecord, confirmed: Contender | None) -> str:
    """The same for people, in Markdown."""
    rows = {**record.values, **record.costs, **({} if confirmed is None else confirmed.costs)}
    said = {name: shown(value) for name, value in rows.items()}
    if confirmed is None and record.test_accuracy is not None:
        said["test_accuracy"] = shown(record.test_accuracy)
    for name, interval in {} if confirmed is None else confirmed.summary.items():
        said[name] = f"{shown(interval.mean)} ({shown(interval.low)} to {shown(interval.high)})"
    head = f"{plain(label_of(record.architecture))}, trial {record.number}"
    verdict = (
        ""
        if confirmed is None
        else f"\n\nConfirmed with {len(confirmed.retrainings)} seeds: {plain(confirmed.verdict)}"
    )
    table = "\n".join(f"| {plain(name)} | {text} |" for name, text in said.items())
    return f"{head}{verdict}\n\n| | |\n|---|---|\n{table}\n"


@contextmanager
def fetched(reference: str, tracking: str | None, runs: Path) -> Iterator[Path]:
    """A model folder (see `search.model`) of MLflow's, for as long as the context lasts.

    Only data is taken: files are copied and left to `search.model.read_model`, nothing is loaded through MLflow.

    Args:
        reference: id of a run, `models:/NAME@ALIAS`, `models:/NAME/VERSION` or `models:/m-ID`.
        tracking: MLflow's server or database; None is the store in `runs`.

    Raises:
        InputError: there is nothing of that name or no model folder in it, and what there is; or MLflow cannot be used.
    """
    if tracking is None and not (runs / told.STORE).is_file():
        raise InputError(f"{reference}: {runs} has no MLflow store; give the --runs or the --tracking of the search")
    uri = tracking or told.store_of(runs)
    with tempfile.TemporaryDirectory(prefix="archsearch-") as temporary:
        try:
            place = _location(store.connect(uri), reference)
            mlflow.artifacts.download_artifacts(artifact_uri=place, dst_path=temporary, tracking_uri=uri)
        except InputError:
            raise
        except Exception as error:  # MLflow's own, SQLAlchemy's or the system's
            raise store.refusal(uri, error) from error
        found = [weights.parent for weights in Path(temporary).rglob(WEIGHTS)]
        if len(found) != 1:
            raise InputError(f"{reference} is no model of archsearch: {len(found)} files {WEIGHTS} in it")
        yield found[0]


def _location(client: MlflowClient, reference: str) -> str:
    """Where the artifacts of a reference are."""
    if re.fullmatch(r"[0-9a-f]{32}", reference):
        return str(client.get_logged_model(_of_run(client, reference)).artifact_location)
    if re.fullmatch(r"models:/m-[0-9a-f]{32}", reference):
        model = _there(lambda: client.get_logged_model(reference.removeprefix("models:/")))
        if model is None:
            raise InputError(f"MLflow has no model {reference}; {ALLOWED}")
        return str(model.artifact_location)
    parts = re.fullmatch(r"models:/([^/:@]+)(?:@([\w-]+)|/([0-9]+))", reference)
    if parts is None:
        raise InputError(f"{reference!r} names no model; {ALLOWED}")
    version = _version(client, *parts.groups())
    return str(client.get_model_version_download_uri(version.name, version.version))


def _of_run(client: MlflowClient, run_id: str) -> str:
    """The newest model of a run: id of a LoggedModel."""
    run = _there(lambda: client.get_run(run_id))
    if run is None:
        raise InputError(f"MLflow has no run {run_id}; {ALLOWED}")
    outputs = run.outputs.model_outputs if run.outputs else []  # in no order
    found = [_there(partial(client.get_logged_model, output.model_id)) for output in outputs]
    if ready := [model for model in found if model is not None and model.status == "READY"]:
        return str(max(ready, key=lambda model: model.creation_timestamp).model_id)
    raise InputError(f"the run {run_id} ({run.info.run_name}) has no model; members of the front have, after a search")


def _version(client: MlflowClient, name: str, alias: str | None, number: str | None) -> ModelVersion:
    model = _there(lambda: client.get_registered_model(name))
    if model is None:
        known = [found.name for found in client.search_registered_models(max_results=1000)]
        raise InputError(unknown("registered model in MLflow", name, known))
    if alias is not None:
        if alias not in model.aliases:
            raise InputError(unknown(f"alias of {name}", alias, model.aliases))
        number = str(model.aliases[alias])
    version = _there(lambda: client.get_model_version(name, str(number)))
    if version is None:
        there = sorted(int(found.version) for found in client.search_model_versions(f"name = '{name}'"))
        raise InputError(f"{name} has no version {number}; it has {', '.join(map(str, there)) or 'none'}")
    return version


def _there(asked: Callable[[], Found]) -> Found | None:
    """What MLflow answers; None where it has no such thing."""
    try:
        return asked()
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"):
            return None
        raise
