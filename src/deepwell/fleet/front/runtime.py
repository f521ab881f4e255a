"""`HaproxyRuntime`: commands to a running haproxy over its socket."""

from __future__ import annotations

import asyncio
import csv
import io
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deepwell.errors import EngineUnavailable

__all__ = ["HaproxyRuntime", "ServerStat", "parse_stat"]

_PATIENCE_S: Final = 5.0
_MOST_BYTES: Final = 8 << 20


@dataclass(frozen=True, slots=True)
class ServerStat:
    """Figures of a replica, or of a slot as a whole (`server` is `BACKEND`).

    Attributes:
        open_requests: requests under way.
        status: `UP`, `DOWN`, `DRAIN`, `MAINT` or `no check`, perhaps with more behind it.
        answers: answers since haproxy started, whatever they said; `failed`: those with a status of 500 or more; `refused`:
            those with another one from 400.
    """

    slot: str
    server: str
    open_requests: int
    waiting: int
    status: str
    answers: int
    failed: int
    refused: int = 0


def parse_stat(text: str) -> list[ServerStat]:
    """Returns the figures of `show stat`."""
    rows = csv.DictReader(io.StringIO(text.lstrip("# ")))

    def number(row: Mapping[str, str | None], *names: str) -> int:
        return sum(int(row.get(name) or 0) for name in names)

    return [
        ServerStat(
            row["pxname"],
            row["svname"],
            number(row, "scur"),
            number(row, "qcur"),
            row["status"] or "",
            number(row, "hrsp_1xx", "hrsp_2xx", "hrsp_3xx", "hrsp_4xx", "hrsp_5xx", "hrsp_other"),
            number(row, "hrsp_5xx"),
            number(row, "hrsp_4xx"),
        )
        for row in rows
        if row.get("svname")
    ]


class HaproxyRuntime:
    """The runtime API of one haproxy."""

    def __init__(self, place: Path) -> None:
        self._socket = place

    async def ask(self, command: str) -> str:
        """Sends one command and returns the answer.

        Raises:
            EngineUnavailable: haproxy does not answer.
        """
        try:
            async with asyncio.timeout(_PATIENCE_S):
                reader, writer = await asyncio.open_unix_connection(self._socket)
                try:
                    writer.write(f"{command}\n".encode())
                    await writer.drain()
                    return (await reader.read(_MOST_BYTES) + await reader.read()).decode(errors="replace")
                finally:
                    writer.close()
        except (OSError, TimeoutError) as error:
            raise EngineUnavailable(
                f"haproxy does not answer on {self._socket}: {error or 'it took too long'}",
                fix="wait: it is started again",
            ) from None

    def is_there(self) -> bool:
        """Returns whether somebody listens: a socket file may be left by one that was killed."""
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(self._socket))
            except OSError:
                return False
        return True

    async def order(self, command: str) -> None:
        """Sends one command that answers nothing if it was obeyed.

        Raises:
            EngineUnavailable: haproxy does not answer, or refuses.
        """
        if said := (await self.ask(command)).strip():
            raise EngineUnavailable(
                f"haproxy refused {command.split(' ', 3)[:3]}: {said}", fix="see its lines above"
            )

    # Files are named as the configuration names them

    async def set_map(self, file: str, key: str, value: str) -> None:
        """Changes the value of a key that a map has."""
        await self.order(f"set map {file} {key} {value}")

    async def add_map(self, file: str, key: str, value: str) -> None:
        """Adds a key to a map."""
        await self.order(f"add map {file} {key} {value}")

    async def set_state(self, slot: str, server: str, state: str) -> None:
        """Makes a replica `ready`, lets it finish (`drain`), or takes it out (`maint`)."""
        await self.order(f"set server {slot}/{server} state {state}")

    async def stat(self) -> list[ServerStat]:
        """Returns the figures of all replicas."""
        return parse_stat(await self.ask("show stat"))
