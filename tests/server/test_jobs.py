"""Durable work of every kind in one list: what it does, how far it is, and how it is ended."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.server.fakes import FakeEngine, make_service
from tests.waiting import until_async

from deepwell.dialogue.text import Codec
from deepwell.safety.privacy.attribution import Subject
from deepwell.safety.privacy.erase import Eraser
from deepwell.server.app import create_app
from deepwell.server.context import ServerContext
from deepwell.server.families.jobs.cancelling import cancel_job
from deepwell.storage.database import LOCAL, Database, Tenant
from deepwell.storage.keys import KeyStore
from deepwell.storage.knowledge.sources import FOLLOW_JOB
from deepwell.storage.responses import RESPONSE_JOB

NO_JOB = "there is no job {!r}: it was never made: check the id"
CHAT = {"model": "toy", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(endless=True)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database.open(tmp_path / "deepwell.db")
    yield database
    database.close()


@pytest.fixture
async def service(engine: FakeEngine, codec: Codec, database: Database) -> AsyncIterator[ServerContext]:
    """A server whose workers do not run: what is queued stays so."""
    context = make_service(engine, codec, model="toy", database=database)
    yield context
    await context.close_background()
    await context.background.close()


@pytest.fixture
async def http(service: ServerContext) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(service), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


async def upload(http: httpx.AsyncClient, purpose: str, data: bytes) -> str:
    form = {"purpose": (None, purpose), "file": ("a.jsonl", data)}
    return (await http.post("/v1/files", files=form)).json()["id"]


async def batch(http: httpx.AsyncClient) -> str:
    line = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": CHAT}
    body = {
        "input_file_id": await upload(http, "batch", json.dumps(line).encode()),
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    }
    return (await http.post("/v1/batches", json=body)).json()["id"]


async def job(http: httpx.AsyncClient, id: str) -> dict[str, Any]:
    return (await http.get(f"/v1/jobs/{id}")).json()


async def cancel(http: httpx.AsyncClient, id: str) -> dict[str, Any]:
    answer = await http.post(f"/v1/jobs/{id}/cancel")
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_job_is_shown_without_its_payload(http: httpx.AsyncClient, service: ServerContext) -> None:
    made = await service.state.jobs.enqueue(LOCAL, "model.pull", '{"secret": 1}')
    assert await job(http, made.id) == {
        "object": "job",
        "id": made.id,
        "kind": "model.pull",
        "status": "queued",
        "created_at": made.created_at,
        "started_at": None,
        "finished_at": None,
        "progress": None,
        "result": None,
        "error": None,
        "attempts": 0,
        "cancel_requested": False,
        "subject": None,
    }


async def test_a_job_tells_how_far_it_is_and_what_came_of_it(
    http: httpx.AsyncClient, service: ServerContext
) -> None:
    jobs = service.state.jobs
    for kind in ("batch", "ingest", "train"):
        await jobs.enqueue(LOCAL, kind, "{}", id=kind)
    told: dict[str, dict[str, Any]] = {
        "batch": {"total": 5, "completed": 2, "failed": 1},
        "ingest": {"stage": "embed", "done": 3, "total": 9},
        "train": {"done": 1, "total": 2, "unit": "steps", "series": {"loss": [[0, 2.5]]}, "other": "kept"},
    }
    running = {kind: await jobs.claim([kind], "w", 60) for kind in told}
    for kind, claimed in running.items():
        assert claimed is not None
        await jobs.heartbeat(claimed, 60, json.dumps(told[kind]))
    shown = {kind: (await job(http, kind))["progress"] for kind in told}
    assert shown["batch"] == told["batch"] | {"done": 3, "unit": "requests"}
    assert shown["ingest"] == told["ingest"] | {"step": "embed"}
    assert shown["train"] == told["train"]
    trained = running["train"]
    assert trained is not None
    await jobs.finish(trained, "succeeded", result='{"adapter": "a"}')
    ended = await job(http, "train")
    assert (ended["status"], ended["result"]) == ("succeeded", {"adapter": "a"})
    assert ended["finished_at"] >= ended["started_at"]


async def test_jobs_of_all_kinds_are_listed_by_pages(http: httpx.AsyncClient, service: ServerContext) -> None:
    jobs = service.state.jobs
    ids = [(await jobs.enqueue(LOCAL, kind, "{}")).id for kind in ("a", "b", "a")]
    await jobs.enqueue(Tenant("other"), "a", "{}")
    await jobs.cancel(LOCAL, ids[0])

    async def listed(**query: Any) -> dict[str, Any]:
        return (await http.get("/v1/jobs", params=query)).json()

    page = await listed(limit=2)
    assert [one["id"] for one in page["data"]] == ids[:0:-1]
    assert (page["first_id"], page["last_id"], page["has_more"]) == (ids[2], ids[1], True)
    assert [one["id"] for one in (await listed(after=page["last_id"]))["data"]] == ids[:1]
    assert [one["id"] for one in (await listed(kind="a", order="asc"))["data"]] == [ids[0], ids[2]]
    assert [one["id"] for one in (await listed(kind="a", status="queued"))["data"]] == [ids[2]]
    assert (await listed(kind="none"))["data"] == []


@pytest.mark.parametrize(
    "query",
    [{"status": "lost"}, {"limit": 0}, {"limit": 101}, {"kind": "k" * 33}, {"tenant": "b"}, {"after": "x"}],
)
async def test_queries_that_mean_nothing_are_refused(http: httpx.AsyncClient, query: dict[str, Any]) -> None:
    assert (await http.get("/v1/jobs", params=query)).status_code == 400


async def test_a_cancelled_batch_ends_with_its_job(http: httpx.AsyncClient) -> None:
    id = await batch(http)
    ended = await cancel(http, id)
    assert (ended["kind"], ended["status"]) == ("batch", "cancelled")
    assert (await http.get(f"/v1/batches/{id}")).json()["status"] == "cancelled"
    assert (await cancel(http, id))["status"] == "cancelled", "what has ended stays as it is"


async def test_a_cancelled_batch_of_messages_ends_with_its_job(http: httpx.AsyncClient) -> None:
    body = {"requests": [{"custom_id": "a", "params": CHAT}]}
    id = (await http.post("/v1/messages/batches", json=body)).json()["id"]
    assert (await cancel(http, id))["status"] == "cancelled"
    assert (await http.get(f"/v1/messages/batches/{id}")).json()["processing_status"] == "ended"


async def test_a_cancelled_ingestion_ends_with_its_file(http: httpx.AsyncClient) -> None:
    file = await upload(http, "assistants", b"text")
    store = (await http.post("/v1/vector_stores", json={"file_ids": [file]})).json()["id"]
    [queued] = (await http.get("/v1/jobs", params={"kind": "ingest"})).json()["data"]
    assert (await cancel(http, queued["id"]))["status"] == "cancelled"
    assert (await http.get(f"/v1/vector_stores/{store}/files/{file}")).json()["status"] == "cancelled"


async def test_a_cancelled_background_response_ends(http: httpx.AsyncClient) -> None:
    body = {"model": "toy", "input": "hi", "background": True}
    id = (await http.post("/v1/responses", json=body)).json()["id"]
    assert (await job(http, id))["kind"] == "response"
    assert (await cancel(http, id))["status"] == "cancelled"
    assert (await http.get(f"/v1/responses/{id}")).json()["status"] == "cancelled"


async def test_a_response_that_ended_first_is_not_called_cancelled(
    service: ServerContext, http: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.endless = False
    body = {"model": "toy", "input": "hi", "background": True, "max_output_tokens": 2}
    id = (await http.post("/v1/responses", json=body)).json()["id"]
    await until_async(
        lambda: http.get(f"/v1/responses/{id}"),
        lambda answer: answer.json()["status"] not in ("queued", "in_progress"),
    )
    other = await service.state.jobs.enqueue(LOCAL, RESPONSE_JOB, "{}")
    assert (await cancel_job(service, LOCAL, replace(other, id=id))).status == "succeeded"


async def test_a_source_is_followed_as_long_as_it_is_there(
    http: httpx.AsyncClient, service: ServerContext
) -> None:
    made = await service.state.jobs.enqueue(LOCAL, FOLLOW_JOB, "{}")
    refused = await http.post(f"/v1/jobs/{made.id}/cancel")
    assert refused.status_code == 400 and "knowledge remove" in refused.json()["error"]["message"]
    assert (await job(http, made.id))["status"] == "queued"


async def test_a_tenant_neither_sees_nor_stops_its_erasure(
    http: httpx.AsyncClient, service: ServerContext, database: Database
) -> None:
    id = await Eraser(database, service.state.files).request(Subject(LOCAL))
    answers = [await http.get(f"/v1/jobs/{id}"), await http.post(f"/v1/jobs/{id}/cancel")]
    nothing = await http.get("/v1/jobs/none")
    assert all(one.status_code == nothing.status_code == 404 for one in answers)
    assert answers[0].text.replace(id, "none") == nothing.text
    assert (await http.get("/v1/jobs")).json()["data"] == []
    assert (await http.get("/v1/jobs", params={"kind": "erase"})).json()["data"] == []
    assert (await service.state.jobs.get(LOCAL, id)).status == "queued"


async def test_a_job_needs_the_scope_of_what_makes_it(
    http: httpx.AsyncClient, service: ServerContext, database: Database
) -> None:
    keys, tenant = KeyStore(database), Tenant("a")
    kinds = ("batch", "compliance.check", "follow", "ingest", "model.pull")
    jobs = {kind: (await service.state.jobs.enqueue(tenant, kind, "{}")).id for kind in kinds}
    missing = NO_JOB.format("none")

    async def seen(*scopes: str) -> set[str]:
        who = {"authorization": f"Bearer {keys.create(tenant, 'k', scopes)[1]}"}
        listed = {one["kind"] for one in (await http.get("/v1/jobs", headers=who)).json()["data"]}
        for kind, id in jobs.items():
            shown = await http.get(f"/v1/jobs/{id}", headers=who)
            assert (shown.status_code == 200) == (kind in listed)
            if kind not in listed:
                ended = await http.post(f"/v1/jobs/{id}/cancel", headers=who)
                assert ended.status_code == shown.status_code == 404
                assert shown.json()["error"]["message"].replace(id, "none") == missing
                assert (await http.get("/v1/jobs", params={"after": id}, headers=who)).status_code == 400
            assert (await service.state.jobs.get(tenant, id)).status == "queued"
        return listed

    assert await seen("inference") == {"batch"}
    assert await seen("inference", "files") == {"batch", "follow", "ingest"}
    assert await seen("admin") == set(kinds)
