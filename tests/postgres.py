"""A PostgreSQL server of the tests' own: made by `initdb`, on a Unix socket, gone afterwards."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import make_url
from tests.needs import POSTGRESQL, require

from deepwell.storage.database import Database
from deepwell.storage.tables import metadata


class Server:
    """One server with one database for each that asks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.emptied_url: str | None = None
        self._bin = Path(str(POSTGRESQL.find()))
        # The server refuses to run as root: then it belongs to Debian's user for it.
        self._user = "postgres" if os.geteuid() == 0 else None
        folder.chmod(0o755)
        self.data = folder / "data"
        if self._user:
            owner = pwd.getpwnam(self._user)
            os.chown(folder, owner.pw_uid, owner.pw_gid)
        self._make_data()
        with (self.data / "postgresql.conf").open("a") as file:
            file.write(f"unix_socket_directories = '{folder}'\n")
        self.start()

    def _make_data(self) -> None:
        self._run("initdb", "-D", self.data, "-U", "deepwell", "--auth=scram-sha-256", "--no-sync",
                  "--no-instructions", "--encoding=UTF8", "--locale=C", f"--pwfile={self._secret()}")  # fmt: skip
        with (self.data / "postgresql.conf").open("a") as file:
            file.write(
                "listen_addresses = ''\nmax_connections = 60\n"
                "shared_buffers = 16MB\nfsync = off\n"  # processes are killed here, never the machine
            )

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._run("pg_ctl", "-D", self.data, "-w", "-t", "300", "-s", "-l", self.folder / "log", "start")

    def stop(self) -> None:
        """Stop it at once, as a crash would leave it."""
        self._run("pg_ctl", "-D", self.data, "-m", "immediate", "-w", "-s", "stop", check=False)

    def is_running(self) -> bool:
        """Whether it answers."""
        from psycopg import OperationalError

        try:
            self.sql("postgres", "SELECT 1")
        except OperationalError:
            return False
        return True

    @property
    def pid(self) -> int:
        """The process that starts all others."""
        return int((self.data / "postmaster.pid").read_text().split()[0])

    def signal(self, number: int) -> None:
        """Send a signal to every process of the server, the parent first."""
        parent = self.pid
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text(encoding="utf-8").split()
        for pid in (parent, *map(int, children)):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self) -> None:
        """SIGKILL, and wait until the last process is gone."""
        parent = self.pid
        self.signal(signal.SIGKILL)
        subprocess.run(["tail", f"--pid={parent}", "-f", "/dev/null"], timeout=60)

    def url(self, name: str, password: str = "s3cret") -> str:
        """The URL of a database."""
        return f"postgresql://deepwell:{password}@/{name}?host={self.folder}"

    def create(self) -> str:
        """The URL of a new database without tables."""
        name = f"t{uuid.uuid4().hex}"
        self.sql("postgres", f"CREATE DATABASE {name}")
        return self.url(name)

    def emptied(self) -> str:
        """The URL of a database with today's tables and no rows; the same one each time, for that is much faster."""
        if self.emptied_url is None:
            self.emptied_url = self.create()
            Database.connect(self.emptied_url).close()
        names = ", ".join(metadata.tables)
        self.sql(str(make_url(self.emptied_url).database), f"TRUNCATE {names} RESTART IDENTITY")
        return self.emptied_url

    def sql(self, database: str, statement: str) -> list[tuple[Any, ...]]:
        """The rows that a statement answers, as the database's owner."""
        import psycopg

        with psycopg.connect(self.url(database), autocommit=True, connect_timeout=60) as connection:
            done = connection.execute(statement)
            return done.fetchall() if done.description else []

    def _secret(self) -> Path:
        path = self.folder / "password"
        path.write_text("s3cret\n")
        return path

    def _run(self, program: str, *arguments: object, check: bool = True) -> None:
        prefix = ["runuser", "-u", self._user, "--"] if self._user else []
        command = [*prefix, str(self._bin / program), *map(str, arguments)]
        # Output to a file: the server inherits it, and a pipe would stay open as long as it runs.
        with (self.folder / "setup").open("w+") as output:
            done = subprocess.run(
                command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, cwd=self.folder
            )
            output.seek(0)
            if check and done.returncode:
                raise RuntimeError(f"{program} failed: {output.read()[-2000:]}")


class Replica(Server):
    """A standby that follows a server, until it is promoted."""

    def __init__(self, folder: Path, primary: Server) -> None:
        self._primary = primary
        super().__init__(folder)

    def _make_data(self) -> None:
        where = make_url(self._primary.url("postgres"))
        line = f"host={self._primary.folder} user={where.username} password={where.password} dbname=postgres"
        self._run(
            "pg_basebackup", "-D", self.data, "-R", "-X", "stream", "-c", "fast", "--no-sync", "-d", line
        )

    def promote(self) -> None:
        """End its recovery and wait until it takes writes."""
        self._run("pg_ctl", "-D", self.data, "-w", "-s", "promote")


@contextmanager
def running() -> Iterator[Server]:
    """A server for as long as the block lasts; without one installed the test is skipped."""
    require(POSTGRESQL)
    with tempfile.TemporaryDirectory(prefix="dwpg", ignore_cleanup_errors=True) as folder:
        server = Server(Path(folder))
        try:
            yield server
        finally:
            server.signal(signal.SIGCONT)
            server.stop()
