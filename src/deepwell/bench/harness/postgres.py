"""Runs a PostgreSQL server of its own for a benchmark: made by `initdb`, on a Unix socket, gone afterwards."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from deepwell.errors import MissingDependency

__all__ = ["postgres"]

_NAME = "deepwell"


@contextmanager
def postgres() -> Generator[str]:
    """Starts the newest server that is installed, and yields the URL of an empty database.

    Raises:
        MissingDependency: none is installed.
    """
    programs = _programs()
    with tempfile.TemporaryDirectory(prefix="dwpg", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        # The server refuses to run as root: then it belongs to Debian's user for it.
        prefix: list[str] = []
        if os.geteuid() == 0:
            owner = pwd.getpwnam("postgres")
            os.chown(folder, owner.pw_uid, owner.pw_gid)
            prefix = ["runuser", "-u", "postgres", "--"]

        def run(program: str, *arguments: str) -> None:
            # Output goes nowhere: the server inherits it, and a pipe would stay open as long as it runs.
            subprocess.run(
                [*prefix, str(programs / program), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=folder,
                check=True,
            )

        data = str(folder / "data")
        run("initdb", "-D", data, "-U", _NAME, "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync")
        options = f"-c listen_addresses= -c unix_socket_directories={folder} -c shared_buffers=128MB"
        run("pg_ctl", "-D", data, "-w", "-s", "-l", str(folder / "log"), "-o", options, "start")
        try:
            yield f"postgresql://{_NAME}@/postgres?host={folder}"
        finally:
            run("pg_ctl", "-D", data, "-m", "immediate", "-w", "-s", "stop")


def _programs() -> Path:
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3])
    ) or [Path(shutil.which("initdb") or "/nowhere")]
    if not found[-1].exists():
        raise MissingDependency(
            "PostgreSQL is not installed", fix="apt-get install postgresql postgresql-17-pgvector"
        )
    return found[-1].parent
