"""`Front`: what a deployment asks of the process before its replicas, and haproxy as one."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from deepwell.errors import EngineUnavailable, InvalidRequest
from deepwell.fleet.front.haproxy import (
    HaproxyTerms,
    ServerLine,
    config_text,
    owner_value,
    owners_text,
    routes_text,
    routes_value,
)
from deepwell.fleet.front.private import PrivateFolder
from deepwell.fleet.front.routes import SLOTS, KeyOwner, Routes, Slot
from deepwell.fleet.front.runtime import HaproxyRuntime, ServerStat
from deepwell.process.programs import Program

__all__ = ["Front", "HaproxyFront", "ServerState", "find_haproxy", "write_whole"]

ServerState = str
"""`ready`: takes requests; `drain`: finishes those that it has; `maint`: takes none."""


def find_haproxy() -> str | None:
    """Returns the path of haproxy, which Debian keeps where only root looks; None: it is not installed."""
    return shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin")


class Front(Protocol):
    """A process before replicas. What it is told outlives its own end: one that is started again knows it."""

    @property
    def program(self) -> Program:
        """The program to keep running."""
        ...

    @property
    def config_file(self) -> Path:
        """The file that it reads when it starts."""
        ...

    async def route(self, routes: Routes) -> None:
        """Takes over another view of the releases, for all requests from now on."""
        ...

    async def set_state(self, slot: Slot, number: int, state: ServerState) -> None:
        """Lets a replica of a slot, by its number from 0, take requests, finish, or take none."""
        ...

    async def refresh(self) -> None:
        """Tells one that was started again everything that it was told before."""
        ...

    async def stat(self) -> list[ServerStat]:
        """Returns the figures of all replicas and slots.

        Raises:
            EngineUnavailable: it does not answer.
        """
        ...


class HaproxyFront:
    """haproxy as a front.

    Args:
        ports: ports of the replicas of each slot; that of a replica stays the same over its restarts.
        within: makes of its program one that runs in a container, with the folders that it needs; None: it runs here.

    Raises:
        InvalidRequest: haproxy is not installed, and is to run here.
    """

    def __init__(
        self,
        terms: HaproxyTerms,
        ports: Mapping[Slot, Sequence[int]],
        routes: Routes,
        *,
        within: Callable[[Program, Sequence[Path]], Program] | None = None,
    ) -> None:
        found = find_haproxy() if within is None else "haproxy"
        if found is None:
            raise InvalidRequest.of("deploy_no_haproxy")
        self._haproxy, self._within = found, within
        self._terms = terms
        self._routes = routes
        self._owners: dict[str, KeyOwner] = dict(routes.keys or {})
        self._servers: dict[Slot, list[ServerLine]] = {
            slot: [ServerLine(f"{slot}{number}", port) for number, port in enumerate(ports[slot])]
            for slot in SLOTS
        }
        self._private = PrivateFolder()
        self._socket = self._private.path / "haproxy.sock"
        self._runtime = HaproxyRuntime(self._socket)
        terms.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._write()

    @property
    def config_file(self) -> Path:
        """The configuration."""
        return self._terms.folder / "haproxy.cfg"

    @property
    def program(self) -> Program:
        """haproxy in the foreground. Told to end, it takes no connections and waits for its answers."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._terms.host, self._terms.host)  # noqa: S104
        command = (self._haproxy, "-db", "-C", str(self._terms.folder), "-f", str(self.config_file))
        environ = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "TZ")}
        program = Program(
            "front",
            command,
            environ,
            self._terms.folder,
            (host, self._terms.port),
            required=True,
            stop_signal=signal.SIGUSR1,
        )
        folders = (self._terms.folder, self._socket.parent)
        return program if self._within is None else self._within(program, folders)

    async def route(self, routes: Routes) -> None:
        """Takes over another view of the releases: owners of new keys first, then everything else at once."""
        new = {key: owner for key, owner in (routes.keys or {}).items() if key not in self._owners}
        self._routes = routes
        self._owners |= new
        self._write()
        try:
            for key, owner in new.items():
                await self._runtime.add_map("owners.map", key, owner_value(owner))
            await self._runtime.set_map("routes.map", "now", routes_value(routes))
        except EngineUnavailable:
            if self._runtime.is_there():
                raise

    async def set_state(self, slot: Slot, number: int, state: ServerState) -> None:
        """Changes the state of a replica. A haproxy that does not run reads it when it starts."""
        servers = self._servers[slot]
        servers[number] = replace(servers[number], state=state)
        self._write()
        try:
            await self._runtime.set_state(slot, servers[number].name, state)
        except EngineUnavailable:
            if self._runtime.is_there():
                raise

    async def refresh(self) -> None:
        """Tells haproxy the states of all replicas and the routes."""
        await self.route(self._routes)
        for slot in SLOTS:
            for number, one in enumerate(self._servers[slot]):
                await self.set_state(slot, number, one.state)

    async def stat(self) -> list[ServerStat]:
        """Returns the figures of all replicas and slots."""
        return [one for one in await self._runtime.stat() if one.slot in SLOTS]

    def _write(self) -> None:
        folder = self._terms.folder
        write_whole(folder / "routes.map", routes_text(self._routes))
        write_whole(folder / "owners.map", owners_text(self._owners))
        write_whole(self.config_file, config_text(self._terms, self._socket, self._servers))


def write_whole(path: Path, text: str) -> None:
    """Replaces a file at once, readable by its owner alone."""
    other = path.with_name(f".{path.name}.new")
    other.unlink(missing_ok=True)
    descriptor = os.open(other, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    other.replace(path)
