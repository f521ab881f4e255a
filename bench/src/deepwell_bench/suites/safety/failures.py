"""The guard when a part of it fails: every failure, layer and declared end, through the routes of a server in this process."""

from __future__ import annotations

import asyncio
import json
import logging
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import httpx

from deepwell.cli.bench.report import Report
from deepwell.dialogue.model import ServedModel
from deepwell.dialogue.text import Codec
from deepwell.engine.load import open_engine
from deepwell.engine.options import EngineOptions
from deepwell.safety.findings import Finding, Layer
from deepwell.safety.guard import Guard
from deepwell.safety.normalise import Normalised
from deepwell.safety.policy import Policy
from deepwell.safety.terms.lists import Term, TermList
from deepwell.server.app import create_app
from deepwell.server.build import build_context
from deepwell.server.context import ServerContext
from deepwell.server.guarding.guard import ServerGuard
from deepwell.server.options import GuardOptions, ServerOptions
from deepwell_bench.harness.assets import bench_cache

__all__ = ["Case", "bench_failures", "cases", "policy_of"]

Failure = Literal[
    "missing list", "damaged list", "exception", "late", "unreachable", "silent", "error", "garbage"
]
"""The last four are those of a moderation service outside: nobody listens, no answer comes, a status of 500, no JSON."""
Declared = Literal["allow", "block"]

_LAYERS: Final[tuple[Layer, ...]] = ("input", "context", "output")
_LISTS: Final[tuple[Failure, ...]] = ("missing list", "damaged list")
_SERVICES: Final[tuple[Failure, ...]] = ("unreachable", "silent", "error", "garbage")
_REFUSAL: Final = "Refused by the policy."
_WITHHELD: Final = "[withheld by the guard]"
_TOKENS: Final = 8
_SERVICE_MS: Final = 300
_NO_TIME_S: Final = 1e-6
_LONG: Final = "The boat leaves at noon and returns at dusk. " * 190
"""More than the 8,192 characters that are read without a limit of time."""
_RESULT: Final = "The museum opens at nine, closes at five, and is free on the first Sunday of the month. Dogs wait outside."
_QUESTION: Final = "When does the museum open?"
_CALL: Final = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "look_up", "arguments": "{}"},
}


@dataclass(frozen=True, slots=True)
class Case:
    """A failure of the guard in one layer, what the policy declares for it, and the way the answer is asked for."""

    failure: Failure
    layer: Layer
    declared: Declared
    stream: bool

    @property
    def name(self) -> str:
        """Names the case in a report."""
        return f"{self.failure}, {self.layer}, {self.declared}, {'stream' if self.stream else 'whole'}"


@dataclass(frozen=True, slots=True)
class _Answer:
    text: str
    reason: str
    prompt_tokens: int


class _Raises:
    """A detector that raises on every text."""

    name = "raises"

    def scan(self, text: Normalised) -> list[Finding]:
        raise RuntimeError(f"out of order on {len(text.views)} readings")


def cases() -> list[Case]:
    """Returns every case. Answers are read while they are written, so that reading one is never late."""
    failures: list[Failure] = [*_LISTS, "exception", "late", *_SERVICES]
    return [
        Case(failure, layer, declared, stream)
        for failure in failures
        for layer in _LAYERS
        if (failure, layer) != ("late", "output")
        for declared in ("allow", "block")
        for stream in (False, True)
    ]


def policy_of(case: Case, url: str) -> dict[str, Any]:
    """Returns the policy of a case. Layers that do not fail are declared the other way, so that a mix-up shows.

    A list that is not there fails in every layer: then the others let pass.
    """
    other = "allow" if case.failure in _LISTS or case.declared == "block" else "block"
    ends = {layer: case.declared if layer == case.layer else other for layer in _LAYERS}
    policy: dict[str, Any] = {"version": 1, "refusal": {"en": _REFUSAL, "zh": _REFUSAL}}
    if case.failure in _LISTS:
        policy["terms"] = ["own"]
    if case.failure in _SERVICES:
        policy["external"] = {
            "own": {
                "kind": "openai",
                "url": url,
                "layers": [case.layer],
                "timeout_ms": _SERVICE_MS,
                "retries": 0,
                "on_failure": case.declared,
            }
        }
        # What a service's own failure blocks, the layer must block too.
        ends[case.layer] = "block"
    return policy | {layer: {"on_failure": end} for layer, end in ends.items()}


def bench_failures(report: Report, model: Path) -> dict[str, Any]:
    """Returns the number of cases, and the names of those that do not end as their policy declares.

    A blocked request or answer is a refusal with the finish reason `content_filter`, a blocked tool result is withheld from the
    model; what passes is answered word for word as by the same server without a guard.
    """
    engine = open_engine(model, EngineOptions(kv_tokens=16_384, cache_dir=bench_cache()), quiet=True)
    # every case logs what failed, as it should
    logging.disable(logging.CRITICAL)
    try:
        with tempfile.TemporaryDirectory(prefix="bench-failures-") as folder:
            wrong = asyncio.run(_run(ServedModel("model", engine, Codec.load(model)), Path(folder)))
    finally:
        logging.disable(logging.NOTSET)
        engine.close()
    counted, failing = Counter(one.failure for one in cases()), Counter(one.failure for one in wrong)
    report.table(
        "Failures of the guard",
        ("failure", "cases", "as declared"),
        [(name, str(number), str(number - failing[name])) for name, number in counted.items()],
    )
    return {
        "cases": sum(counted.values()),
        "failures": len(counted),
        "as_declared": sum(counted.values()) - len(wrong),
        "wrong": [one.name for one in wrong],
    }


async def _run(model: ServedModel, folder: Path) -> list[Case]:
    expected: dict[tuple[str, str], _Answer] = {}
    plain = build_context([model])
    for text, result in ((_QUESTION, _RESULT), (_QUESTION, _WITHHELD), (_LONG, _RESULT), (_QUESTION, _LONG)):
        expected[text, result] = await _asked(plain, text, result, stream=False)
    wrong: list[Case] = []
    async with _services() as urls:
        for number, case in enumerate(cases()):
            home = folder / str(number)
            home.mkdir()
            context = _context(model, case, home, urls.get(case.failure, ""))
            text, result = _told(case)
            answer = await _asked(context, text, result, stream=case.stream)
            if not _is_declared(case, answer, expected):
                wrong.append(case)
    return wrong


def _context(model: ServedModel, case: Case, folder: Path, url: str) -> ServerContext:
    path, lists = folder / "policy.json", folder / "terms"
    path.write_text(json.dumps(policy_of(case, url)), encoding="utf-8")
    if case.failure == "damaged list":
        TermList("own", [Term("xyzzy", "politics", "block")], "test", "none", "0" * 64).write(lists)
        for file in (lists / "own").glob("*.tsv"):
            file.write_bytes(file.read_bytes()[:-9])
    options = GuardOptions(str(path), lists, _NO_TIME_S if case.failure == "late" else 2.0)
    context = build_context([model], ServerOptions(guard=options))
    if case.failure == "exception":
        guard = Guard({case.layer: [_Raises()]}, Policy.load(path))
        context.main.guard = ServerGuard(options, context.main.metrics, guard)
    return context


def _told(case: Case) -> tuple[str, str]:
    """Returns what the user says and what the tool returns: the one of the layer is long where its reading is to be late."""
    late = case.failure == "late"
    return _LONG if late and case.layer == "input" else _QUESTION, (
        _LONG if late and case.layer == "context" else _RESULT
    )


def _is_declared(case: Case, answer: _Answer, expected: dict[tuple[str, str], _Answer]) -> bool:
    text, result = _told(case)
    if case.declared == "allow":
        return answer == expected[text, result]
    if case.layer == "context":
        return answer == expected[text, _WITHHELD]
    return answer.reason == "content_filter" and answer.text == _REFUSAL


async def _asked(context: ServerContext, text: str, result: str, *, stream: bool) -> _Answer:
    body = {
        "model": "model",
        "messages": [
            {"role": "user", "content": text},
            {"role": "assistant", "content": "", "tool_calls": [_CALL]},
            {"role": "tool", "tool_call_id": "call_1", "content": result},
        ],
        "max_tokens": _TOKENS,
        "temperature": 0,
        "stream": stream,
        **({"stream_options": {"include_usage": True}} if stream else {}),
    }
    transport = httpx.ASGITransport(create_app(context))
    async with httpx.AsyncClient(transport=transport, base_url="http://bench", timeout=600) as client:
        response = await client.post("/v1/chat/completions", json=body)
    if response.status_code != 200:
        return _Answer(response.text, f"status {response.status_code}", 0)
    found: list[dict[str, Any]] = list(_events(response.text)) if stream else [response.json()]
    return _joined(found)


def _events(body: str) -> Iterator[dict[str, Any]]:
    for line in body.splitlines():
        if line.startswith("data: {"):
            yield json.loads(line.removeprefix("data: "))


def _joined(found: Sequence[dict[str, Any]]) -> _Answer:
    text, reason, tokens = "", "", 0
    for one in found:
        for choice in one.get("choices", ()):
            told = choice.get("delta") or choice.get("message") or {}
            text += told.get("content") or ""
            reason = choice.get("finish_reason") or reason
        tokens = (one.get("usage") or {}).get("prompt_tokens", tokens)
    return _Answer(text, reason, tokens)


@asynccontextmanager
async def _services() -> AsyncIterator[dict[Failure, str]]:
    """Yields the addresses of moderation services that fail, each in its own way."""
    ended = asyncio.Event()

    async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await ended.wait()
        writer.close()

    def answering(status: str, told: bytes) -> Any:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(told)}\r\n"
            writer.write(f"{head}Connection: close\r\n\r\n".encode() + told)
            await writer.drain()
            writer.close()

        return answer

    handlers: dict[Failure, Any] = {
        "silent": silent,
        "error": answering("500 Internal Server Error", b"{}"),
        "garbage": answering("200 OK", b"<html>no JSON</html>"),
        "unreachable": silent,
    }
    servers: dict[Failure, asyncio.Server] = {
        name: await asyncio.start_server(one, "127.0.0.1", 0) for name, one in handlers.items()
    }
    urls: dict[Failure, str] = {
        name: f"http://127.0.0.1:{one.sockets[0].getsockname()[1]}/v1/moderations"
        for name, one in servers.items()
    }
    # nobody listens at its port any more
    servers["unreachable"].close()
    try:
        yield urls
    finally:
        ended.set()
        for one in servers.values():
            one.close()
