"""Programs of replicas: `deepwell serve` with one release, on a port of the loopback."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from deepwell.fleet.deploy.declaration import Declaration, secret_of
from deepwell.fleet.deploy.release import Release
from deepwell.process.programs import Program

__all__ = [
    "LOOPBACK",
    "MakeReplica",
    "free_ports",
    "replica_command",
    "reported_error",
    "serve_arguments",
    "served_replica",
]

LOOPBACK: Final = "127.0.0.1"

MakeReplica = Callable[[Release, str, int], Program]
"""Makes the program of a replica from its release, its name and its port."""


def free_ports(count: int, taken: Sequence[int] = ()) -> list[int]:
    """Returns ports of the loopback on which nobody listens now."""
    probes: list[socket.socket] = []
    try:
        found: list[int] = []
        while len(found) < count:
            probe = socket.socket()
            probes.append(probe)
            probe.bind((LOOPBACK, 0))
            if (port := int(probe.getsockname()[1])) not in taken:
                found.append(port)
        return found
    finally:
        for one in probes:
            one.close()


def reported_error(line: str) -> tuple[str, str] | None:
    """Returns the message and the fix of an error that `deepwell serve --json` printed; None: the line is another one."""
    if not line.startswith('{"error"'):
        return None
    try:
        said = json.loads(line)["error"]
        return str(said["message"]), str(said["fix"] or "")
    except (ValueError, KeyError, TypeError):
        return None


def replica_command(declaration: Declaration, release: Release, port: int) -> tuple[str, ...]:
    """Returns the command of a replica on this machine."""
    python = (sys.executable, "-P", "-m", "deepwell", "serve")
    return (*python, *serve_arguments(declaration, release, port, LOOPBACK))


def serve_arguments(declaration: Declaration, release: Release, port: int, host: str) -> tuple[str, ...]:
    """Returns the arguments of `deepwell serve` for a replica."""
    options = [part for one in release.adapters for part in ("--adapter", one)]
    for name, value in (("--guard", release.policy), ("--knowledge", release.knowledge)):
        options += [] if value is None else [name, value]
    place = ("--host", host, "--port", str(port), "--json")
    return (release.base, *place, *declaration.serve.flags(), *options)


def served_replica(declaration: Declaration, folder: Path, keys: Sequence[str] = ()) -> MakeReplica:
    """Returns the maker of replicas that are `deepwell serve`.

    Args:
        folder: the folder that they start in, from which relative paths are meant.
        keys: API keys that replicas accept besides those of the database; secrets stand in the environment alone.
    """
    further: dict[str, str] = {}
    if declaration.database is not None:
        further["DEEPWELL_DATABASE_URL"] = secret_of(declaration.database)
    if declaration.valkey is not None:
        further["DEEPWELL_VALKEY_URL"] = secret_of(declaration.valkey)
    if (blobs := declaration.blobs) is not None:
        place = None if blobs.credentials is None else blobs.credentials.removeprefix("file:")
        further |= blobs.variables(place)
    if keys:
        further["DEEPWELL_API_KEYS"] = " ".join(keys)

    def make(release: Release, name: str, port: int) -> Program:
        environ = {
            **os.environ,
            **further,
            "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path),  # noqa: PTH109
            "DEEPWELL_RELEASE": f"{declaration.alias}={release.model}",
        }
        return Program(name, replica_command(declaration, release, port), environ, folder, (LOOPBACK, port))

    return make
