"""Compliance checks over the API: a durable job, whose result is the report of the command line."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.server.fakes import FakeEngine, make_service
from tests.waiting import until_async

from deepwell.dialogue.text import Codec
from deepwell.safety.compliance.context import Context
from deepwell.safety.compliance.making import make_report
from deepwell.safety.compliance.report import as_json
from deepwell.safety.guard import Guard
from deepwell.safety.policy import Policy
from deepwell.server.app import create_app
from deepwell.server.context import ServerContext
from deepwell.server.families.compliance.worker import compliance_worker
from deepwell.server.families.job_worker import JobWorker
from deepwell.server.options import FileOptions, GuardOptions
from deepwell.settings import Settings
from deepwell.storage.database import LOCAL, Database, Tenant
from deepwell.storage.jobs import Job
from deepwell.storage.keys import KeyStore
from deepwell.storage.safety.audit import AuditStore


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database.open(tmp_path / "deepwell.db")
    yield database
    database.close()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.load(data_dir=tmp_path, models_dir=tmp_path / "models", guard="standard")


@pytest.fixture
def service(
    engine: FakeEngine, codec: Codec, database: Database, settings: Settings, tmp_path: Path
) -> ServerContext:
    guard, files = GuardOptions("standard", tmp_path / "terms"), FileOptions(job_lease_s=0.3)
    return make_service(
        engine, codec, model="toy", database=database, guard=guard, settings=settings, files=files
    )


@pytest.fixture
async def http(service: ServerContext) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(service), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client
    await service.audit.close()


@asynccontextmanager
async def working(service: ServerContext) -> AsyncIterator[JobWorker]:
    worker = compliance_worker(service)
    worker.start()
    try:
        yield worker
    finally:
        await worker.stop()


async def ended(service: ServerContext, id: str, tenant: Tenant = LOCAL) -> Job:
    return await until_async(
        lambda: service.state.jobs.get(tenant, id), lambda job: job.status not in ("queued", "running")
    )


async def test_the_result_is_the_report_of_the_command_line(
    http: httpx.AsyncClient, service: ServerContext, settings: Settings, database: Database, tmp_path: Path
) -> None:
    made = (await http.post("/v1/compliance/reports", json={"packs": ["owasp", "owasp"]})).json()
    assert (made["object"], made["kind"], made["status"]) == ("job", "compliance.check", "queued")
    async with working(service):
        job = await ended(service, made["id"])
    assert job.status == "succeeded" and job.result is not None
    policy = Policy.load("standard")
    context = Context(settings, policy, Guard.of(policy, tmp_path / "terms"), AuditStore(database))
    report = await asyncio.to_thread(make_report, ["owasp"], context, database)
    told: dict[str, Any] = json.loads(job.result)
    assert told | {"made_at": ""} == json.loads(json.dumps(as_json(report))) | {"made_at": ""}
    assert told["packs"][0]["counts"]["pass"] > 0


async def test_a_job_outlives_the_server_that_took_it(
    http: httpx.AsyncClient, service: ServerContext
) -> None:
    id = (await http.post("/v1/compliance/reports", json={"packs": ["eu"]})).json()["id"]
    async with working(service):
        await until_async(lambda: service.state.jobs.get(LOCAL, id), lambda job: job.progress is not None)
    assert (await service.state.jobs.get(LOCAL, id)).status == "queued"
    async with working(service):
        job = await ended(service, id)
    assert job.status == "succeeded" and job.attempts == 2


async def test_a_job_that_is_cancelled_ends_at_its_next_step(
    http: httpx.AsyncClient, service: ServerContext
) -> None:
    id = (await http.post("/v1/compliance/reports", json={})).json()["id"]
    assert json.loads((await service.state.jobs.get(LOCAL, id)).payload) == {"packs": ["cn", "eu", "owasp"]}
    async with working(service):
        await until_async(
            lambda: service.state.jobs.get(LOCAL, id), lambda job: "done" in (job.progress or "")
        )
        await service.state.jobs.cancel(LOCAL, id)
        job = await ended(service, id)
    told: dict[str, Any] = json.loads(job.progress or "{}")
    assert job.status == "cancelled" and job.result is None
    assert told["unit"] == "checks" and 0 < told["done"] <= told["total"] and told["step"]


async def test_who_may_ask_and_for_what(http: httpx.AsyncClient, database: Database) -> None:
    keys = KeyStore(database)

    async def asked(scope: str, body: dict[str, Any]) -> httpx.Response:
        who = {"authorization": f"Bearer {keys.create(Tenant('a'), scope, [scope])[1]}"}
        return await http.post("/v1/compliance/reports", json=body, headers=who)

    assert (await asked("inference", {})).status_code == (await asked("metrics", {})).status_code == 403
    refused = await asked("admin", {"packs": ["mars"]})
    assert refused.status_code == 400 and "cn" in refused.json()["error"]["message"]
    for packs in ([], ["cn"] * 4, "cn"):
        assert (await asked("admin", {"packs": packs})).status_code == 400


async def test_a_policy_that_is_gone_ends_the_job(
    service: ServerContext, http: httpx.AsyncClient, database: Database, tmp_path: Path
) -> None:
    lost = GuardOptions(str(tmp_path / "gone.yaml"), tmp_path / "terms")
    service.options = replace(service.options, guard=lost)
    id = (await http.post("/v1/compliance/reports", json={"packs": ["eu"]})).json()["id"]
    async with working(service):
        job = await ended(service, id)
    assert job.status == "failed" and "gone.yaml" in (job.error or "") and job.attempts == 1
