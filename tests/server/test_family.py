"""An API family is one folder and one name in a list: the API document, keys, metrics, batches and pages know it at once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import APIRouter
from tests.server import test_tenants
from tests.server.echo.family import FAMILY as ECHO
from tests.server.fakes import FakeEngine, make_service

from deepwell.dialogue.text import Codec
from deepwell.server.app import FAMILIES, create_app, route_table
from deepwell.server.http.declaration import DeclarationError, Operation
from deepwell.storage.database import Database, Tenant
from deepwell.storage.keys import KeyStore
from deepwell_bench.workers.api_docs import coverage_page

WITH_ECHO = (*FAMILIES, ECHO)  # the one line
ECHOED = {"model": "toy", "text": "hello"}


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database.open(tmp_path / "deepwell.db")
    yield database
    database.close()


@pytest.fixture
async def http(engine: FakeEngine, codec: Codec) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(make_service(engine, codec, model="toy"), WITH_ECHO)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        yield client


async def test_it_answers_and_its_errors_know_its_parameters(http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/echo", json=ECHOED)
    assert answer.json()["text"] == "hello" and answer.json()["usage"]["prompt_tokens"] == 5
    refused = await http.post("/v1/echo", json=ECHOED | {"txt": "x"})
    assert refused.status_code == 400 and "did you mean 'text'?" in refused.json()["error"]["message"]
    assert "/v1/echo" in (await http.get("/v1/nothing")).json()["error"]["message"]


async def test_nothing_else_changes_with_it(
    http: httpx.AsyncClient, engine: FakeEngine, codec: Codec
) -> None:
    with_it = (await http.get("/openapi.json")).json()
    app = create_app(make_service(engine, codec, model="toy"))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        without = (await client.get("/openapi.json")).json()
    del with_it["paths"]["/v1/echo"]
    assert with_it["paths"] == without["paths"]
    added = with_it["components"]["schemas"].keys() - without["components"]["schemas"].keys()
    assert added == {"Echo", "EchoRequest"}


async def test_it_is_in_the_api_document_and_the_page_of_coverage(http: httpx.AsyncClient) -> None:
    document = (await http.get("/openapi.json")).json()
    operation = document["paths"]["/v1/echo"]["post"]
    (schema,) = (one["schema"] for one in operation["responses"]["200"]["content"].values())
    assert schema == {"$ref": "#/components/schemas/Echo"}
    assert operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("/EchoRequest")
    assert "| `POST /v1/echo` | yes | |" in coverage_page(route_table(WITH_ECHO))


async def test_a_key_needs_its_scope(engine: FakeEngine, codec: Codec, database: Database) -> None:
    app = create_app(make_service(engine, codec, model="toy", database=database), WITH_ECHO)
    keys = KeyStore(database)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as http:
        statuses: dict[str, int] = {}
        for scope in ("files", "inference"):
            _, key = keys.create(Tenant("a"), scope, [scope])
            headers = {"authorization": f"Bearer {key}"}
            statuses[scope] = (await http.post("/v1/echo", json=ECHOED, headers=headers)).status_code
        statuses["none"] = (await http.post("/v1/echo", json=ECHOED)).status_code
    assert statuses == {"files": 403, "inference": 200, "none": 401}


async def test_metrics_count_it_under_its_own_name(http: httpx.AsyncClient) -> None:
    await http.post("/v1/echo", json=ECHOED)
    metrics = (await http.get("/metrics")).text
    assert 'deepwell_requests_total{route="/v1/echo",status="200"} 1.0' in metrics
    assert 'gen_ai_client_token_usage_sum{gen_ai_operation_name="echo"' in metrics


async def test_a_batch_may_ask_it(engine: FakeEngine, codec: Codec) -> None:
    service = make_service(engine, codec, model="toy")
    app = create_app(service, WITH_ECHO)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as http:
        line = {"custom_id": "1", "method": "POST", "url": "/v1/echo", "body": ECHOED}
        form: Any = {"purpose": (None, "batch"), "file": ("a.jsonl", json.dumps(line).encode())}
        file = (await http.post("/v1/files", files=form)).json()
        asked = {"input_file_id": file["id"], "endpoint": "/v1/echo", "completion_window": "24h"}
        refused = await http.post("/v1/batches", json=asked | {"endpoint": "/v1/messages"})
        assert refused.status_code == 400 and "'/v1/echo'" in refused.json()["error"]["message"]
        batch = (await http.post("/v1/batches", json=asked)).json()
        for worker in app.state.workers:
            worker.start()
        while batch["status"] not in ("completed", "failed", "expired"):
            await asyncio.sleep(0)
            batch = (await http.get(f"/v1/batches/{batch['id']}")).json()
        for worker in app.state.workers:
            await worker.stop()
        output = (await http.get(f"/v1/files/{batch['output_file_id']}/content")).text
    assert batch["status"] == "completed" and json.loads(output)["response"]["body"]["text"] == "hello"
    assert batch["usage"]["input_tokens"] == 5
    await service.close_state()


async def test_two_tenants_meet_it_like_every_other(
    engine: FakeEngine, codec: Codec, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(test_tenants, "GENERATING", test_tenants.generating(WITH_ECHO))
    monkeypatch.setattr(test_tenants, "KNOWN", test_tenants.known(WITH_ECHO))
    async with test_tenants.open_world(engine, codec, database, tmp_path, WITH_ECHO) as world:
        assert "POST /v1/echo" in world.routes
        await test_tenants.test_every_route_is_described_here(world)
        await test_tenants.test_no_cache_tells_what_another_tenant_asked(world)


def routes_of(path: str) -> APIRouter:
    routes = APIRouter()
    routes.post(path)(lambda: None)
    return routes


@pytest.mark.parametrize("path", ["/v1/other", "/v1/echo"])
def test_routes_and_declarations_that_differ_keep_a_server_from_starting(
    path: str, engine: FakeEngine, codec: Codec
) -> None:
    more = replace(
        ECHO.declaration, operations=(*ECHO.declaration.operations, Operation("get", "/v1/echo/{id}", "text"))
    )
    family = replace(ECHO, declaration=more, router=lambda _context: routes_of(path))
    with pytest.raises(
        DeclarationError, match=r"(POST /v1/other is not declared|GET /v1/echo/\{id\} has no route)"
    ):
        create_app(make_service(engine, codec, model="toy"), (*FAMILIES, family))


def test_two_families_cannot_have_one_path_or_a_scope_that_no_key_has(
    engine: FakeEngine, codec: Codec
) -> None:
    with pytest.raises(DeclarationError, match="POST /v1/echo is declared twice"):
        create_app(make_service(engine, codec, model="toy"), (*WITH_ECHO, ECHO))
    lost = replace(ECHO, declaration=replace(ECHO.declaration, scope="echoes"))
    with pytest.raises(DeclarationError, match="there is no scope 'echoes'"):
        create_app(make_service(engine, codec, model="toy"), (*FAMILIES, lost))
