"""A server whose model says the lines of a script, and clients that wait for its runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from tests.server.conftest import Live, start
from tests.server.fakes import FakeEngine, make_service
from tests.waiting import until

from deepwell.agents.kit import AgentOptions
from deepwell.dialogue.text import Codec
from deepwell.engine.protocol import GenerateRequest
from deepwell.server.options import FileOptions
from deepwell.storage.database import Database

RUNS = "/v1/agents/runs"


@dataclass
class ScriptedEngine(FakeEngine):
    """Says the lines of a script, one a request, and then "done". Waits while `hold` is cleared."""

    max_model_len: int = 20_000
    lines: list[str] = field(default_factory=list[str])
    read: list[str] = field(default_factory=list[str])

    def _script(self, request: GenerateRequest) -> list[int]:
        self.read.append(bytes(one for one in request.prompt if one < 256).decode(errors="replace"))
        return list((self.lines.pop(0) if self.lines else "done").encode())


def call(name: str, **arguments: Any) -> str:
    """A call as small models write it."""
    return json.dumps({"name": name, "arguments": arguments})


@contextmanager
def agent_server(
    codec: Codec, folder: Path, *lines: str, tools: tuple[str, ...] = ("calculator",), **options: Any
) -> Iterator[Live]:
    """A server whose database lies in `folder`, so that another one can go on with its runs."""
    (folder / "work").mkdir(exist_ok=True)
    engine = ScriptedEngine(lines=list(lines))
    service = make_service(
        engine,
        codec,
        model="toy",
        database=Database.open(folder / "deepwell.db"),
        files=FileOptions(folder=folder / "files", job_lease_s=2.0),
        agents=AgentOptions(tools, folder / "work"),
        **options,
    )
    live = start(service, engine)
    try:
        yield live
    finally:
        live.stop()


def client_of(live: Live, key: str = "") -> httpx.Client:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    return httpx.Client(base_url=live.url, headers=headers, timeout=60)


def begin(http: httpx.Client, task: str = "What is 20 + 22?", **more: Any) -> dict[str, Any]:
    answer = http.post(RUNS, json={"model": "toy", "input": task, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


def settled(http: httpx.Client, id: str, *statuses: str) -> dict[str, Any]:
    """Returns a run once it has ended or waits, or has one of the given statuses."""
    wanted = statuses or ("completed", "incomplete", "cancelled", "failed", "requires_action")
    return until(lambda: http.get(f"{RUNS}/{id}").json(), lambda run: run["status"] in wanted)


def steps(http: httpx.Client, id: str) -> list[dict[str, Any]]:
    return [one["step"] for one in http.get(f"{RUNS}/{id}/steps").json()["data"]]
