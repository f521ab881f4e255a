"""`OwnFront`: our own front, where haproxy is not installed. Its process is `deepwell.fleet.front.proxy`."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from deepwell.errors import EngineUnavailable
from deepwell.fleet.front.front import ServerState, write_whole
from deepwell.fleet.front.haproxy import HaproxyTerms
from deepwell.fleet.front.private import PrivateFolder
from deepwell.fleet.front.routes import SLOTS, KeyOwner, Routes, Slot
from deepwell.fleet.front.runtime import HaproxyRuntime, ServerStat
from deepwell.process.programs import Program

__all__ = ["OwnFront", "routes_from", "routes_to"]


def routes_to(routes: Routes) -> dict[str, Any]:
    """Returns routes as JSON has them."""
    keys = None if routes.keys is None else {key: asdict(one) for key, one in routes.keys.items()}
    return {
        "releases": dict(routes.releases),
        "current": routes.current,
        "candidate": routes.candidate,
        "rollout": routes.rollout,
        "share": routes.share,
        "kept": sorted(routes.kept),
        "keys": keys,
    }


def routes_from(told: Mapping[str, Any]) -> Routes:
    """Returns routes from their JSON."""
    keys = told["keys"]
    return Routes(
        told["releases"],
        told["current"],
        told["candidate"],
        told["rollout"],
        told["share"],
        frozenset(told["kept"]),
        None if keys is None else {key: KeyOwner(**one) for key, one in keys.items()},
    )


class OwnFront:
    """Our own front.

    Args:
        ports: ports of the replicas of each slot; that of a replica stays the same over its restarts.
    """

    def __init__(self, terms: HaproxyTerms, ports: Mapping[Slot, Sequence[int]], routes: Routes) -> None:
        self._terms = terms
        self._routes = routes
        self._ports = {slot: list(ports[slot]) for slot in SLOTS}
        self._states: dict[str, list[ServerState]] = {slot: ["maint"] * len(ports[slot]) for slot in SLOTS}
        self._private = PrivateFolder()
        self._socket = self._private.path / "front.sock"
        self._runtime = HaproxyRuntime(self._socket)
        terms.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._write()

    @property
    def config_file(self) -> Path:
        """The file that it reads when it starts, and again when it is told to."""
        return self._terms.folder / "front.json"

    @property
    def program(self) -> Program:
        """The process. Told to end, it takes no connections and waits for its answers."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._terms.host, self._terms.host)  # noqa: S104
        command = (sys.executable, "-P", "-m", "deepwell.fleet.front.proxy", str(self.config_file))
        environ = {
            **{name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "TZ")},
            "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path),  # noqa: PTH109
        }
        return Program(
            "front",
            (*command, str(self._socket)),
            environ,
            self._terms.folder,
            (host, self._terms.port),
            required=True,
            stop_signal=signal.SIGUSR1,
        )

    async def route(self, routes: Routes) -> None:
        """Takes over another view of the releases."""
        self._routes = routes
        await self._reload()

    async def set_state(self, slot: Slot, number: int, state: ServerState) -> None:
        """Changes the state of a replica."""
        self._states[slot][number] = state
        await self._reload()

    async def refresh(self) -> None:
        """Tells the process to read its file again."""
        await self._reload()

    async def stat(self) -> list[ServerStat]:
        """Returns the figures of all replicas and slots."""
        return [ServerStat(**one) for one in json.loads(await self._runtime.ask("stat"))]

    async def _reload(self) -> None:
        self._write()
        try:
            await self._runtime.order("reload")
        except EngineUnavailable:
            if self._runtime.is_there():
                raise

    def _write(self) -> None:
        told = {
            "host": self._terms.host,
            "port": self._terms.port,
            "routing": self._terms.routing,
            "answer_s": self._terms.answer_s,
            "most_connections": self._terms.most_connections,
            "servers": {
                slot: [
                    {"name": f"{slot}{number}", "port": port, "state": self._states[slot][number]}
                    for number, port in enumerate(self._ports[slot])
                ]
                for slot in SLOTS
            },
            "routes": routes_to(self._routes),
        }
        write_whole(self.config_file, json.dumps(told))
