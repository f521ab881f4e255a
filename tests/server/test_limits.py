"""Limits as a client meets them: refusals with their headers, time, cache directives, and the queue."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any, cast

import httpx
import openai
import pytest
from fastapi import APIRouter, FastAPI, Request
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import RootModel
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from tests.server.conftest import start
from tests.server.fakes import FakeEngine, make_service

from deepwell.dialogue.text import Codec
from deepwell.engine.protocol import Delta, EngineStats, GenerateRequest
from deepwell.server.access.admission import Admission, Overloaded
from deepwell.server.access.limit_table import LimitTable
from deepwell.server.access.principal import Principal
from deepwell.server.access.quota import RateLimits
from deepwell.server.app import create_app, route_table
from deepwell.server.http.body_room import free_body_in
from deepwell.server.http.errors import BodyRefused
from deepwell.server.http.json_route import JsonRoute
from deepwell.server.http.middleware import BodyLimit
from deepwell.server.options import LimitsConfig
from deepwell.storage.database import Tenant

CHAT: dict[str, Any] = {
    "model": "toy",
    "messages": [{"role": "user", "content": "hi"}],
    "max_tokens": 10,
    "temperature": 0,
}
Client = AbstractAsyncContextManager[httpx.AsyncClient]
Serve = Callable[..., Client]


@pytest.fixture
def serve(engine: FakeEngine, codec: Codec) -> Serve:
    @asynccontextmanager
    async def run(*rates: int, cache: int = 0, **config: float) -> AsyncIterator[httpx.AsyncClient]:
        limits = LimitsConfig(rates=RateLimits(*rates), **config)  # pyright: ignore[reportArgumentType]
        service = make_service(engine, codec, model="toy", limits=limits, response_cache_bytes=cache)
        transport = httpx.ASGITransport(create_app(service), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            yield client
        await service.close_state()

    return run


async def test_requests_over_the_limit_are_told_when_to_come_again(serve: Serve, engine: FakeEngine) -> None:
    async with serve(2) as http:
        for left in ("1", "0"):
            answer = await http.post("/v1/chat/completions", json=CHAT)
            assert answer.status_code == 200
            assert answer.headers["x-ratelimit-limit-requests"] == "2"
            assert answer.headers["x-ratelimit-remaining-requests"] == left
        refused = await http.post("/v1/chat/completions", json=CHAT)
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert refused.headers["retry-after"] == "30"
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"
        assert len(engine.seen) == 2
        assert (await http.get("/readyz")).status_code == 200
        anthropic = await http.post("/v1/messages", json=CHAT)
        assert anthropic.json()["error"]["type"] == "rate_limit_error"


@pytest.mark.parametrize("stream", [False, True])
async def test_tokens_are_reserved_in_full_and_settled_by_use(
    engine: FakeEngine, codec: Codec, stream: bool
) -> None:
    service = make_service(engine, codec, model="toy", limits=LimitsConfig(rates=RateLimits(0, 100)))
    service.limiter.store = LimitTable(clock=lambda: 100.0)  # nothing comes back by itself
    transport = httpx.ASGITransport(create_app(service), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        answer = await http.post("/v1/chat/completions", json=CHAT | {"stream": stream})
        assert answer.status_code == 200
        reserved = 100 - int(answer.headers["x-ratelimit-remaining-tokens"])
        again = await http.post("/v1/chat/completions", json=CHAT | {"max_tokens": 1, "stream": stream})
        used = 100 - int(again.headers["x-ratelimit-remaining-tokens"]) - (reserved - 9)
        assert reserved > used > 0
        assert reserved - used == 10 - 3  # "hi" and the end, which this engine counts, came of ten


async def test_too_many_tokens_are_a_429_before_the_stream_begins(serve: Serve, engine: FakeEngine) -> None:
    async with serve(0, 100) as http:
        first = await http.post("/v1/chat/completions", json=CHAT | {"max_tokens": 400, "ignore_eos": True})
        assert first.status_code == 200  # larger than the limit: it needs a full bucket, and leaves a debt
        refused = await http.post("/v1/chat/completions", json=CHAT | {"stream": True})
        assert refused.status_code == 429
        assert "tokens a minute" in refused.json()["error"]["message"]
        assert int(refused.headers["retry-after"]) > 60
        assert len(engine.seen) == 1


async def test_a_hang_up_pays_for_what_was_generated(engine: FakeEngine, codec: Codec) -> None:
    service = make_service(engine, codec, model="toy", limits=LimitsConfig(rates=RateLimits(0, 10_000)))
    live = start(service, engine)
    try:
        async with httpx.AsyncClient(base_url=live.url, timeout=60) as http:
            body = CHAT | {"stream": True, "ignore_eos": True, "max_tokens": 450}
            async with http.stream("POST", "/v1/chat/completions", json=body) as answer:
                async for _ in answer.aiter_lines():
                    break
            assert await asyncio.to_thread(engine.ended.wait, 30)
            after = await http.post("/v1/chat/completions", json=CHAT | {"max_tokens": 1})
            assert int(after.headers["x-ratelimit-remaining-tokens"]) > 10_000 - 450
    finally:
        live.stop()


async def test_embeddings_count_their_tokens(serve: Serve) -> None:
    async with serve(0, 60) as http:
        answer = await http.post("/v1/embeddings", json={"model": "toy", "input": "x" * 50})
        assert answer.status_code == 200
        assert int(answer.headers["x-ratelimit-remaining-tokens"]) < 12
        assert (
            await http.post("/v1/embeddings", json={"model": "toy", "input": "x" * 50})
        ).status_code == 429


def test_every_route_counts_but_those_of_supervisors_and_browsers() -> None:
    routes = route_table()
    free = {path for _, path in routes.operations if not routes.is_limited(path)}
    assert free == routes.open_paths | {"/metrics"}
    assert routes.is_limited("/v1/nothing") and routes.is_limited("/tokenize/")
    assert not routes.is_limited("/openapi.json")


async def test_requests_outside_v1_count_and_have_a_deadline(engine: FakeEngine, codec: Codec) -> None:
    """Clients of vLLM and Cohere send `/tokenize` and `/v2/rerank`."""
    limits = LimitsConfig(rates=RateLimits(1), request_timeout_s=60)
    app = create_app(make_service(engine, codec, model="toy", limits=limits))
    seen: list[Scope] = []

    async def noted(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)
        await app(scope, receive, send)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(noted), base_url="http://test") as http:
        answer = await http.post("/tokenize", json={"prompt": "a"})
        assert answer.status_code == 200 and answer.headers["x-ratelimit-remaining-requests"] == "0"
        assert (await http.post("/v2/rerank", json={})).status_code == 429
        assert (await http.get("/health")).status_code == 200
    assert all(scope["state"]["timeout_s"] == limits.request_timeout_s for scope in seen[:2])
    assert "deadline" not in seen[2]["state"]


async def test_the_sdk_reads_the_refusal(engine: FakeEngine, codec: Codec) -> None:
    live = start(make_service(engine, codec, model="toy", limits=LimitsConfig(rates=RateLimits(1))), engine)
    try:
        with openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0) as client:
            client.models.list()
            with pytest.raises(openai.RateLimitError) as refused:
                client.models.list()
            assert refused.value.response.headers["retry-after"] == "60"
    finally:
        live.stop()


class EngineOfHours(FakeEngine):
    """Endless answers. Two hours pass on the clock of the event loop when one has begun."""

    async def generate(self, request: GenerateRequest) -> AsyncIterator[Delta]:
        loop = asyncio.get_running_loop()
        now, left = loop.time, 50
        async with aclosing(super().generate(request)) as deltas:  # type: ignore[type-var]
            async for delta in deltas:
                yield delta
                left -= 1
                if not left:
                    loop.time = lambda: now() + 7200


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_that_takes_too_long_ends_with_an_error(codec: Codec, stream: bool) -> None:
    engine = EngineOfHours(endless=True)
    service = make_service(engine, codec, model="toy", limits=LimitsConfig(request_timeout_s=3600))
    live = start(service, engine)
    try:
        async with httpx.AsyncClient(base_url=live.url, timeout=60) as http:
            body = CHAT | {"ignore_eos": True, "stream": stream}
            answer = await http.post("/v1/chat/completions", json=body)
            assert answer.status_code == (200 if stream else 504)
            assert '"code":"request_timeout"' in answer.text
            assert "[DONE]" not in answer.text
            assert engine.ended.wait(30)
    finally:
        live.stop()


async def test_a_body_that_does_not_come_is_a_408(engine: FakeEngine, codec: Codec) -> None:
    live = start(make_service(engine, codec, model="toy", limits=LimitsConfig(request_timeout_s=0.2)), engine)
    try:
        host, port = live.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
            b"content-length: 100\r\n\r\n{"
        )
        answer = await asyncio.wait_for(reader.read(), 30)
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"did not come within 0.2 s" in answer
        writer.close()
    finally:
        live.stop()


BODY: dict[str, Any] = {"type": "http", "method": "POST", "path": "/", "headers": []}


async def asked(limit: ASGIApp, size: int, client: str = "1.2.3.4", **scope: Any) -> list[Message]:
    """Sends a body that is there at once; returns the answer."""
    answer: list[Message] = []
    sent = False

    async def receive() -> Message:
        nonlocal sent
        if sent:
            await asyncio.Event().wait()
        sent = True
        return {"type": "http.request", "body": b'"' + b"x" * (size - 2) + b'"', "more_body": False}

    async def send(message: Message) -> None:
        answer.append(message)

    await limit(BODY | {"client": (client, 1)} | scope, receive, send)
    return answer


def refusals(tasks: Sequence[asyncio.Task[Any]]) -> list[asyncio.Task[Any]]:
    refused = [task for task in tasks if task.done()]
    for task in refused:
        error = task.exception()
        assert isinstance(error, BodyRefused) and error.status_code == 503
    return refused


async def test_large_bodies_share_the_memory_and_small_ones_are_not_counted() -> None:
    size = 1 << 20
    read: list[int] = []
    done = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        read.append(len((await receive())["body"]))
        await done.wait()

    limit = BodyLimit(app, size)
    large = [asyncio.create_task(asked(limit, size, f"1.2.3.{number % 4}")) for number in range(40)]
    await asyncio.sleep(0)
    refused = refusals(large)
    assert 2 <= len(refused) <= 8
    small = [asyncio.create_task(asked(limit, 60_000)) for _ in range(100)]
    await asyncio.sleep(0)
    assert len(read) == 140 - len(refused)
    done.set()
    await asyncio.gather(*small, *(task for task in large if task not in refused))
    await asyncio.gather(*(asked(limit, size, f"1.2.3.{number % 4}") for number in range(30)))


@pytest.mark.parametrize("keys", [False, True])
async def test_large_bodies_of_one_tenant_or_address_leave_half_of_the_memory_to_others(keys: bool) -> None:
    size = 1 << 20
    done = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await done.wait()

    limit = BodyLimit(app, size)

    def ask(name: str, number: int) -> asyncio.Task[Any]:
        if not keys:
            return asyncio.create_task(asked(limit, size, name))
        state = {"principal": Principal(Tenant(name), f"key {number}")}
        return asyncio.create_task(asked(limit, size, f"1.1.1.{number}", state=state))

    hoarder = [ask("a", number) for number in range(40)]
    await asyncio.sleep(0)
    refused = refusals(hoarder)
    assert 20 <= len(refused) <= 24
    others = [ask("b", number) for number in range(16)]
    await asyncio.sleep(0)
    assert not refusals(others)
    done.set()
    await asyncio.gather(*others, *(task for task in hoarder if task not in refused))


class Text(RootModel[str]):
    """Any text."""


async def test_a_body_that_was_parsed_takes_no_room_while_its_answer_goes_on() -> None:
    running = 0
    done = asyncio.Event()
    routes = APIRouter(route_class=JsonRoute)

    @routes.post("/")
    async def echo(request: Request, body: Text) -> Response:
        nonlocal running
        running += 1
        await done.wait()
        return Response(b"%d" % len(body.root))

    app = FastAPI()
    app.router.routes += routes.routes
    limit = BodyLimit(app, 1 << 20)
    headers = [(b"content-type", b"application/json")]
    tasks = [
        asyncio.create_task(asked(limit, 1 << 20, headers=headers, query_string=b"", root_path=""))
        for _ in range(100)
    ]
    while running < 100:
        assert [task.result() for task in tasks if task.done()] == []
        await asyncio.sleep(0)
    done.set()
    for answer in await asyncio.gather(*tasks):
        assert answer[0]["status"] == 200 and answer[1]["body"] == b"%d" % ((1 << 20) - 2)


async def test_a_hang_up_takes_no_room() -> None:
    parsed = asyncio.Event()
    left = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        if scope["path"] == "/parsed":
            free_body_in(scope)
            parsed.set()
            assert (await receive())["type"] == "http.disconnect"
        else:
            await left.wait()

    size = 1 << 20
    limit = BodyLimit(app, size)
    messages: list[Message] = [{"type": "http.request", "body": b"x" * size, "more_body": False}]

    async def receive() -> Message:
        if messages:
            return messages.pop()
        await left.wait()
        return {"type": "http.disconnect"}

    scope = BODY | {"path": "/parsed", "client": ("1.2.3.4", 1)}
    first = asyncio.create_task(_passed(limit, scope, receive))
    await parsed.wait()
    others = [asyncio.create_task(asked(limit, size)) for _ in range(20)]
    await asyncio.sleep(0)
    assert refusals(others), "the room of this address is full"
    left.set()
    await first


async def _passed(limit: BodyLimit, scope: Scope, receive: Receive) -> None:
    await limit(scope, receive, cast(Send, None))


@pytest.mark.parametrize("zeros", [1, 19, 30])
async def test_a_length_with_zeros_before_it_is_as_long(zeros: int) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("a large body comes through")

    length = b"0" * zeros + b"%d" % (2 << 20)
    answer = await asked(BodyLimit(app, 1 << 20), 2 << 20, headers=[(b"content-length", length)])
    assert answer[0]["status"] == 413


async def test_a_small_body_that_is_there_costs_no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    timers: list[float] = []
    monkeypatch.setattr(loop, "call_at", lambda when, *_, **__: timers.append(when))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["body"]

    await asked(BodyLimit(app, 1 << 20), 100, headers=[(b"content-length", b"100")])
    assert not timers


class Pieces:
    """A client that sends the pieces of a body, each after some turns of the event loop."""

    def __init__(self, pieces: Sequence[tuple[bytes, int]]) -> None:
        self._left = list(pieces)
        self.cancelled = False

    async def receive(self) -> Message:
        data, turns = self._left.pop(0)
        try:
            for _ in range(turns):
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        return {"type": "http.request", "body": data, "more_body": bool(self._left)}


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.binary(max_size=3000), st.integers(0, 3)), min_size=1, max_size=8))
def test_bodies_arrive_whole_however_they_come(pieces: list[tuple[bytes, int]]) -> None:
    found: list[bytes] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        more = True
        while more:
            message = await receive()
            found.append(message["body"])
            more = message["more_body"]

    client = Pieces(pieces)
    asyncio.run(BodyLimit(app, 1 << 20)(BODY, client.receive, cast(Send, None)))  # pyright: ignore[reportArgumentType]
    assert found == [data for data, _ in pieces]


async def test_a_request_that_waits_for_its_body_can_be_cancelled() -> None:
    client = Pieces([(b"x", 1 << 30)])

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()

    waiting = asyncio.create_task(_run(BodyLimit(app, 1 << 20), client))
    for _ in range(3):
        await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert client.cancelled


async def _run(limit: BodyLimit, client: Pieces) -> None:
    await limit(BODY, client.receive, cast(Send, None))


class QueueEngine(FakeEngine):
    """Reports a queue."""

    queue: EngineStats = EngineStats()

    def stats(self) -> EngineStats:
        return self.queue


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def waiting(admitted: int, **tenants: int) -> EngineStats:
    return EngineStats(
        waiting=sum(tenants.values()), waiting_by_tenant=tuple(tenants.items()), admitted=admitted
    )


def test_the_expected_wait_is_the_fair_queue_over_the_measured_rate() -> None:
    engine, clock = QueueEngine(), Clock()
    admission = Admission(engine, 10, clock)
    engine.queue = waiting(100, a=50, b=3)
    admission.check("a", 0)  # a queue that has just begun tells nothing yet
    clock.now = 5.0
    engine.queue = waiting(109, a=50, b=3)  # ten in five seconds, with the one on its way
    admission._sample(clock.now)  # pyright: ignore[reportPrivateUsage]
    assert admission.expected_wait_s("a", clock.now) == pytest.approx((50 + 3) / 2)
    assert admission.expected_wait_s("b", clock.now) == pytest.approx((3 + 4) / 2)
    assert admission.expected_wait_s("c", clock.now) == pytest.approx(2 / 2)
    with pytest.raises(Overloaded) as refused:
        admission.check("a", 0)
    assert refused.value.retry_after == 17
    assert refused.value.status == 503
    admission.check("c", 0)
    admission.check("a", -1)  # batches wait as long as it takes
    engine.queue = waiting(150)
    clock.now = 6.0
    admission.check("a", 0)


def admitted_of(admission: Admission, tries: int) -> int:
    """How many requests of a tenant are let in, of so many at once."""
    for number in range(tries):
        try:
            admission.check("a", 0)
        except Overloaded:
            return number
    return tries


def test_a_burst_between_two_samples_counts() -> None:
    engine, clock = QueueEngine(), Clock()
    admission = Admission(engine, 5, clock)
    engine.queue = waiting(0, a=1)
    admission.check("a", 0)
    clock.now = 9.0
    assert admitted_of(admission, 1000) == 0  # one in nine seconds is too slow for anybody
    engine.queue = waiting(89, a=1)
    clock.now = 9.5
    assert 40 <= admitted_of(admission, 1000) <= 60


async def test_an_overloaded_engine_refuses_with_a_time(codec: Codec) -> None:
    engine = QueueEngine()
    service = make_service(engine, codec, model="toy", limits=LimitsConfig(max_wait_s=1))
    clock = Clock()
    service.main.gate.admission = Admission(engine, 1, clock)
    engine.queue = waiting(0, local=10)
    transport = httpx.ASGITransport(create_app(service), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        assert (await http.post("/v1/chat/completions", json=CHAT)).status_code == 200
        clock.now = 10.0
        refused = await http.post("/v1/chat/completions", json=CHAT | {"stream": True})
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "overloaded"
        assert int(refused.headers["retry-after"]) > 60


async def test_an_answer_that_is_kept_costs_no_tokens_and_says_so(serve: Serve) -> None:
    async with serve(0, 1000, cache=1 << 20) as http:
        left: list[int] = []
        said: list[str] = []
        for _ in range(4):
            answer = await http.post("/v1/chat/completions", json=CHAT)
            said.append(answer.headers["x-deepwell-cache"])
            left.append(int(answer.headers["x-ratelimit-remaining-tokens"]))
        assert said == ["miss", "hit", "hit", "hit"]
        assert left[1] == left[2] == left[3] > left[0]


async def test_cache_control_of_a_request_is_obeyed(serve: Serve, engine: FakeEngine) -> None:
    async with serve(cache=1 << 20) as http:

        async def ask(directive: str = "") -> str | None:
            headers = {"cache-control": directive} if directive else {}
            answer = await http.post("/v1/chat/completions", json=CHAT, headers=headers)
            return answer.headers.get("x-deepwell-cache")

        assert [await ask() for _ in range(3)] == ["miss", "hit", "hit"]
        assert await ask("no-store") is None
        assert await ask("max-age=0, No-Cache") == "miss"
        assert len(engine.seen) == 3
        assert await ask() == "hit"
        assert await ask("max-age=60") == "hit"
        random = await http.post("/v1/chat/completions", json=CHAT | {"temperature": 1})
        assert "x-deepwell-cache" not in random.headers


async def test_joined_answers_say_so_in_streams_too(serve: Serve) -> None:
    async with serve(cache=1 << 20) as http:
        body = CHAT | {"stream": True}
        answers = await asyncio.gather(*(http.post("/v1/chat/completions", json=body) for _ in range(3)))
        assert sorted(answer.headers["x-deepwell-cache"] for answer in answers) == [
            "joined",
            "joined",
            "miss",
        ]


def same(body: dict[str, Any]) -> dict[str, Any]:
    return body | {"id": "", "created": 0}


@pytest.mark.parametrize(
    ("path", "change"),
    [
        ("/v1/chat/completions", {}),
        ("/v1/chat/completions", {"n": 2, "logprobs": True, "temperature": 0.7, "seed": 3}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": '"created":1, "id":"x" \\" é'}]}),
        ("/v1/completions", {"prompt": ["a b", '"created":2'], "echo": True, "messages": None}),
    ],
)
async def test_a_replayed_answer_is_the_one_that_the_routes_give(
    serve: Serve, path: str, change: dict[str, Any]
) -> None:
    body = {name: value for name, value in (CHAT | change).items() if value is not None}
    async with serve(cache=1 << 20) as http:
        answers = [await http.post(path, json=body) for _ in range(4)]
        bodies = [answer.json() for answer in answers]
        assert same(bodies[1]) == same(bodies[2]) == same(bodies[3])
        assert len({body["id"] for body in bodies}) == 4
        assert len({body["id"].partition("-")[0] for body in bodies}) == 1
        assert {len(body["id"]) for body in bodies} == {len(bodies[0]["id"])}
        assert [dict(answer.headers) | {"x-request-id": ""} for answer in answers[2:]] == [
            dict(answers[1].headers) | {"x-request-id": ""}
        ] * 2
        metrics = (await http.get("/metrics")).text
        assert f'deepwell_requests_total{{route="{path}",status="200"}} 4.0' in metrics
        choices = len(bodies[0]["choices"])
        assert f'deepwell_response_cache_lookups_total{{result="hit"}} {3.0 * choices}' in metrics


async def test_what_is_stored_or_brings_calls_or_differs_in_a_byte_goes_through_the_routes(
    serve: Serve, engine: FakeEngine
) -> None:
    async with serve(cache=1 << 20) as http:
        stored = [
            (await http.post("/v1/chat/completions", json=CHAT | {"store": True})).json() for _ in range(4)
        ]
        for body in stored:
            assert (await http.get(f"/v1/chat/completions/{body['id']}")).status_code == 200
        for _ in range(3):
            await http.post("/v1/chat/completions", json=CHAT)
        wrong = await http.post(
            "/v1/chat/completions", content=httpx.Request("POST", "http://x", json=CHAT).content
        )
        assert wrong.status_code == 400  # the same bytes without a content type
        assert (await http.post("/v1/chat/completions", json=CHAT | {"model": "other"})).status_code == 404
        engine.load_adapter("other", "x")
        assert (await http.post("/v1/chat/completions", json=CHAT | {"model": "other"})).status_code == 200
        engine.unload_adapter("other")
        assert (await http.post("/v1/chat/completions", json=CHAT | {"model": "other"})).status_code == 404


async def test_an_adapter_that_is_swapped_is_asked_again(serve: Serve, engine: FakeEngine) -> None:
    async with serve(cache=1 << 20) as http:
        engine.load_adapter("a", "x")
        for _ in range(3):
            await http.post("/v1/chat/completions", json=CHAT | {"model": "a"})
        assert len(engine.seen) == 1
        engine.loaded["a"] = replace(engine.loaded["a"], digest="1" * 32)
        answer = await http.post("/v1/chat/completions", json=CHAT | {"model": "a"})
        assert answer.headers["x-deepwell-cache"] == "miss" and len(engine.seen) == 2


async def test_bodies_that_are_too_long_are_refused_in_front_of_the_replay(
    serve: Serve, engine: FakeEngine, codec: Codec
) -> None:
    service = make_service(engine, codec, model="toy", response_cache_bytes=1 << 20, max_body_bytes=1024)
    transport = httpx.ASGITransport(create_app(service), raise_app_exceptions=False)

    async def chunks() -> AsyncIterator[bytes]:
        yield b"{" + b" " * 2000

    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        assert (await http.post("/v1/chat/completions", content=chunks())).status_code == 413
