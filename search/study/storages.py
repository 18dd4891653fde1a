"""Where the study of a search is kept: a journal in its directory, or a database by its address.

A database may be away for minutes, and a call whose answer is lost is not done twice. Knows Optuna's storages;
nothing of what is written into them.
"""

import threading
import time
from collections.abc import Callable, Container, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, final

import sqlalchemy as sql
from optuna.exceptions import StorageInternalError
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages._rdb import models
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from search.checkpoints.places import public
from search.study.heartbeat import Heartbeat
from search.study.patience import Patience, watch
from search.tracking.outbox import first_line
from spaces import InputError

JOURNAL = "study.journal"
START_S = 5.0  # for a database that is just starting; one that is not there is not waited for
_ALLOWED = "postgresql://USER:PASSWORD@HOST:PORT/DATABASE, mysql://... or sqlite:///FILE"
_POSTGRESQL = ("postgresql", "postgres")  # without a driver, for which we take psycopg 3
_LIBPQ = {  # the other end gone without a word is noticed within half a minute
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 4,
    "tcp_user_timeout": 30_000,
    "application_name": "archsearch",
}
T = TypeVar("T")


def address(url: str) -> str:
    """The address of a database, as Optuna and SQLAlchemy want it: PostgreSQL through psycopg 3, SQLite by its path.

    Raises:
        InputError: it is none, or none of a database that a study can be kept in.
    """
    try:
        parsed = sql.make_url(url)
    except (ArgumentError, ValueError):
        raise InputError(f"--storage: this is no address of a database; write {_ALLOWED}") from None
    kind = parsed.get_backend_name()
    if kind not in ("postgresql", "postgres", "mysql", "mariadb", "sqlite"):
        raise InputError(f"--storage: a study cannot be kept in {kind}; write {_ALLOWED}")
    if kind == "sqlite":
        if parsed.database in (None, "", ":memory:"):
            raise InputError("--storage: a database in memory is gone with its process; write sqlite:///FILE")
        parsed = parsed.set(database=str(Path(str(parsed.database)).absolute()))
    if parsed.drivername in _POSTGRESQL:
        parsed = parsed.set(drivername="postgresql+psycopg")
    return parsed.render_as_string(hide_password=False)


def storage_of(directory: Path, url: str | None) -> "JournalStorage | Database":
    """The storage of a search's study; the journal in its directory where there is no address.

    Raises:
        InputError: the database cannot be reached or used; the message never has the password.
    """
    if url is None:
        return JournalStorage(JournalFileBackend(str(directory / JOURNAL)))
    text = address(url)
    parsed, where = sql.make_url(text), public(text)
    secrets = [str(part) for part in (parsed.password, parsed.query.get("password")) if part]
    deadline = time.monotonic() + START_S
    while True:
        try:
            return Database(text)
        except ImportError as error:
            raise InputError(f"{where}: {_missing(parsed, error)}") from None
        except (SQLAlchemyError, StorageInternalError, RuntimeError, TypeError, ValueError) as error:
            reason = _said(error)
            for secret in secrets:
                reason = reason.replace(secret, "***")
            if "password" in reason:
                reason += ". A password comes from --storage, PGPASSWORD or ~/.pgpass"
            elif isinstance(error, DBAPIError | StorageInternalError) and time.monotonic() < deadline:
                time.sleep(0.5)
                continue
            raise InputError(f"{where} cannot be used: {reason}") from None


def _said(error: Exception) -> str:
    """What the database or its driver said."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    return first_line(error)


def _missing(url: sql.URL, error: ImportError) -> str:
    if url.drivername == "postgresql+psycopg":
        return "psycopg is missing; pip install 'archsearch[postgresql]'"
    return f"its driver is missing, or is none: {_said(error)}"


@final
class Database(RDBStorage):
    """A storage that outlives a restart of its database, for one driver that writes.

    Optuna writes a call in one transaction. If its answer is lost, the transaction may be there or not; the call is
    made again, and one that would do harm when done twice looks first what the lost one has left.

    Args:
        url: as `address` gives it.
    """

    def __init__(self, url: str):
        self.where, parsed = public(url), sql.make_url(url)
        options: dict[str, Any] = {"pool_pre_ping": True}
        if parsed.get_backend_name() == "postgresql":
            options["connect_args"] = {name: value for name, value in _LIBPQ.items() if name not in parsed.query}
        self._patience = Patience(self.where)
        self._heartbeat: Heartbeat | None = None
        self._newest: dict[int, int] = {}  # id of the newest trial that was seen, by study
        self._writing = threading.local()
        super().__init__(url.replace("{", "{{").replace("}", "}}"), engine_kwargs=options)
        watch(self.engine)
        sql.event.listen(self.scoped_session.session_factory, "after_begin", self._guard)

    def hold(self, study_id: int) -> Heartbeat:
        """Makes this driver the only one that writes a study; from now on no other study can be written.

        Raises:
            InputError: another driver does.
        """
        table = models.StudySystemAttributeModel.__table__
        assert isinstance(table, sql.Table)
        where = f"{self.get_study_name_from_id(study_id)} in {self.where}"
        heartbeat = Heartbeat(self.engine, table, study_id, where)
        self._patience(heartbeat.acquire)
        self._heartbeat = heartbeat
        return heartbeat

    def close(self) -> None:
        """Closes all connections; opens them again where they are needed."""
        self.remove_session()
        self.engine.dispose()

    def patiently(self, call: Callable[[], T], *, writes: bool) -> T:
        before = getattr(self._writing, "now", False)
        self._writing.now = writes
        try:
            return self._patience(call)
        except StorageInternalError as error:
            raise InputError(f"{self.where} refuses to be written: {_said(error)}") from error
        finally:
            self._writing.now = before

    def _guard(self, session: object, transaction: object, connection: sql.Connection) -> None:
        if self._heartbeat is not None and getattr(self._writing, "now", False):
            self._heartbeat.guard(connection)

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        def read() -> list[FrozenTrial]:
            return RDBStorage._get_trials(self, study_id, states, included_trial_ids, trial_id_greater_than)

        trials = self.patiently(read, writes=False)
        self._newest[study_id] = max([self._newest.get(study_id, -1), *(trial._trial_id for trial in trials)])
        return trials

    def _create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> FrozenTrial:
        if study_id not in self._newest:
            self._get_trials(study_id, None, set(), -1)
        newest, tried = self._newest[study_id], False

        def create() -> FrozenTrial:
            nonlocal tried
            left = RDBStorage._get_trials(self, study_id, None, set(), newest) if tried else []
            tried = True
            return left[0] if left else RDBStorage._create_new_trial(self, study_id, template_trial)

        trial = self.patiently(create, writes=True)
        self._newest[study_id] = trial._trial_id
        return trial

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        tried = False

        def tell() -> bool:
            nonlocal tried
            done = tried and RDBStorage.get_trial(self, trial_id).state == state
            tried = True
            return done or RDBStorage.set_trial_state_values(self, trial_id, state, values)

        return self.patiently(tell, writes=True)


def _again(method: Callable[..., T], *, writes: bool) -> Callable[..., T]:
    """A method that may be done twice, made patient."""

    @wraps(method)
    def patient(self: Database, *args: Any, **kwargs: Any) -> T:
        return self.patiently(lambda: method(self, *args, **kwargs), writes=writes)

    return patient


_READS = (
    "get_study_id_from_name",
    "get_study_name_from_id",
    "get_study_directions",
    "get_study_user_attrs",
    "get_study_system_attrs",
    "get_all_studies",
    "get_trial_id_from_study_id_trial_number",
    "get_trial",
)
_WRITES = (
    "create_new_study",
    "delete_study",
    "set_study_user_attr",
    "set_study_system_attr",
    "_set_trial_param",
    "set_trial_user_attr",
    "set_trial_system_attr",
    "set_trial_intermediate_value",
)
for _name in _READS + _WRITES:
    setattr(Database, _name, _again(getattr(RDBStorage, _name), writes=_name in _WRITES))
