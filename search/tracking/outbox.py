"""Outbox: work for a service that may be away, kept until it is back. Courier: one with a thread of its own.

Neither holds up whoever gives the work. They know nothing of the service or of the work, which is any callable that
may be repeated.
"""

import logging
import threading
import time
from collections.abc import Callable, Hashable
from typing import final

logger = logging.getLogger(__name__)

FIRST_PAUSE_S, MAX_PAUSE_S = 1.0, 60.0
LOOK_S = 0.1  # how often a flush looks whether anything is done
MISSING = "%s: %d things are still missing there"


@final
class Outbox:
    """Does what it is given at once; where that fails, again after pauses of FIRST_PAUSE_S to MAX_PAUSE_S.

    A failure never reaches the caller: it is logged as a warning, once until the service is back.

    Args:
        service: its name in the log.
        recover: called before the first work after a failure; may fail too.
    """

    def __init__(self, service: str, recover: Callable[[], None]):
        self._service, self._recover = service, recover
        self._waiting: dict[Hashable, Callable[[], None]] = {}
        self._pause_s, self._retry_at = 0.0, 0.0
        self.done = 0  # how much work has been done

    @property
    def waiting(self) -> frozenset[Hashable]:
        """Keys of the work that is still to be done."""
        return frozenset(self._waiting)

    @property
    def pause_s(self) -> float:
        """How long until what is waiting may be tried again."""
        return max(0.0, self._retry_at - time.monotonic())

    def hurry(self) -> None:
        """Try again soon, and from then on with pauses as after a first failure."""
        self._pause_s, self._retry_at = min(self._pause_s, FIRST_PAUSE_S), 0.0

    def do(self, key: Hashable, work: Callable[[], None]) -> None:
        """Do `work` now or as soon as that is possible; newer work of the same key replaces older."""
        self.keep(key, work)
        self.retry()

    def keep(self, key: Hashable, work: Callable[[], None]) -> None:
        """The same from the next `retry` on."""
        self._waiting.pop(key, None)
        self._waiting[key] = work

    def retry(self) -> None:
        """Do what is waiting, unless a failure was just now."""
        if not self.pause_s:
            self._try_all()

    def flush(self, patience_s: float) -> bool:
        """Try until all is done or `patience_s` are over; whether all is done."""
        end = time.monotonic() + patience_s
        self._try_all()
        while self._waiting and self._retry_at < end:
            time.sleep(self.pause_s)
            self._try_all()
        if self._waiting:
            logger.warning(MISSING, self._service, len(self._waiting))
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
                self.done += 1
            if len(errors) == 2:
                break
        return errors

    def _fall_back(self, error: Exception) -> None:
        if not self._pause_s:
            logger.warning("%s failed: %s; what is missing there waits", self._service, first_line(error))
            logger.debug("what failed", exc_info=error)
        self._pause_s = min(2 * self._pause_s or FIRST_PAUSE_S, MAX_PAUSE_S)
        self._retry_at = time.monotonic() + self._pause_s


@final
class Courier:
    """An outbox whose work a thread does, in order; newer work of a key takes the place of what has not begun.

    So whoever gives the work never waits, a busy service gets less and larger work, and no more is kept than there are
    keys. The thread lives while there is work, and is no reason for the process to live on.

    Args:
        service, recover: see `Outbox`; `recover` and the work run in the thread.
    """

    def __init__(self, service: str, recover: Callable[[], None]):
        self._service, self._outbox = service, Outbox(service, recover)
        self._given: dict[Hashable, Callable[[], None]] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._hurried = self._given_up = False

    def do(self, key: Hashable, work: Callable[[], None]) -> None:
        """Have `work` done as soon as that is possible."""
        with self._changed:
            self._given[key] = work
            self._wake()

    def flush(self, patience_s: float) -> bool:
        """Wait until all is done, or nothing was for `patience_s`; whether all is done."""
        with self._changed:
            self._hurried = True
            thread = self._wake()
            done, since = self._outbox.done, time.monotonic()
            while self._thread is not None and time.monotonic() < since + patience_s:
                self._changed.wait(LOOK_S)
                if self._outbox.done != done:
                    done, since = self._outbox.done, time.monotonic()
            ended = self._thread is None
            self._hurried, self._given_up = False, not ended
            self._changed.notify_all()
            missing = len(self._outbox.waiting.union(self._given))
        if ended:
            thread.join()
        else:
            logger.warning(MISSING, self._service, missing)
        return ended

    def _wake(self) -> threading.Thread:
        self._given_up = False
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=f"to {self._service}", daemon=True)
            self._thread.start()
        self._changed.notify_all()
        return self._thread

    def _work(self) -> None:
        while self._next():
            self._outbox.retry()

    def _next(self) -> bool:
        """Puts the oldest of what was given into the outbox; False, and the thread's end, where nothing is left."""
        with self._changed:
            while self._outbox.pause_s and not self._given_up:
                if self._hurried:
                    self._hurried = False
                    self._outbox.hurry()
                else:
                    self._changed.wait(self._outbox.pause_s)
            if self._given_up or not (self._given or self._outbox.waiting):
                self._thread = None
                self._changed.notify_all()
                return False
            for key in list(self._given)[:1]:
                self._outbox.keep(key, self._given.pop(key))
            return True


def first_line(error: Exception) -> str:
    """What a person needs of an error that may go on for pages."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
