"""`SlotKeeper`: the replicas of one release in one of the two slots, from their start to their end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
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
_WARM_S: Final = 120.0
_WARM_AGAIN_S: Final = 1.0
_TELL_S: Final = 5.0
_MOST_NAMES: Final = 20
_MOST_SAID: Final = 300
_END_S: Final = 60.0


@dataclass(slots=True)
class _FirstRequest:
    """The request that a replica answers before users come."""

    generates: bool = True  # whether its model answers with text
    task: asyncio.Task[None] | None = None
    answered: bool = False  # with a token, a vector or a score
    why: str = ""  # it was not, the last time
    refused: bool = False  # with an error of the client, which no waiting mends
    again: float = 0.0  # before which it is not sent again, monotonic seconds


@dataclass(slots=True)
class _Replica:
    kept: KeptProgram
    ready: bool = False
    first: _FirstRequest = field(default_factory=_FirstRequest)
    took: bool = field(default=False)  # the front was told that it takes requests
    strange_since: float | None = None  # since when it is ready and does not know the alias
    waits: str = "it does not listen"  # for what, in words
    told: bool = False


class SlotKeeper:
    """One slot.

    Args:
        ports: ports of its replicas.
        keys: an API key for probes and metrics; empty: the servers need none.
        tell: takes what a replica waits for that nobody but a person can mend: its name, and the words.
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
        tell: Callable[[str, str], None] = lambda _name, _text: None,
    ) -> None:
        self._tell = tell
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
        self._began = 0.0  # of the start, monotonic seconds
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

    @property
    def unanswered(self) -> str:
        """Reason for which replicas brought no token for their first requests, in words; empty: all that were asked did."""
        said = (
            f"{one.kept.program.name}: {one.first.why}"
            for one in self._replicas
            if one.first.why and not one.ready
        )
        return "; ".join(said)

    @property
    def refused(self) -> bool:
        """Refusal of a first request by a replica, which no waiting makes ready."""
        return any(one.first.refused and not one.ready for one in self._replicas)

    def accept_unanswered(self) -> None:
        """Takes replicas for ready that brought no token: the release serves already, and nothing better is there."""
        for one in self._replicas:
            one.ready = one.ready or bool(one.first.why)

    def late(self, seconds: float) -> str:
        """Returns which replicas are not ready after a time, and what each waits for; empty: it may go on."""
        if self.phase != "starting" or time.monotonic() - self._began < seconds:
            return ""
        return "; ".join(f"{one.kept.program.name}: {one.waits}" for one in self._replicas if not one.ready)

    def start(self, release: Release) -> None:
        """Starts the replicas of a release in a slot that is free.

        Raises:
            InvalidRequest: no program can be made of it; the slot is as it was.
        """
        assert self.phase == "free"
        made = [self._make(release, f"{self.slot}{number}", port) for number, port in enumerate(self._ports)]
        self.release, self.phase, self.was_current = release, "starting", False
        self._began = time.monotonic()
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
            if one.ready or one.kept.state != "ready":
                continue
            first = one.first
            if first.task is not None and first.task.done():
                one.ready, one.waits = first.answered, first.why
                first.task, first.again = None, time.monotonic() + _WARM_AGAIN_S
            elif first.task is not None or time.monotonic() < first.again:
                continue
            elif await self._answers(http, one, port, alias):
                one.waits = "it answers its first request"
                first.task = asyncio.create_task(self._warm(http, first, port, alias))
        if all(one.ready for one in self._replicas):
            await self._take()
            self.phase = "serving"

    async def _answers(self, http: httpx.AsyncClient, one: _Replica, port: int, alias: str) -> bool:
        """Returns whether a replica is ready and knows what the alias means in its release."""
        url = f"http://{LOOPBACK}:{port}"
        try:
            ready = await http.get(f"{url}/readyz", timeout=_PROBE_S)
            if ready.status_code != 200:
                one.strange_since, one.waits = None, f"/readyz answers {ready.status_code}"
                return False
            known = await http.get(f"{url}/v1/models/{alias}", headers=self._headers, timeout=_PROBE_S)
            if known.status_code != 200:
                one.waits = f"/v1/models/{alias} answers {known.status_code}"
                await self._wait(http, one, url, alias, known.status_code)
        except httpx.HTTPError as error:
            one.waits = f"it listens, and does not answer ({type(error).__name__})"
            return False
        one.first.generates = b'"default_sampling"' in known.content
        return known.status_code == 200

    async def _wait(self, http: httpx.AsyncClient, one: _Replica, url: str, alias: str, status: int) -> None:
        """Tells once of a replica that is ready and has not known the alias for some seconds: it never may."""
        now = time.monotonic()
        one.strange_since = now if one.strange_since is None else one.strange_since
        if one.told or now - one.strange_since < _TELL_S:
            return
        served = await _models_of(http, url, self._headers)
        one.told = True
        assert self.release is not None
        name = one.kept.program.name
        said = f"{name} is ready, but answers {status} for /v1/models/{alias}, so that it gets no users"
        if status in (401, 403):
            said += "; fix: give the deployment a key that its replicas take (DEEPWELL_API_KEYS, or `deepwell keys`)"
        else:
            names = ", ".join(served) or "no model that it names"
            said += (
                f"; {alias} means {self.release.model} in {self.release.name}, and it serves {names};"
                f" fix: let it mean one of them: deepwell models alias set {alias} MODEL,"
                " or abort the roll-out and register a version of such a model"
            )
        self._tell(name, said)

    async def _warm(self, http: httpx.AsyncClient, first: _FirstRequest, port: int, alias: str) -> None:
        """Has a replica bring a token, or a vector, and notes why it did not.

        Users do not wait for what a server does at its first request alone, and none of them is the first to see a version
        that answers nobody. The gates do not count the request: it is over before the first look at the replica's metrics.
        """
        asked: list[tuple[str, dict[str, Any]]] = [
            ("/v1/embeddings", {"input": "."}),
            ("/v1/rerank", {"query": ".", "documents": ["."]}),
        ]
        if first.generates:
            words = [{"role": "user", "content": "."}]
            asked = [("/v1/chat/completions", {"messages": words, "max_tokens": 1})]
        first.why, first.refused = "", False
        for path, body in asked:
            url = f"http://{LOOPBACK}:{port}{path}"
            try:
                answer = await http.post(
                    url, json={"model": alias, **body}, headers=self._headers, timeout=_WARM_S
                )
            except httpx.HTTPError as error:
                first.why = f"it does not answer its first request ({type(error).__name__})"
                return
            first.answered = answer.status_code == 200 and _brings_something(answer)
            if first.answered:
                return
            said = f": {_said(answer)}" if answer.status_code != 200 else " without a token"
            first.why = f"it answers its first request with {answer.status_code}{said}"
            first.refused = 400 <= answer.status_code < 500 and answer.status_code not in (408, 429)

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
            if one.first.task is not None:
                one.first.task.cancel()
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


async def _models_of(http: httpx.AsyncClient, url: str, headers: dict[str, str]) -> list[str]:
    """Returns the first names that a replica lists; none where its answer has no list of them."""
    answer = await http.get(f"{url}/v1/models", headers=headers, timeout=_PROBE_S)
    try:
        return [str(one["id"])[:200] for one in answer.json()["data"]][:_MOST_NAMES]
    except (ValueError, KeyError, TypeError, RecursionError):
        return []


def _brings_something(answer: httpx.Response) -> bool:
    """Returns whether an answer has a token, a vector or a score."""
    try:
        told = answer.json()
        if "choices" in told:
            return int(told["usage"]["completion_tokens"]) >= 1
        return bool(told.get("data") or told.get("results"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False


def _said(answer: httpx.Response) -> str:
    try:
        said = str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError, RecursionError):
        said = answer.text
    return " ".join(said.split())[:_MOST_SAID]
