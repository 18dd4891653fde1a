"""The Tracker port, and in which words a trial and a search are told there: names, parameters, tags, rows.

Knows records, and MLflow's conventions without importing it: `search.tracking.mlflow` puts it behind this port.
"""

import contextlib
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from getpass import getuser
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from search.confirmation.record import Confirmation
from search.record import Front, State, TrialRecord
from search.report.story import Story
from search.report.strengths import Strengths
from search.skipping import Skipping
from spaces import SpaceError

Status = Literal["RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED"]
STATUS: Mapping[State, Status] = {
    State.RUNNING: "RUNNING",
    State.PAUSED: "SCHEDULED",
    State.COMPLETE: "FINISHED",
    State.STOPPED: "FINISHED",  # as planned; the tag `status` tells it apart
    State.FAILED: "FAILED",
    State.INFEASIBLE: "KILLED",  # nothing was trained
    State.DUPLICATE: "KILLED",
}
STORE = "mlflow.db"  # in a folder of searches
SENT = "archsearch.sent"  # tag of a trial: fidelity@milliseconds of the last measurement that is there
DRAWN = "archsearch.drawn"  # and of the last in the picture of what its layer attention skipped
MODEL_NEEDS = ("archsearch", "torch", "torchvision", "timm", "safetensors", "numpy", "pillow")
SEARCH_NEEDS = (*MODEL_NEEDS, "ray", "optuna", "mlflow")


class Tracker(Protocol):
    """Where people see a search. Only `start` raises: nothing here may end a running search."""

    def start(self, *, space: str, search: str, key: str, text: str, params: Mapping[str, Any]) -> str:
        """Open the run of a search, or find it again on resume; its id.

        Args:
            space: name of the space.
            search: name of the search.
            key: of letters, digits, `-` and `_`; no other search has it, and a resumed one keeps it.
            text: the space file; empty where that is told already.
            params: settings worth comparing between searches, nested or not.

        Raises:
            InputError: the tracker cannot be used; says where and why.
        """
        ...

    def log(self, record: TrialRecord) -> None:
        """Show a trial as it stands now; of one that is over also, drawn, what its layer attention skipped."""
        ...

    def run_of(self, number: int) -> str | None:
        """The id of the run of a trial; None while that is not known."""
        ...

    def reconcile(self, records: Iterable[TrialRecord]) -> None:
        """Show just these trials, whatever a crash has left behind; to be called after `start`."""
        ...

    def front(self, story: Story) -> None:
        """Show the front, and how far the search has come."""
        ...

    def log_strengths(self, record: TrialRecord, strengths: Strengths) -> None:
        """Keep with a trial which of its layers and channels came to count most."""
        ...

    def log_model(self, record: TrialRecord, folder: Path) -> None:
        """Keep a model folder (see search.model) with its trial; it must stay until `finish` returns.

        Where the last story has a confirmation of the trial, the weights are those of its median seed.
        """
        ...

    def confirmed(self, confirmation: Confirmation) -> None:
        """Show what a confirmation has found, with the trials and with the unmodified backbones."""
        ...

    def finish(self, status: Status) -> None:
        """Close the search, or leave it for a resume; waits a little for what is still to be sent."""
        ...


def store_of(runs: Path) -> str:
    """MLflow's own store in a folder of searches, as a tracking URI."""
    return f"sqlite:///{runs.resolve() / STORE}"


def artifacts_of(runs: Path) -> Path:
    """Where pictures and models of that store lie."""
    return runs.resolve() / "mlartifacts"


def ui_command(runs: Path, port: int, *, tracking: str | None = None) -> tuple[list[str], dict[str, str]]:
    """The command that serves MLflow's pages on a store, on this machine only; and its environment.

    The store is in the environment, as everyone on a machine can see a command and the password in it.

    Args:
        tracking: a database instead of the store in the folder.
    """
    command = [sys.executable, "-m", "mlflow", "ui", "--host", "127.0.0.1", "--port", str(port)]
    store = {"MLFLOW_BACKEND_STORE_URI": tracking or store_of(runs)}
    return command, {**os.environ, **store, "MLFLOW_DEFAULT_ARTIFACT_ROOT": str(artifacts_of(runs))}


def tags_of(record: TrialRecord) -> dict[str, str]:
    """What to filter trials by, but for `on_front`."""
    architecture = record.architecture
    tags = {
        "status": str(record.state),
        "backbone": architecture.backbone or "",
        "architecture": architecture.to_json(),
        "seed": str(record.seed),
        "reason": record.reason,
        "inherited_from": "" if record.inherited_from is None else str(record.inherited_from),
        "duplicate_of": "" if record.duplicate_of is None else str(record.duplicate_of),
    }
    if record.network != architecture:
        tags["network"] = record.network.to_json()
    if not record.state.open and (skipping := Skipping.of(record.history)):  # a tag cannot be taken back
        tags["skipped_layers"] = ",".join(skipping.last)
    with contextlib.suppress(SpaceError):  # what cannot be built has no identity; `reason` says why
        tags["arch_id"] = architecture.id
    return {name: value for name, value in tags.items() if value}


class Row(NamedTuple):
    """One value of a curve."""

    key: str
    value: float
    timestamp_ms: int
    step: int


def news(record: TrialRecord, held: Mapping[str, float], sent: str) -> tuple[list[Row], str]:
    """What a tracker lacks of a trial, and the mark that says how far it then goes.

    A measurement keeps its own time and fidelity, so that sent twice it is the same row.

    Args:
        held: the last value of each curve that the tracker has.
        sent: the mark of what it has: fidelity@milliseconds; empty for nothing.
    """
    fidelity, _, since = (sent or "-1@0").partition("@")
    last, rows = (int(fidelity), int(since)), []
    for measurement in record.history:
        mark = (measurement.fidelity, milliseconds(measurement.time))
        if mark > last:
            values = {**measurement.metrics, **measurement.values}
            rows += [Row(key_of(name), value, mark[1], mark[0]) for name, value in values.items()]
            last = mark
    latest = {**held, **{row.key: row.value for row in rows}}
    now = time.time()
    tested = {} if record.test_accuracy is None else {"test_accuracy": record.test_accuracy}
    for step, when, exact in (
        (0, record.started or now, record.costs),
        (0, record.ended or now, tested),  # where a mean of several can take its place
        (record.fidelity, record.ended or now, record.values),
    ):
        new = {key_of(name): value for name, value in exact.items() if latest.get(key_of(name)) != value}
        rows += [Row(key, value, milliseconds(when), step) for key, value in new.items()]
        latest |= new
    return rows, f"{last[0]}@{last[1]}"


def progress(records: Sequence[TrialRecord], front: Front) -> list[Row]:
    """How far a search has come, over the number of trainings that have ended."""
    counts = Counter(record.state for record in records)
    trained = sum(counts[state] for state in State if state.counts)
    values = {f"trials_{state}": float(counts[state]) for state in State}
    values |= {"front_size": float(len(front.members)), "hypervolume": front.hypervolume}
    now = milliseconds(time.time())
    return [Row(key_of(name), value, now, trained) for name, value in values.items()]


def key_of(name: str) -> str:
    """A curve's name of those characters only that MLflow takes."""
    return re.sub(r"[^\w./ :-]", "_", name)[:250]


def milliseconds(seconds: float) -> int:
    return round(1000 * seconds)


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Of those that are installed, without a build's own suffix (`+cpu`)."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package).split("+")[0]
        except PackageNotFoundError:
            continue  # a checkout that is not installed, or an optional part
    return found


def surroundings() -> dict[str, str]:
    """Tags of a search: the versions of what it runs on, and the git commit of the working directory."""
    tags = {f"version.{package}": number for package, number in versions(SEARCH_NEEDS).items()}
    with contextlib.suppress(OSError, subprocess.SubprocessError):  # no git, or no repository
        git = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True)
        tags["mlflow.source.git.commit"] = git.stdout.strip()
    return tags


def source() -> dict[str, str]:
    """Tags of any run, which MLflow shows as its user and source."""
    try:
        user = getuser()
    except (OSError, KeyError):  # a container's user without a name
        user = "unknown"
    return {"mlflow.user": user, "mlflow.source.name": "archsearch", "mlflow.source.type": "LOCAL"}
