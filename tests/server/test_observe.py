"""What is seen of a request: its id everywhere, its line in the access log, its metrics with bounded labels."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from tests.server.conftest import Live, start
from tests.server.fakes import FakeEngine, make_service
from tests.waiting import until_async

from deepwell.dialogue.model import ServedModel
from deepwell.dialogue.text import Codec
from deepwell.server.app import create_app
from deepwell.server.context import ServerContext
from deepwell.server.observe.access_log import AccessLog, fields_of
from deepwell.server.observe.loop_lag import LoopLag
from deepwell.server.observe.observer import Observer, observer_of
from deepwell.server.observe.record import Record, request_id_of
from deepwell.server.observe.trace_context import TraceContext
from deepwell.settings import InvalidSettings, Settings

CHAT = {"model": "toy", "messages": [{"role": "user", "content": "hi"}]}
KEY = "key-of-one-user-0001"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Kept:
    """A sink that keeps records."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def __call__(self, records: Any) -> None:
        self.records += records


@asynccontextmanager
async def client_of(service: ServerContext) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(service), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


def observed(engine: FakeEngine, codec: Codec, **more: Any) -> tuple[ServerContext, Kept]:
    kept = Kept()
    return make_service(engine, codec, model="toy", observer=Observer([kept]), **more), kept


async def test_a_request_is_recorded_with_what_it_cost(engine: FakeEngine, codec: Codec) -> None:
    service, kept = observed(engine, codec, api_keys=[SecretStr(KEY)])
    async with client_of(service) as client:
        header = {"authorization": f"Bearer {KEY}", "x-request-id": "mine-1"}
        answer = await client.post("/v1/chat/completions", json=CHAT, headers=header)
        await client.get("/v1/models/toy", headers=header | {"x-request-id": "no good\tid"})
    service.observer.close()
    chat, model = kept.records
    assert answer.headers["x-request-id"] == chat.request_id == "mine-1"
    assert engine.seen[0].request_id.startswith("mine-1/chatcmpl-")
    assert (chat.route, chat.status, chat.model) == ("/v1/chat/completions", 200, "toy")
    assert chat.body_bytes == len(answer.content)
    usage = answer.json()["usage"]
    assert (chat.prompt_tokens, chat.completion_tokens) == (usage["prompt_tokens"], 2 + 1)
    assert chat.cached_tokens == usage["prompt_tokens_details"]["cached_tokens"]
    assert (chat.finish_reason, chat.client_left, chat.error) == ("stop", False, "")
    assert chat.first_token_s is not None and 0 < chat.first_token_s <= chat.duration_s
    assert [phase.name for phase in chat.phases] == ["prepare", "prefill", "decode"]
    assert (model.route, model.model) == ("/v1/models/{id:path}", "")
    assert re.fullmatch("req_[0-9a-f]{32}", model.request_id)
    logged = json.dumps([fields_of(record) for record in kept.records])
    assert chat.key_id and chat.key_id in logged and KEY not in logged and '"hi"' not in logged


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_is_told_apart(engine: FakeEngine, codec: Codec, stream: bool) -> None:
    service, kept = observed(engine, codec)
    engine.endless = True
    running = await asyncio.to_thread(start, service, engine)
    try:
        body = CHAT | {"stream": stream, "ignore_eos": True}
        async with httpx.AsyncClient(base_url=running.url, timeout=60) as client:
            if stream:
                async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
                    await anext(answer.aiter_bytes())
            else:
                asking = asyncio.create_task(client.post("/v1/chat/completions", json=body))
                await until_async(lambda: engine.seen)
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
        assert await asyncio.to_thread(engine.ended.wait, 30)
    finally:
        await asyncio.to_thread(running.stop)
    (record,) = kept.records
    assert record.client_left and record.error == ""
    assert record.status == (200 if stream else 499)
    assert "deepwell_clients_left_total 1.0" in service.metrics.text().decode()


async def test_an_unexpected_failure_is_answered_and_logged_with_its_id(
    engine: FakeEngine, codec: Codec, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise ZeroDivisionError("no luck")

    monkeypatch.setattr(engine, "adapters", broken)
    service, kept = observed(engine, codec)
    async with client_of(service) as client:
        with caplog.at_level(logging.ERROR, logger="deepwell.server"):
            answer = await client.get("/v1/models", headers={"x-request-id": "find-me"})
    service.observer.close()
    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "server_error" and "no luck" not in answer.text
    assert answer.headers["x-request-id"] == "find-me"
    assert "no luck" in caplog.text
    assert (kept.records[0].error, kept.records[0].status) == ("ZeroDivisionError", 500)


async def test_errors_of_every_kind_carry_the_id(engine: FakeEngine, codec: Codec) -> None:
    service, _ = observed(engine, codec, api_keys=[SecretStr(KEY)])
    async with client_of(service) as client:
        good = {"authorization": f"Bearer {KEY}"}
        for method, path, headers in (
            ("GET", "/v1/models", {}),
            ("GET", "/nothing", good),
            ("PUT", "/v1/models", good),
            ("POST", "/v1/chat/completions", good),
        ):
            answer = await client.request(method, path, headers=headers | {"x-request-id": "a:b.c-1"})
            assert answer.status_code >= 400
            assert answer.headers["x-request-id"] == "a:b.c-1"


@given(st.binary(max_size=200))
def test_a_request_id_is_always_a_plain_word(given_id: bytes) -> None:
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:\-]{0,127}", request_id_of(given_id))


async def test_hostile_paths_and_models_add_no_series(engine: FakeEngine, codec: Codec) -> None:
    service, _ = observed(engine, codec)

    async def series(client: httpx.AsyncClient) -> set[str]:
        text = (await client.get("/metrics")).text
        return {line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")}

    async def round(client: httpx.AsyncClient, number: int) -> None:
        await client.get(f"/v1/models/{number}")
        await client.get(f"/{number}/x")
        await client.request(f"X{number}", "/v1/models")
        await client.post("/v1/chat/completions", json=CHAT | {"model": f"m{number}"})
        await client.post("/v1/chat/completions", json=CHAT, headers={"user-agent": str(number)})
        await client.post("/v1/embeddings", json={"model": "toy", "input": "x", "user": str(number)})
        await client.delete(f"/v1/responses/{number}")

    async with client_of(service) as client:
        await client.get("/metrics")
        await round(client, 0)
        before = await series(client)
        for number in range(1, 20):
            await round(client, number)
        assert await series(client) == before


async def test_genai_metrics_go_by_their_names(engine: FakeEngine, codec: Codec) -> None:
    service, _ = observed(engine, codec)
    async with client_of(service) as client:
        await client.post("/v1/chat/completions", json=CHAT)
        await client.post("/v1/completions", json={"model": "toy", "prompt": "abc", "max_tokens": 2})
        await client.post("/v1/embeddings", json={"model": "toy", "input": "abcd"})
        engine.fail_at = 1
        await client.post("/v1/completions", json={"model": "toy", "prompt": "abc"})
        text = (await client.get("/metrics")).text
    labels = 'gen_ai_operation_name="{}",gen_ai_provider_name="deepwell",gen_ai_request_model="toy"'
    chat, plain, vectors = map(labels.format, ("chat", "text_completion", "embeddings"))
    assert f'gen_ai_server_request_duration_seconds_count{{error_type="",{chat}}} 1.0' in text
    assert (
        f'gen_ai_server_request_duration_seconds_count{{error_type="generation_failed",{plain}}} 1.0' in text
    )
    assert f"gen_ai_server_time_to_first_token_seconds_count{{{chat}}} 1.0" in text
    assert f"gen_ai_server_time_per_output_token_seconds_count{{{chat}}} 1.0" in text
    assert f'gen_ai_client_token_usage_sum{{{vectors},gen_ai_token_type="input"}} 4.0' in text
    assert f'gen_ai_client_token_usage_sum{{{plain},gen_ai_token_type="output"}}' in text
    assert "deepwell_event_loop_lag_seconds_count" in text
    assert "_created" not in text
    assert 'deepwell_engine_restarts_total{model="toy"} 0.0' in text


async def test_both_models_are_covered(engine: FakeEngine, codec: Codec) -> None:
    second = FakeEngine(steps=7)
    service = make_service(
        engine, codec, model="toy", embedder=ServedModel("small", second, codec, tasks=("embed",))
    )
    async with client_of(service) as client:
        await client.post("/v1/embeddings", json={"model": "small", "input": ["abcd", "e"]})
        text = (await client.get("/metrics")).text
    assert 'deepwell_steps_total{model="small"} 7.0' in text
    assert 'deepwell_steps_total{model="toy"} 0.0' in text
    assert 'gen_ai_request_model="small",gen_ai_token_type="input"} 5.0' in text


def test_the_oldest_request_in_the_queue_tells_its_age(service: ServerContext) -> None:
    waiting = service.metrics.waiting
    assert waiting.oldest_s() == 0
    waiting.begin("first", 0.0)
    waiting.begin("second", float("inf"))
    assert waiting.oldest_s() > 0
    waiting.end("first")
    assert waiting.oldest_s() == 0


async def test_a_held_up_event_loop_is_noticed() -> None:
    seen: list[float] = []
    noticed = asyncio.Event()

    def observe(late: float) -> None:
        seen.append(late)
        noticed.set()

    lag = LoopLag(observe)
    lag.watch()
    lag.watch()
    await asyncio.wait_for(noticed.wait(), 30)
    assert len(seen) == 1 and seen[0] >= 0


def record_of(**more: Any) -> Record:
    record = Record.begin("GET", "/v1/models/x", b"one", None)
    for name, value in more.items():
        setattr(record, name, value)
    return record


def test_a_log_is_appended_to_and_found_again_when_it_was_moved(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "access.log"
    log = AccessLog("json", path)
    log([record_of(status=200)])
    path.rename(tmp_path / "access.log.1")
    log([record_of(status=201), record_of(status=202)])
    log.close()
    old = [json.loads(line) for line in (tmp_path / "access.log.1").read_text().splitlines()]
    new = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["status"] for line in old + new] == [200, 201, 202]
    assert path.stat().st_mode & 0o007 == 0


@given(st.text(max_size=300), st.text(max_size=20))
def test_hostile_text_stays_inside_its_line(path: str, word: str) -> None:
    record = record_of(path=path, error=word, tenant=word)
    from deepwell.server.observe.access_log import _json_line, _text_line

    for line in (_json_line(fields_of(record)), _text_line(fields_of(record))):
        assert line.endswith("\n") and len((line + "x").splitlines()) == 2
        assert line[:-1].isprintable()


def test_a_sink_that_fails_costs_nobody_a_request(caplog: pytest.LogCaptureFixture) -> None:
    kept = Kept()

    def broken(records: Any) -> None:
        raise OSError("the disk is full")

    observer = Observer([broken, kept])
    lost: list[int] = []
    observer.on_lost = lost.append
    for _ in range(3):
        observer.end(record_of())
    observer.close()
    assert len(kept.records) == sum(lost) == 3
    assert "the disk is full" in caplog.text


def test_a_sink_that_hangs_costs_records_and_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepwell.server.observe.observer._CAPACITY", 4)
    go, busy = threading.Event(), threading.Event()

    def slow(records: Any) -> None:
        busy.set()
        assert go.wait(30)

    observer = Observer([slow])
    lost: list[int] = []
    observer.on_lost = lost.append
    observer.end(record_of())
    assert busy.wait(30)
    for _ in range(6):
        observer.end(record_of())
    assert lost == [1, 1]
    go.set()
    observer.close()


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
        b"00-00000000000000000000000000000000-b7ad6b7169203331-01",
        b"00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        b"ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        b"00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
    ],
)
def test_an_invalid_traceparent_is_as_good_as_none(header: bytes) -> None:
    trace = TraceContext.begin(header)
    assert trace.parent_id == "" and trace.sampled
    assert trace.trace_id != "0af7651916cd43dd8448eb211c80319c"


def test_a_trace_goes_on() -> None:
    trace = TraceContext.begin(PARENT.encode(), share=0)
    assert (trace.trace_id, trace.parent_id) == (PARENT[3:35], PARENT[36:52])
    assert trace.sampled and trace.header() == f"00-{trace.trace_id}-{trace.span_id}-01"
    later = TraceContext.begin(b"01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00-more", share=1)
    assert later.parent_id and not later.sampled
    assert not TraceContext.begin(None, share=0).sampled


def test_settings_make_the_observer(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="cannot be written"):
        observer_of(Settings(access_log="json", access_log_file=tmp_path))
    path = tmp_path / "log"
    observer = observer_of(Settings(access_log="text", access_log_file=path))
    observer.end(record_of(tenant='a "b"', status=200))
    observer.close()
    line = path.read_text()
    assert 'tenant="a \\"b\\""' in line and "status=200" in line and line.startswith("time=20")


@pytest.fixture
def collecting() -> Iterator[tuple[str, list[bytes]]]:
    """A local OTLP sink."""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    bodies: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            import gzip

            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            assert self.path == "/v1/traces"
            bodies.append(body)
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", bodies
    server.shutdown()
    server.server_close()


async def test_traces_reach_a_collector(
    engine: FakeEngine, codec: Codec, collecting: tuple[str, list[bytes]]
) -> None:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    url, bodies = collecting
    observer = observer_of(Settings(trace_endpoint=url, trace_share=0))
    service = make_service(engine, codec, model="toy", observer=observer)
    async with client_of(service) as client:
        await client.post("/v1/chat/completions", json=CHAT)  # not sampled
        header = {"traceparent": PARENT, "x-request-id": "mine"}
        answer = await client.post("/v1/chat/completions", json=CHAT, headers=header)
    await asyncio.to_thread(observer.close)
    spans = [
        span
        for body in bodies
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    by_name = {span.name: span for span in spans}
    assert sorted(by_name) == sorted(
        ["POST /v1/chat/completions", "chat toy", "prepare", "prefill", "decode"]
    )
    request, model = by_name["POST /v1/chat/completions"], by_name["chat toy"]
    assert all(span.trace_id.hex() == PARENT[3:35] for span in spans)
    assert request.parent_span_id.hex() == PARENT[36:52]
    assert answer.headers["traceparent"] == f"00-{request.trace_id.hex()}-{request.span_id.hex()}-01"
    assert model.parent_span_id == request.span_id
    assert by_name["decode"].parent_span_id == model.span_id
    assert request.start_time_unix_nano <= by_name["prefill"].start_time_unix_nano
    assert by_name["decode"].end_time_unix_nano <= request.end_time_unix_nano
    said = {one.key: one.value for one in model.attributes}
    assert said["gen_ai.usage.input_tokens"].int_value == answer.json()["usage"]["prompt_tokens"]
    assert "hi" not in str(spans)


def test_nothing_of_opentelemetry_is_imported_when_traces_are_off() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from deepwell.settings import Settings; from deepwell.server.observe.observer import observer_of;"
        "observer_of(Settings(access_log='json'));"
        "print(sorted(one for one in sys.modules if one.startswith('opentelemetry')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_server_hands_over_its_last_records(engine: FakeEngine, codec: Codec) -> None:
    service, kept = observed(engine, codec)
    running: Live = start(service, engine)
    httpx.get(f"{running.url}/healthz", timeout=60)
    running.stop()
    assert [record.route for record in kept.records] == ["/healthz"]


def test_workers_of_one_server_show_what_all_of_them_counted(tmp_path: Path) -> None:
    import os
    import subprocess
    import sys

    code = (
        "from deepwell.server.observe.metrics import Metrics; from tests.server.fakes import FakeEngine;"
        "metrics = Metrics({'toy': FakeEngine(steps=3)}); metrics.requests.labels('/r', '200').inc();"
        "metrics.queue.observe(0.02); metrics.open_requests.inc(); print(metrics.text().decode())"
    )
    said = ""
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={
                **os.environ,
                "PROMETHEUS_MULTIPROC_DIR": str(tmp_path),
                "PYTHONPATH": os.pathsep.join(sys.path),
            },
            capture_output=True,
            text=True,
            check=True,
        )
        said = done.stdout
    assert 'deepwell_requests_total{route="/r",status="200"} 2.0' in said
    assert "deepwell_queue_seconds_count 2.0" in said
    assert "deepwell_open_requests 1.0" in said  # the first process has ended
    assert 'deepwell_steps_total{model="toy"} 3.0' in said
