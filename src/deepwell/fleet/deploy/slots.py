"""`SlotKeeper`: the replicas of one release in one of the two slots, from their start to their end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

import httpx

from deepwell.errors import EngineUnavailable
from deepwell.fleet.deploy.release import Release
from deepwell.fleet.deploy.replicas import LOOPBACK, MakeReplica
from deepwell.fleet.front.routes import Slot
from deepwell.process.programs import KeptProgram, Programs

if TYPE_CHECKING:
    from deepwell.fleet.front.front import Front

__all__ = ["Phase", "SlotKeeper"]

Phase = Literal["free", "starting", "serving", "retiring", "draining", "stopping"]
"""`retiring`: conversations that began here may go on; `draining`: answers under way may end; then the replicas end."""

_PROBE_S: Final = 2.0
_END_S: Final = 60.0


@dataclass(slots=True)
class _Replica:
    kept: KeptProgram
    ready: bool = False
    took: bool = field(default=False)  # the front was told that it takes requests


class SlotKeeper:
    """One slot.

    Args:
        ports: ports of its replicas.
        keys: an API key for probes and metrics; empty: the servers need none.
    """

    def __init__(
        self,
        slot: Slot,
        ports: Sequence[int],
        programs: Programs,
        make: MakeReplica,
        front: Front,
        *,
        key: str = "",
    ) -> None:
        self.slot: Slot = slot
        self.phase: Phase = "free"
        self.release: Release | None = None
        self._ports = list(ports)
        self._programs = programs
        self._make = make
        self._front = front
        self._headers = {"authorization": f"Bearer {key}"} if key else {}
        self._replicas: list[_Replica] = []
        self.was_current = False
        self._until = 0.0  # end of the phase, monotonic seconds
        self._drain_s = 0.0
        self._told_to_drain = False

    @property
    def is_ready(self) -> bool:
        """Readiness of the slot: all its replicas were ready, so that it may take users."""
        return self.phase == "serving"

    @property
    def failure(self) -> str:
        """End of a replica that was given up, in words; empty: none was."""
        return next((one.kept.last_end for one in self._replicas if one.kept.state == "failed"), "")

    def start(self, release: Release) -> None:
        """Starts the replicas of a release in a slot that is free.

        Raises:
            InvalidRequest: no program can be made of it; the slot is as it was.
        """
        assert self.phase == "free"
        made = [self._make(release, f"{self.slot}{number}", port) for number, port in enumerate(self._ports)]
        self.release, self.phase, self.was_current = release, "starting", False
        self._replicas = [_Replica(self._programs.add(one)) for one in made]

    def retire(self, conversation_s: float, drain_s: float) -> None:
        """Begins the end: conversations may go on for a while, then answers may end."""
        self.phase = "retiring" if conversation_s > 0 else "draining"
        self._until = time.monotonic() + conversation_s
        self._drain_s, self._told_to_drain = drain_s, False

    async def look(self, http: httpx.AsyncClient, alias: str) -> None:
        """Goes on as far as it can now."""
        if self.phase == "starting":
            await self._look_ready(http, alias)
        elif self.phase == "serving":
            await self._take()
        elif self.phase == "retiring" and time.monotonic() >= self._until:
            self.phase = "draining"  # the front is told next that it sends nothing here
        elif self.phase == "draining" and not self._told_to_drain:
            self._told_to_drain, self._until = True, time.monotonic() + self._drain_s
            for number in range(len(self._replicas)):
                await self._front.set_state(self.slot, number, "drain")
        elif self.phase == "draining" and (time.monotonic() >= self._until or not await self._is_busy()):
            self.phase, self._until = "stopping", time.monotonic() + _END_S
            for one in self._replicas:
                one.kept.stop()
        elif self.phase == "stopping":
            await self._look_ended()

    async def _look_ended(self) -> None:
        """Frees the slot once all its replicas have ended. One that does not end by itself is killed."""
        open_ones = [one for one in self._replicas if one.kept.state not in ("stopped", "failed")]
        if not open_ones:
            await self._end()
        elif time.monotonic() >= self._until:
            for one in open_ones:
                one.kept.kill()

    async def _look_ready(self, http: httpx.AsyncClient, alias: str) -> None:
        for one, port in zip(self._replicas, self._ports, strict=True):
            if not one.ready and one.kept.state == "ready":
                one.ready = await self._answers(http, port, alias)
        if all(one.ready for one in self._replicas):
            await self._take()
            self.phase = "serving"

    async def _answers(self, http: httpx.AsyncClient, port: int, alias: str) -> bool:
        """Returns whether a replica is ready and knows what the alias means in its release."""
        url = f"http://{LOOPBACK}:{port}"
        try:
            if (await http.get(f"{url}/readyz", timeout=_PROBE_S)).status_code != 200:
                return False
            known = await http.get(f"{url}/v1/models/{alias}", headers=self._headers, timeout=_PROBE_S)
        except httpx.HTTPError:
            return False
        return known.status_code == 200

    async def _take(self) -> None:
        for number, one in enumerate(self._replicas):
            if not one.took:
                await self._front.set_state(self.slot, number, "ready")
                one.took = True

    async def _is_busy(self) -> bool:
        try:
            found = await self._front.stat()
        except EngineUnavailable:
            return True  # it is started again, and counts what it has then
        return any(one.open_requests or one.waiting for one in found if one.slot == self.slot)

    async def _end(self) -> None:
        for number, one in enumerate(self._replicas):
            await self._front.set_state(self.slot, number, "maint")
            self._programs.forget(one.kept)
        self._replicas = []
        self.release, self.phase, self.was_current = None, "free", False

    async def metrics(self, http: httpx.AsyncClient) -> list[tuple[str, str]]:
        """Returns the metrics of the replicas that answer, each with the name of its process."""
        found: list[tuple[str, str]] = []
        for one, port in zip(self._replicas, self._ports, strict=False):
            if one.kept.state != "ready":
                continue
            try:
                answer = await http.get(
                    f"http://{LOOPBACK}:{port}/metrics", headers=self._headers, timeout=_PROBE_S
                )
            except httpx.HTTPError:
                continue
            if answer.status_code == 200:
                found.append((f"{self.slot}{port}-{one.kept.pid}", answer.text))
        return found

    def facts(self) -> dict[str, Any]:
        """Returns the slot for whoever asks how it is."""
        return {
            "slot": self.slot,
            "phase": self.phase,
            "release": None if self.release is None else self.release.facts(),
            "replicas": [
                {
                    "name": one.kept.program.name,
                    "port": port,
                    "pid": one.kept.pid,
                    "state": one.kept.state,
                    "restarts": one.kept.restarts,
                }
                for one, port in zip(self._replicas, self._ports, strict=False)
            ],
        }
