"""Patience: a database that restarts, or cannot be reached for minutes, is asked again until it answers.

Knows SQLAlchemy and when a connection is the reason why a call failed; nothing of what is called.
"""

import logging
import time
from collections.abc import Callable
from typing import TypeVar, final

from sqlalchemy import Engine, event
from sqlalchemy.engine import ExceptionContext

from search.tracking.outbox import first_line
from spaces import InputError

PATIENCE_S = 300.0  # longer than a managed database takes to fail over or to be patched
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 10.0  # each twice the one before
_PASSING = ("08", "40", "53", "57")  # classes of SQLSTATE: connection, rollback, resources, operator intervention
_BUSY = (5, 6)  # SQLITE_BUSY, SQLITE_LOCKED

logger = logging.getLogger(__name__)
T = TypeVar("T")


class Away(Exception):
    """The database did not answer. What it was asked may have been done or not."""


def watch(engine: Engine) -> None:
    """Makes an engine raise `Away` where the connection, not the statement, is why a call failed."""

    @event.listens_for(engine, "handle_error")
    def handle(context: ExceptionContext) -> None:
        if context.is_pre_ping:
            return  # the pool takes another connection by itself
        original = context.original_exception
        assert isinstance(original, Exception)
        passing = str(getattr(original, "sqlstate", None)).startswith(_PASSING)
        busy = getattr(original, "sqlite_errorcode", 0) & 0xFF in _BUSY
        if context.is_disconnect or context.connection is None or passing or busy:
            raise Away(first_line(original)) from None


@final
class Patience:
    """Calls again, with growing pauses, what raised `Away`.

    Args:
        where: the database, for messages.
    """

    def __init__(self, where: str):
        self._where = where
        self._away_since: float | None = None  # kept after patience is lost, until the database is back

    def __call__(self, call: Callable[[], T]) -> T:
        """
        Raises:
            InputError: the database has been away for about `PATIENCE_S`; from then on, every call that fails again.
        """
        pause, told = FIRST_PAUSE_S, False
        while True:
            try:
                result = call()
            except Away as error:
                self._away_since = self._away_since or time.monotonic()
                waited = time.monotonic() - self._away_since
                if waited + pause > PATIENCE_S:
                    raise InputError(
                        f"{self._where} has not answered for {waited:.0f} s: {error}. Nothing that was finished is "
                        "lost; when the database is back, resume the search (--resume)"
                    ) from None
                if pause > 1 and not told:
                    logger.warning("%s does not answer, the search waits for it: %s", self._where, error)
                    told = True
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)
            except Exception:
                self._away_since = None  # it is there, whatever it says
                raise
            else:
                if told:
                    logger.warning("%s answers again; nothing is missing there", self._where)
                self._away_since = None
                return result
