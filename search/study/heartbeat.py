"""Heartbeat: one driver writes a study that is kept in a database, wherever the drivers run.

The holder of a study is one row beside it: a token that no other driver has, who it is, and when it last gave a
sign of life, by the clock of the database, the only one that all drivers share. The row changes hands by
compare-and-swap, and every transaction that writes looks at it first and locks it, so a driver that has lost the
study (it was suspended, or cut off) writes nothing any more. Knows SQLAlchemy and one table, nothing of Optuna.
"""

import json
import os
import socket
import threading
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, final

import sqlalchemy as sql
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from search.study.patience import Away
from spaces import InputError

KEY = "archsearch:driver"  # of the row, among the system attributes of the study
BEAT_S = 10.0  # six beats may be lost in a row
STALE_S = 60.0

_held = set[str]()  # tokens of the holders in this process


@final
class Heartbeat:
    """Holds a study from `acquire` to `release`.

    Args:
        engine: raises `Away`.
        table: of attributes, with the columns study_id, key and value_json; the first two are unique together.
        where: the study and its database, for messages.
    """

    def __init__(self, engine: sql.Engine, table: sql.Table, study_id: int, where: str):
        self._engine, self._table, self._study_id, self._where = engine, table, study_id, where
        self._row = sql.and_(table.c.study_id == study_id, table.c.key == KEY)
        self._token = uuid.uuid4().hex
        self._since = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def acquire(self) -> None:
        """Takes the study if nobody has it, its holder is dead, or its holder's beat is stale and does not change.

        Raises:
            InputError: another driver holds it; says which, and when it would be free.
            Away: the database does not answer; may be called again.
        """
        _held.add(self._token)
        while True:
            text, now = self._look()
            held = None if text is None else json.loads(text)
            if held is not None and held["token"] == self._token:
                break
            if held is not None and not _is_dead(held):
                left = held["beat"] + STALE_S - now
                if left > 0:
                    raise InputError(
                        f"{self._where} is being written by another run ({_who(held)}); wait, or end it. "
                        f"If it is dead, the study is free in {left:.0f} s"
                    )
                self._over.wait(1.2 * BEAT_S)
                if self._look()[0] != text:
                    continue  # the database was away, not the driver
            self._swap(text)
        self._thread.start()

    def guard(self, connection: sql.Connection) -> None:
        """Makes a transaction fail unless the study is ours until it ends.

        Raises:
            InputError: another driver has it.
        """
        text = self._read(connection, lock=True)
        held = None if text is None else json.loads(text)
        if held is None or held["token"] != self._token:
            other = "nobody" if held is None else _who(held)
            raise InputError(
                f"{self._where}: this run gave no sign of life for more than {STALE_S:.0f} s and has lost the study; "
                f"{other} has it now. What this run had written is kept, it writes no more; if the other run ends "
                "early, resume the search"
            )

    def release(self) -> None:
        """Lets another driver have the study at once; one that cannot be told waits until the beat is stale."""
        self._over.set()
        self._thread.join()
        _held.discard(self._token)
        try:
            with self._engine.begin() as connection:
                connection.execute(sql.delete(self._table).where(self._mine()))
        except (Away, SQLAlchemyError):
            pass

    def _look(self) -> tuple[str | None, float]:
        """What the row says, and the time."""
        with self._engine.begin() as connection:
            return self._read(connection), _now(connection)

    def _swap(self, text: str | None) -> None:
        """Makes the row ours if it still says what it said. Whether it is, only another look tells."""
        try:
            with self._engine.begin() as connection:
                now = _now(connection)
                self._since = now
                mine = self._said(now)
                if text is None:
                    values = {"study_id": self._study_id, "key": KEY, "value_json": mine}
                    connection.execute(sql.insert(self._table).values(values))
                else:
                    same = sql.and_(self._row, self._table.c.value_json == text)
                    connection.execute(sql.update(self._table).where(same).values(value_json=mine))
        except IntegrityError:
            pass  # another driver came first

    def _beat(self) -> None:
        while not self._over.wait(BEAT_S):
            try:
                with self._engine.begin() as connection:
                    now = _now(connection)
                    said = self._said(now)
                    connection.execute(sql.update(self._table).where(self._mine()).values(value_json=said))
            except (Away, SQLAlchemyError):
                continue  # the driver hears of it when it writes

    def _mine(self) -> sql.ColumnElement[bool]:
        return sql.and_(self._row, self._table.c.value_json.contains(self._token))

    def _said(self, beat: float) -> str:
        return json.dumps({"token": self._token, **_myself(), "since": self._since, "beat": beat})

    def _read(self, connection: sql.Connection, *, lock: bool = False) -> str | None:
        query = sql.select(self._table.c.value_json).where(self._row)
        found: str | None = connection.scalar(query.with_for_update(read=True) if lock else query)
        return found


def _now(connection: sql.Connection) -> float:
    """Seconds by the clock of the database."""
    now = connection.scalar(sql.select(sql.func.now()))
    assert isinstance(now, datetime)
    return (now if now.tzinfo else now.replace(tzinfo=UTC)).timestamp()


def _who(held: dict[str, Any]) -> str:
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(held["since"]))
    return f"process {held['pid']} on {held['host']}, since {since}"


def _myself() -> dict[str, Any]:
    pid = os.getpid()
    return {"host": socket.gethostname(), "machine": _machine(), "pid": pid, "born": _born(pid)}


def _is_dead(held: dict[str, Any]) -> bool:
    """Whether the holder ran here, where its end can be seen, and has ended or let the study go."""
    if (held["host"], held["machine"]) != (socket.gethostname(), _machine()) or not held["born"]:
        return False
    if held["pid"] == os.getpid():
        return held["token"] not in _held
    return bool(_born(held["pid"]) != held["born"])


def _machine() -> str:
    """What two machines or containers of the same name do not share; empty where there is no /proc."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _born(pid: int) -> str:
    """When a living process began, in ticks since the machine did: a process id may be given again."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state == "Z" else fields[18]
