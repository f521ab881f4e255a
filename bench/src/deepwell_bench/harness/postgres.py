"""Runs PostgreSQL servers of its own for a benchmark: made by `initdb`, on a Unix socket, gone afterwards."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from deepwell.errors import MissingDependency

__all__ = ["NAME", "Postgres", "postgres", "postgres_pair"]

NAME: Final = "deepwell"
"""User and owner of the database `postgres`; it needs no password."""


class Postgres:
    """One server with data and a socket in a folder of its own.

    Attributes:
        folder: its folder; its socket lies there.
        prefix: words before its programs, which refuse to run as root: then it belongs to Debian's user for it.
    """

    def __init__(self, folder: Path, *, standby_of: Postgres | None = None) -> None:
        """Makes its data: empty, or the copy of a primary that it follows, under the name of its folder.

        Raises:
            MissingDependency: PostgreSQL is not installed.
        """
        self._programs = _programs()
        self.folder = folder
        self.prefix: list[str] = []
        folder.mkdir(exist_ok=True)
        if os.geteuid() == 0:
            owner = pwd.getpwnam("postgres")
            os.chown(folder, owner.pw_uid, owner.pw_gid)
            self.prefix = [
                "setpriv",
                *(f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}", "--clear-groups", "--"),
            ]
        self._data = folder / "data"
        if standby_of is None:
            self._run(
                "initdb",
                *("-D", self._data, "-U", NAME, "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"),
            )
        else:
            line = f"host={standby_of.folder} user={NAME} dbname=postgres application_name={folder.name}"
            self._run(
                "pg_basebackup",
                *("-D", self._data, "-R", "-X", "stream", "-c", "fast", "--no-sync", "-d", line),
            )

    @property
    def url(self) -> str:
        """URL of its database."""
        return f"postgresql://{NAME}@/postgres?host={self.folder}"

    @property
    def options(self) -> list[str]:
        """Options of the server."""
        return ["listen_addresses=", f"unix_socket_directories={self.folder}", "shared_buffers=128MB"]

    def command(self, *options: str) -> list[str | Path]:
        """Returns the command of the server in the foreground, with options behind its own."""
        chosen = [word for one in (*self.options, *options) for word in ("-c", one)]
        return [*self.prefix, self._programs / "postgres", "-D", self._data, *chosen]

    def trust(self, network: str) -> None:
        """Lets everybody of a network in, from the next start on."""
        with (self._data / "pg_hba.conf").open("a", encoding="utf-8") as file:
            file.write(f"host all all {network} trust\n")

    def start(self, *options: str) -> None:
        """Starts it, and waits until it answers."""
        told = " ".join(f"-c {one}" for one in (*self.options, *options))
        self._run("pg_ctl", "-D", self._data, "-w", "-s", "-l", self.folder / "log", "-o", told, "start")

    def stop(self) -> None:
        """Ends it as a crash would."""
        self._run("pg_ctl", "-D", self._data, "-m", "immediate", "-w", "-s", "stop", check=False)

    def kill(self) -> None:
        """Kills all its processes by SIGKILL."""
        parent = int((self._data / "postmaster.pid").read_text(encoding="utf-8").split()[0])
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text(encoding="ascii").split()
        for pid in (parent, *map(int, children)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def promote(self) -> None:
        """Makes the standby a primary, and waits until it is one."""
        self._run("pg_ctl", "-D", self._data, "-w", "-s", "promote")

    def sql(self, statement: str) -> str:
        """Runs one statement, and returns its rows as `psql` prints them without headings."""
        command = [*self.prefix, self._programs / "psql", "-X", "-q", "-A", "-t", "-h", self.folder]
        done = subprocess.run(
            [*command, "-U", NAME, "-d", "postgres", "-c", statement],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            cwd=self.folder,
            check=True,
        )
        return done.stdout.strip()

    def _run(self, program: str, *arguments: str | Path, check: bool = True) -> None:
        # Output goes nowhere: the server inherits it, and a pipe would stay open as long as it runs.
        command: Sequence[str | Path] = [*self.prefix, self._programs / program, *arguments]
        subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self.folder,
            check=check,
        )


@contextmanager
def postgres() -> Generator[str]:
    """Starts the newest server that is installed, and yields the URL of an empty database.

    Raises:
        MissingDependency: none is installed.
    """
    with tempfile.TemporaryDirectory(prefix="dwpg", ignore_cleanup_errors=True) as name:
        server = Postgres(Path(name))
        server.start()
        try:
            yield server.url
        finally:
            server.stop()


@contextmanager
def postgres_pair() -> Generator[tuple[Postgres, Postgres]]:
    """Yields a primary, whose commits wait for its standby, and the standby.

    Raises:
        MissingDependency: PostgreSQL is not installed.
    """
    with tempfile.TemporaryDirectory(prefix="dwpg", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        started: list[Postgres] = []
        try:
            started.append(Postgres(folder / "one"))
            started[0].start()
            started.append(Postgres(folder / "two", standby_of=started[0]))
            started[1].start()
            # Set after the copy was made, so that the standby waits for nobody when it is promoted.
            for setting in ("synchronous_standby_names = '*'", "synchronous_commit = on"):
                started[0].sql(f"ALTER SYSTEM SET {setting}")
            started[0].sql("SELECT pg_reload_conf()")
            yield started[0], started[1]
        finally:
            for one in started:
                one.stop()


def _programs() -> Path:
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3])
    ) or [Path(shutil.which("initdb") or "/nowhere")]
    if not found[-1].exists():
        raise MissingDependency(
            "PostgreSQL is not installed", fix="apt-get install postgresql postgresql-17-pgvector"
        )
    return found[-1].parent
