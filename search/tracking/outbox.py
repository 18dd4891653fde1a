"""Outbox: work for a service that may be away, kept until it is back, without holding up whoever gives it.

Knows nothing of the service or of the work, which is any callable that may be repeated.
"""

import logging
import time
from collections.abc import Callable, Hashable
from typing import final

logger = logging.getLogger(__name__)

MAX_PAUSE_S = 60.0


@final
class Outbox:
    """Does what it is given at once; where that fails, tries again later, with pauses from 1 s to MAX_PAUSE_S.

    A failure never reaches the caller: it is logged as a warning, once until the service is back.

    Args:
        service: its name in the log.
        recover: called before the first work after a failure; may fail too.
    """

    def __init__(self, service: str, recover: Callable[[], None]):
        self._service, self._recover = service, recover
        self._waiting: dict[Hashable, Callable[[], None]] = {}
        self._pause_s, self._retry_at = 0.0, 0.0

    @property
    def waiting(self) -> int:
        """How much work is still to be done."""
        return len(self._waiting)

    def do(self, key: Hashable, work: Callable[[], None]) -> None:
        """Do `work` now or as soon as that is possible; newer work of the same key replaces older."""
        self._waiting.pop(key, None)
        self._waiting[key] = work
        if time.monotonic() >= self._retry_at:
            self._try_all()

    def flush(self, patience_s: float) -> bool:
        """Try until all is done or `patience_s` are over; whether all is done."""
        end = time.monotonic() + patience_s
        self._try_all()
        while self._waiting and self._retry_at < end:
            time.sleep(max(0.0, self._retry_at - time.monotonic()))
            self._try_all()
        if self._waiting:
            logger.warning("%s: %d things are still missing there", self._service, len(self._waiting))
        return not self._waiting

    def _try_all(self) -> None:
        errors = self._attempt()
        if errors:
            self._fall_back(errors[0])
            return
        if self._pause_s:
            logger.warning("%s is back; nothing is missing there", self._service)
        self._pause_s = self._retry_at = 0.0

    def _attempt(self) -> list[Exception]:
        """Whatever work raises becomes a reason in the log; a second fault means that the service is away."""
        errors: list[Exception] = []
        try:
            if self._pause_s:
                self._recover()
        except Exception as error:
            return [error]
        for key, work in list(self._waiting.items()):
            try:
                work()
            except Exception as error:
                self._waiting[key] = self._waiting.pop(key)  # behind all others
                errors.append(error)
            else:
                del self._waiting[key]
            if len(errors) == 2:
                break
        return errors

    def _fall_back(self, error: Exception) -> None:
        if not self._pause_s:
            logger.warning("%s failed: %s; what is missing there waits", self._service, first_line(error))
            logger.debug("what failed", exc_info=error)
        self._pause_s = min(2 * self._pause_s or 1.0, MAX_PAUSE_S)
        self._retry_at = time.monotonic() + self._pause_s


def first_line(error: Exception) -> str:
    """What a person needs of an error that may go on for pages."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
