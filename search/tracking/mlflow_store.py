"""The MLflow server or database that `search.tracking.mlflow` writes to: reached, tried, its experiments found.

Imports mlflow, as only `search.tracking.mlflow` does besides. Knows nothing of searches.
"""

import os
import re
from pathlib import Path

from filelock import FileLock

# MLflow, and PostgreSQL's library, read these; what the user has set stands. No telemetry, no links on the terminal,
# and no minutes of retries within one call: the outbox tries again without holding up the search.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")

import sqlalchemy
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from search.checkpoints.places import public
from search.tracking.outbox import first_line
from spaces import InputError

_EXTRAS = {"boto3": "s3", "botocore": "s3", "psycopg": "postgresql"}  # what brings a package that is missing
_DATABASES = ("postgresql", "postgres:", "mysql", "mssql")
_AWAY = {"connect_timeout": "10", "tcp_user_timeout": "30000"}  # in s and ms; without them minutes, PostgreSQL only


def connect(uri: str) -> MlflowClient:
    """A client whose store has its tables; MLflow itself fails where two processes make them at once."""
    if uri.startswith("sqlite:///"):
        database = Path(uri.removeprefix("sqlite:///"))
        database.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(database.with_name(f".{database.name}.lock")):
            return MlflowClient(tracking_uri=uri)
    return MlflowClient(tracking_uri=_database(uri) if uri.startswith(_DATABASES) else uri)


def _database(uri: str) -> str:
    """The address of a database that answers; of PostgreSQL through psycopg 3, where no other driver is given.

    MLflow itself would ask one that is not there for minutes.
    """
    address = sqlalchemy.make_url(uri)
    if address.drivername in ("postgresql", "postgres"):
        address = address.set(drivername="postgresql+psycopg")
    if address.get_backend_name() == "postgresql":
        address = address.update_query_dict({**_AWAY, **address.query})
    engine = sqlalchemy.create_engine(address)
    engine.connect().close()
    engine.dispose()
    return address.render_as_string(hide_password=False)


def reach(uri: str) -> str:
    """The URI of a server or database that answers, as MLflow's own commands want it.

    Raises:
        InputError: there is none.
    """
    try:
        connect(uri).search_experiments(max_results=1)
        return _database(uri) if uri.startswith(_DATABASES) else uri
    except Exception as error:  # MLflow's own, SQLAlchemy's or the system's
        raise refusal(uri, error) from error


def find_experiment(client: MlflowClient, name: str, artifacts: str | None, *, given: bool) -> str:
    """The id of the experiment of that name; made where there is none.

    Args:
        artifacts: URL of the folder for a folder of its own, if it is new; None leaves the place to the server.
        given: the user asks for that folder; an experiment that has another one is not taken.
    """
    folder = re.sub(r"[^\w-]", "_", name)
    place = None if artifacts is None else f"{artifacts.rstrip('/')}/{folder}"
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, place))
        except MlflowException:  # another search may have just made it
            if (found := client.get_experiment_by_name(name)) is None:
                raise
    if given and found.artifact_location.rstrip("/") != place:
        raise ValueError(
            f"the experiment {name!r} is there already and keeps its artifacts in {found.artifact_location}; leave "
            "--artifacts out, or give the space another name"
        )
    if found.lifecycle_stage != "active":  # deleted in the UI, which keeps its name taken
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def refusal(uri: str, error: Exception) -> InputError:
    """Why MLflow cannot be used, in one line without a password."""
    reason = first_line(error)
    missing = next((cause.name for cause in _causes(error) if isinstance(cause, ImportError)), None)
    if missing in _EXTRAS:
        reason = f"{missing} is missing; pip install 'archsearch[{_EXTRAS[missing]}]'"
    return InputError(public(f"MLflow at {uri} cannot be used: {reason}"))


def _causes(error: BaseException | None) -> list[BaseException]:
    return [] if error is None else [error, *_causes(error.__cause__ or error.__context__)]
