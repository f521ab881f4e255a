"""Batches over HTTP: lines answered through the routes behind everybody who waits, inputs that are refused line by line."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import sqlalchemy as sa
from anthropic import Anthropic
from openai import OpenAI
from openai.types import Batch
from tests.server.conftest import Live, start
from tests.server.fakes import FakeEngine, make_service
from tests.waiting import until_async

from deepwell.dialogue.text import Codec
from deepwell.engine.protocol import Delta, GenerateRequest
from deepwell.errors import DeepwellError, ModelNotFound
from deepwell.server.access.limit_table import LimitTable
from deepwell.server.access.principal import ANYONE, Principal
from deepwell.server.access.quota import Charge, RateLimits, bucket_key
from deepwell.server.families.batches.lines import MAX_LINES, check_input, read_lines
from deepwell.server.families.batches.owner import payload_of, principal_of_job
from deepwell.server.http.in_process import InProcessClient
from deepwell.server.options import FileOptions, LimitsConfig
from deepwell.storage.database import Database, Tenant
from deepwell.storage.jobs import Job
from deepwell.storage.tables import batches as batch_rows

CHAT = "/v1/chat/completions"
LONG_AGO = 1_000_000_000


@pytest.fixture(scope="module")
def live(codec: Codec) -> Iterator[Live]:
    engine = FakeEngine()
    running = start(make_service(engine, codec, model="toy"), engine)
    yield running
    running.stop()


def client_of(live: Live) -> OpenAI:
    return OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0, _strict_response_validation=True)


@pytest.fixture(scope="module")
def client(live: Live) -> OpenAI:
    return client_of(live)


def row(number: int, text: str = "hi", **changes: Any) -> dict[str, Any]:
    body = {"model": "toy", "messages": [{"role": "user", "content": text}], "temperature": 0}
    return {"custom_id": f"line-{number}", "method": "POST", "url": CHAT, "body": body} | changes


def encoded(rows: list[dict[str, Any]]) -> bytes:
    return "\n".join(json.dumps(one, ensure_ascii=False) for one in rows).encode()


def begin(client: OpenAI, data: bytes, endpoint: Any = CHAT) -> Batch:
    source = client.files.create(file=("lines.jsonl", data), purpose="batch")
    return client.batches.create(input_file_id=source.id, endpoint=endpoint, completion_window="24h")


async def ended(client: OpenAI, id: str) -> Batch:
    final = ("completed", "failed", "expired", "cancelled")
    return await until_async(
        lambda: asyncio.to_thread(client.batches.retrieve, id), lambda batch: batch.status in final
    )


def lines_of(client: OpenAI, file: str | None) -> list[dict[str, Any]]:
    assert file is not None
    return [json.loads(line) for line in client.files.content(file).text.splitlines()]


async def test_lines_are_answered_in_order_behind_everybody(client: OpenAI, live: Live) -> None:
    texts = [f"{number} 你好" for number in range(40)]
    rows = [row(number, text) for number, text in enumerate(texts)]
    rows[7]["body"]["no_such"] = 1
    rows[9]["body"]["max_tokens"] = 10_000
    data = encoded(rows[:20]) + b"\r\n\n  \n" + encoded(rows[20:]) + b"\n"
    batch = await ended(client, begin(client, data).id)
    assert batch.status == "completed" and batch.request_counts
    assert (batch.request_counts.total, batch.request_counts.completed) == (40, 38)
    output, errors = lines_of(client, batch.output_file_id), lines_of(client, batch.error_file_id)
    for one in output:
        number = int(one["custom_id"].removeprefix("line-"))
        assert one["error"] is None and one["response"]["status_code"] == 200
        assert one["response"]["body"]["choices"][0]["message"]["content"] == texts[number]
    numbers = [one["custom_id"] for one in output]
    assert numbers == [f"line-{number}" for number in range(40) if number not in (7, 9)]
    assert [one["custom_id"] for one in errors] == ["line-7", "line-9"]
    codes = [one["response"]["body"]["error"]["code"] for one in errors]
    assert codes == ["unknown_parameter", "context_length_exceeded"]
    assert len({one["id"] for one in (*output, *errors)}) == 40
    assert {one.priority for one in live.engine.seen} == {-1}
    assert batch.usage and batch.usage.output_tokens == sum(
        one["response"]["body"]["usage"]["completion_tokens"] for one in output
    )
    assert client.files.retrieve(batch.output_file_id or "").purpose == "batch_output"


INVALID = [
    (b"{", "invalid_json_line", "not a JSON object"),
    (b"[1]", "invalid_json_line", "not a JSON object"),
    (b'{"custom_id": "\xff"}', "invalid_json_line", "UTF-8"),
    (b"[" * 100_000, "line_too_long", "shorten"),
    (b"[" * 50_000, "invalid_json_line", "not a JSON object"),
    (encoded([{"method": "POST"}]), "missing_required_parameter", "custom_id"),
    (encoded([row(1) | {"custom_id": 5}]), "invalid_custom_id", "string"),
    (encoded([row(1) | {"custom_id": ""}]), "invalid_custom_id", "string"),
    (encoded([row(1) | {"custom_id": "x" * 513}]), "invalid_custom_id", "512"),
    (encoded([row(1) | {"method": "GET"}]), "invalid_method", "POST"),
    (encoded([row(1) | {"url": "/v1/embeddings"}]), "mismatched_endpoint", CHAT),
    (encoded([row(1) | {"url": ["a"]}]), "mismatched_endpoint", CHAT),
    (encoded([row(1) | {"boddy": {}}]), "unknown_parameter", "boddy"),
    (encoded([row(1) | {"body": "x"}]), "invalid_body", "JSON object"),
    (encoded([row(1) | {"body": {"model": "none"}}]), "model_not_found", "use 'toy'"),
    (encoded([row(1) | {"body": {"model": "toy", "stream": True}}]), "unsupported_parameter", "stream"),
    (
        b'{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions"}',
        "missing_required_parameter",
        "body",
    ),
]


def require(name: str) -> None:
    if name != "toy":
        raise ModelNotFound(f"no {name}", fix="use 'toy'")


@pytest.mark.parametrize(("line", "code", "told"), INVALID)
def test_a_line_that_cannot_be_is_named(tmp_path: Path, line: bytes, code: str, told: str) -> None:
    path = tmp_path / "input"
    path.write_bytes(encoded([row(0)]) + b"\n\n" + line)
    checked = check_input(path, CHAT, 64 * 1024, require)
    (error,) = checked.errors
    assert (error.code, error.line) == (code, 3)
    assert told in error.message


def test_custom_ids_are_given_once(tmp_path: Path) -> None:
    path = tmp_path / "input"
    path.write_bytes(encoded([row(0), row(1), row(0)]))
    (error,) = check_input(path, CHAT, 4096, require).errors
    assert (error.code, error.line, error.param) == ("duplicate_custom_id", 3, "custom_id")
    assert "line 1" in error.message


def test_so_many_lines_and_no_more(tmp_path: Path) -> None:
    path = tmp_path / "input"
    one = encoded([row(0) | {"custom_id": "line-%d"}])
    lines = b"".join(one.replace(b"%d", b"%d" % number) + b"\n" for number in range(MAX_LINES))
    path.write_bytes(lines + one)
    checked = check_input(path, CHAT, 4096, require)
    assert [error.code for error in checked.errors] == ["too_many_requests"]
    path.write_bytes(lines)
    checked = check_input(path, CHAT, 4096, require)
    assert not checked.errors and checked.total == MAX_LINES and checked.model == "toy"
    left = list(read_lines(path, set(range(1, MAX_LINES))))
    assert [(one.number, one.custom_id) for one in left] == [(MAX_LINES, f"line-{MAX_LINES - 1}")]


def test_errors_are_told_up_to_a_number(tmp_path: Path) -> None:
    path = tmp_path / "input"
    path.write_bytes(b"x\n" * 5000)
    assert len(check_input(path, CHAT, 4096, require).errors) == 100
    path.write_bytes(b" \n\n")
    assert [error.code for error in check_input(path, CHAT, 4096, require).errors] == ["empty_file"]


async def test_an_input_that_cannot_be_fails_the_batch_with_its_lines(client: OpenAI) -> None:
    batch = await ended(client, begin(client, encoded([row(0), row(0)]) + b"\n{").id)
    assert batch.status == "failed" and batch.failed_at and batch.errors and batch.errors.data
    assert [(error.line, error.code) for error in batch.errors.data] == [
        (2, "duplicate_custom_id"),
        (3, "invalid_json_line"),
    ]
    assert batch.output_file_id is None and batch.usage is None


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"input_file_id": "file-0"}, "no file"),
        ({"endpoint": "/v1/moderations"}, "/v1/responses"),
        ({"completion_window": "1h"}, "24h"),
        ({"metadata": {"k" * 65: "v"}}, "64"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 1}}, "3600"),
        ({"endpont": CHAT}, "did you mean 'endpoint'"),
    ],
)
def test_a_batch_that_cannot_be_is_refused(client: OpenAI, changes: dict[str, Any], told: str) -> None:
    source = client.files.create(file=("lines.jsonl", b"x"), purpose="batch")
    asked = {"input_file_id": source.id, "endpoint": CHAT, "completion_window": "24h"} | changes
    with pytest.raises(openai.APIStatusError, match=told) as refused:
        client.post("/batches", body=asked, cast_to=Batch)
    assert refused.value.status_code == (404 if told == "no file" else 400)


def test_the_input_must_be_meant_for_a_batch(client: OpenAI) -> None:
    source = client.files.create(file=("lines.jsonl", b"x"), purpose="user_data")
    with pytest.raises(openai.BadRequestError, match="purpose 'batch'"):
        client.batches.create(input_file_id=source.id, endpoint=CHAT, completion_window="24h")


async def test_a_cancelled_batch_stops_and_keeps_what_was_done(client: OpenAI, live: Live) -> None:
    id = begin(client, encoded([row(number, "long " * 50) for number in range(500)])).id

    def some() -> bool:
        counts = client.batches.retrieve(id).request_counts
        return counts is not None and counts.completed > 3

    await until_async(lambda: asyncio.to_thread(some))
    assert client.batches.cancel(id).status in ("cancelling", "cancelled")
    batch = await ended(client, id)
    assert batch.status == "cancelled" and batch.cancelling_at and batch.cancelled_at
    assert batch.request_counts and 3 < batch.request_counts.completed < 500
    assert len(lines_of(client, batch.output_file_id)) == batch.request_counts.completed
    with pytest.raises(openai.BadRequestError, match="is cancelled"):
        client.batches.cancel(id)


class Flaky(FakeEngine):
    """Is away at first."""

    refusals = 0

    async def generate(self, request: GenerateRequest) -> AsyncIterator[Delta]:
        if self.refusals > 0:
            self.refusals -= 1
            error = DeepwellError("there is no engine now", fix="wait")
            error.code = "engine_unavailable"
            error.status = 503
            raise error
        async for delta in super().generate(request):
            yield delta


async def test_a_line_waits_for_an_engine_that_is_away(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepwell.server.families.batches.worker._PAUSES_S", (0.01, 0.02))
    engine = Flaky()
    engine.refusals = 12  # more than there are pauses
    running = start(make_service(engine, codec, model="toy"), engine)
    try:
        client = client_of(running)
        batch = await ended(client, begin(client, encoded([row(0, "a"), row(1, "b")])).id)
        assert batch.request_counts and batch.request_counts.completed == 2
    finally:
        running.stop()


async def test_a_line_that_always_fails_ends_in_the_error_file(
    codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepwell.server.families.batches.worker._PAUSES_S", (0.01, 0.02))
    engine = FakeEngine(fail_at=3)
    running = start(make_service(engine, codec, model="toy"), engine)
    try:
        client = client_of(running)
        batch = await ended(client, begin(client, encoded([row(0, "longer"), row(1, "b")])).id)
        (failed,) = lines_of(client, batch.error_file_id)
        assert failed["response"]["status_code"] == 503 and failed["custom_id"] == "line-0"
        assert len(engine.seen) == 3 + 1
    finally:
        running.stop()


async def test_the_next_server_ends_what_one_began(codec: Codec, tmp_path: Path) -> None:
    def server() -> Live:
        engine = FakeEngine()
        database = Database.open(tmp_path / "x.db")
        options = FileOptions(folder=tmp_path / "files", batch_concurrency=4)
        return start(make_service(engine, codec, model="toy", database=database, files=options), engine)

    first = server()
    client = client_of(first)
    id = begin(client, encoded([row(number, "text " * 40) for number in range(60)])).id
    await until_async(
        lambda: asyncio.to_thread(client.batches.retrieve, id),
        lambda batch: batch.request_counts.completed > 2,
    )  # pyright: ignore
    first.stop()
    second = server()
    try:
        client = client_of(second)
        assert client.batches.retrieve(id).status == "in_progress"
        batch = await ended(client, id)
        assert batch.status == "completed" and batch.request_counts
        assert len(lines_of(client, batch.output_file_id)) == batch.request_counts.completed == 60
        assert 0 < len(second.engine.seen) < 60  # nothing that had ended was run again
    finally:
        second.stop()


async def test_lines_that_nobody_came_to_in_time_have_expired(codec: Codec, tmp_path: Path) -> None:
    database = Database.open(tmp_path / "x.db")
    engine = FakeEngine()
    service = make_service(engine, codec, model="toy", database=database)
    state = service.state
    source = await state.files.create(
        ANYONE.tenant, filename="x", purpose="batch", content=_bytes(encoded([row(0), row(1)]))
    )
    made = await state.batches.create(
        ANYONE.tenant, endpoint=CHAT, input_file_id=source.id, completion_window="24h"
    )
    statement = sa.update(batch_rows).values(expires_at=LONG_AGO)
    await database.write(lambda connection: connection.execute(statement).rowcount)
    running = start(service, engine)
    try:
        client = client_of(running)
        batch = await ended(client, made.id)
        assert batch.status == "expired" and batch.expired_at and batch.output_file_id is None
        late = lines_of(client, batch.error_file_id)
        assert [one["error"]["code"] for one in late] == ["batch_expired"] * 2
        assert batch.request_counts and batch.request_counts.failed == 2
    finally:
        running.stop()


async def test_a_batch_whose_input_is_lost_says_so(codec: Codec) -> None:
    engine = FakeEngine()
    service = make_service(engine, codec, model="toy")
    state = service.state
    source = await state.files.create(
        ANYONE.tenant, filename="x", purpose="batch", content=_bytes(encoded([row(0)]))
    )
    state.files.blobs.remove(source.sha256)
    await state.batches.create(ANYONE.tenant, endpoint=CHAT, input_file_id=source.id, completion_window="24h")
    running = start(service, engine)
    try:
        client = client_of(running)
        (made,) = client.batches.list().data
        batch = await ended(client, made.id)
        assert batch.status == "failed" and batch.errors and batch.errors.data
        assert batch.errors.data[0].code == "input_lost"
        with pytest.raises(openai.NotFoundError):
            client.files.content(source.id)
    finally:
        running.stop()


async def _bytes(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def test_a_call_from_inside_that_is_given_up_hangs_up() -> None:
    left = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["body"] == b"{}"
        try:
            await receive()
        finally:
            left.set()

    call = asyncio.ensure_future(InProcessClient(app).post("/x", b"{}", ANYONE))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert left.is_set()


class Told(LimitTable):
    """A table of limits by a clock that passes when it is told to, and that says when it refuses."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.refused = threading.Event()
        super().__init__(clock=lambda: self.now)

    async def charge(self, key: bytes, per_minute: int, cost: int) -> Charge:
        result = await super().charge(key, per_minute, cost)
        if not result.allowed:
            self.refused.set()
        return result


def tokens_left(live: Live) -> int:
    body = row(0)["body"] | {"max_tokens": 10}
    answer = httpx.post(f"{live.url}{CHAT}", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    return int(answer.headers["x-ratelimit-remaining-tokens"])


@pytest.mark.parametrize("api", ["openai", "anthropic"])
async def test_lines_are_charged_to_the_tokens_of_their_tenant(
    codec: Codec, monkeypatch: pytest.MonkeyPatch, api: str
) -> None:
    monkeypatch.setattr("deepwell.server.families.batches.worker._PAUSES_S", (0.01,))
    monkeypatch.setattr("deepwell.server.families.batches.worker._LONGEST_PAUSE_S", 0.01)
    engine, table = FakeEngine(), Told()
    service = make_service(engine, codec, model="toy", limits=LimitsConfig(rates=RateLimits(0, 1000)))
    service.limiter.store = table
    running = start(service, engine)

    async def run(count: int) -> Callable[[], bool]:
        """Begins a batch; returns whether it has ended well."""
        if api == "openai":
            client = client_of(running)
            rows = [row(number) for number in range(count)]
            for one in rows:
                one["body"]["max_tokens"] = 100
            id = begin(client, encoded(rows)).id
            return lambda: client.batches.retrieve(id).status == "completed"
        anthropic = Anthropic(base_url=running.url, api_key="none", max_retries=0)
        params: Any = {
            "model": "toy",
            "max_tokens": 100,
            "messages": [{"role": "user", "content": "hi"}],
        }
        requests: list[Any] = [{"custom_id": f"r{number}", "params": params} for number in range(count)]
        made = anthropic.messages.batches.create(requests=requests).id
        return lambda: anthropic.messages.batches.retrieve(made).request_counts.succeeded == count

    try:
        first = await asyncio.to_thread(tokens_left, running)
        three = await run(3)
        await until_async(lambda: asyncio.to_thread(three))
        second = await asyncio.to_thread(tokens_left, running)
        alone = second - await asyncio.to_thread(tokens_left, running)
        assert first - second > 2 * alone > 0
        done = await run(40)
        assert await asyncio.to_thread(table.refused.wait, 30)
        assert not done()
        table.now += 120.0
        for _ in range(40):  # each minute's worth brings it on
            table.refused.clear()
            if await asyncio.to_thread(done):
                break
            await asyncio.to_thread(table.refused.wait, 1)
            table.now += 60.0
        await until_async(lambda: asyncio.to_thread(done))
    finally:
        running.stop()


class Spent(LimitTable):
    """A table of limits in which the tokens of one tenant are spent for good."""

    async def charge(self, key: bytes, per_minute: int, cost: int) -> Charge:
        if key == bucket_key("tokens", "tenant spent"):
            return Charge(allowed=False, remaining=0, reset_s=60.0, retry_s=60.0, charged_s=0.0)
        return await super().charge(key, per_minute, cost)


async def test_batches_of_a_tenant_over_its_limits_leave_those_of_others_to_run(codec: Codec) -> None:
    engine = FakeEngine()
    service = make_service(engine, codec, model="toy", limits=LimitsConfig(rates=RateLimits(0, 1000)))
    service.limiter.store = Spent()
    state = service.state
    made = []
    for tenant in [Tenant("spent")] * 20 + [Tenant("other")]:
        source = await state.files.create(
            tenant, filename="x", purpose="batch", content=_bytes(encoded([row(0)]))
        )
        made.append(
            await state.batches.create(
                tenant, endpoint=CHAT, input_file_id=source.id, completion_window="24h"
            )
        )
    running = start(service, engine)
    try:
        await until_async(
            lambda: state.batches.get(Tenant("other"), made[-1].id), lambda batch: batch.status == "completed"
        )
        assert (await state.batches.get(Tenant("spent"), made[0].id)).status == "in_progress"
    finally:
        running.stop()


def test_a_line_is_charged_to_the_key_that_made_the_batch_if_it_has_a_limit() -> None:
    def job(tenant: Tenant, payload: str) -> Job:
        never: dict[str, Any] = dict.fromkeys(("progress", "result", "error", "started_at", "finished_at"))
        lease: dict[str, Any] = {"owner": None, "lease_until": None, "cancel_requested": False}
        return Job(
            "x", tenant, "batch", "running", payload, attempts=1, priority=0, created_at=0, **never, **lease
        )

    acme = Tenant("acme")
    made = principal_of_job(job(acme, payload_of(Principal(acme, "key-1", tokens_per_minute=5))))
    assert (made.tenant, made.key_id, made.tokens_per_minute, made.priority) == (acme, "key-1", 5, -1)
    assert principal_of_job(job(acme, "{}")).salt == acme, "a job of an older version"
    assert principal_of_job(job(ANYONE.tenant, payload_of(ANYONE))).salt == ""


async def test_a_batch_that_is_gone_ends_its_job(codec: Codec) -> None:
    engine = FakeEngine()
    service = make_service(engine, codec, model="toy")
    state = service.state
    source = await state.files.create(
        ANYONE.tenant, filename="x", purpose="batch", content=_bytes(encoded([row(0)]))
    )
    made = await state.batches.create(
        ANYONE.tenant, endpoint=CHAT, input_file_id=source.id, completion_window="24h"
    )
    await state.database.write(lambda connection: connection.execute(sa.delete(batch_rows)).rowcount)
    running = start(service, engine)
    try:
        job = await until_async(
            lambda: state.jobs.get(ANYONE.tenant, made.id),
            lambda job: job.status not in ("queued", "running"),
        )
        assert (job.status, job.attempts) == ("failed", 1)
        assert job.error and made.id in job.error
    finally:
        running.stop()
