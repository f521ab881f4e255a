"""`/v1/compression/jobs`: jobs that make a smaller model, and their events."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from deepwell.safety.audit.trail import now_ms
from deepwell.server.access.principal import Principal, principal_of, tenant_of
from deepwell.server.context import ServerContext
from deepwell.server.families.compression.bodies import CompressionJobList
from deepwell.server.families.compression.creating import create_compression
from deepwell.server.families.compression.described import compression_body, events_page
from deepwell.server.families.compression.schema import CompressionRequest
from deepwell.server.families.pages import PageQuery, ends_of
from deepwell.server.http.json_route import JsonRoute, json_response
from deepwell.storage.jobs import Job
from deepwell.storage.safety.chain import AuditRecord
from deepwell.storage.tuning.works import COMPRESS_JOB

__all__ = ["JOB", "JOBS", "router"]

JOBS = "/v1/compression/jobs"
JOB = f"{JOBS}/{{compression_job_id}}"


class _EventsQuery(BaseModel):
    """A page of events."""

    model_config = ConfigDict(extra="forbid")

    after: str | None = Field(None, description="The last id of the page before.")
    limit: int = Field(20, ge=1, le=100)


def router(context: ServerContext) -> APIRouter:
    """Returns the routes, bound to `context`."""
    routes = APIRouter(route_class=JsonRoute)

    async def found(request: Request, id: str) -> Job:
        return await context.state.works.get(tenant_of(request), COMPRESS_JOB, id)

    @routes.post(JOBS, summary="Make a smaller model", response_model=None)
    async def create(request: Request, body: CompressionRequest) -> Response:
        job = await create_compression(context, principal_of(request), body)
        await _audited(context, principal_of(request), "create", job, body.model)
        return json_response(compression_body(job))

    @routes.get(JOBS, summary="List compressions", response_model=None)
    async def listed(request: Request, query: Annotated[PageQuery, Query()]) -> Response:
        page = await context.state.works.list(
            tenant_of(request), COMPRESS_JOB, after=query.after, limit=query.limit, order=query.order
        )
        data = [compression_body(one) for one in page.data]
        return json_response(CompressionJobList(data, *ends_of(data), page.has_more))

    @routes.get(JOB, summary="Fetch a compression", response_model=None)
    async def retrieve(request: Request, compression_job_id: str) -> Response:
        return json_response(compression_body(await found(request, compression_job_id)))

    @routes.post(f"{JOB}/cancel", summary="Cancel a compression", response_model=None)
    async def cancel(request: Request, compression_job_id: str) -> Response:
        principal = principal_of(request)
        job = await context.state.works.cancel(principal.tenant, COMPRESS_JOB, compression_job_id)
        body = compression_body(job)
        await _audited(context, principal, "cancel", job, body.model)
        return json_response(body)

    @routes.get(f"{JOB}/events", summary="List the events of a compression", response_model=None)
    async def events(
        request: Request, compression_job_id: str, query: Annotated[_EventsQuery, Query()]
    ) -> Response:
        job = await found(request, compression_job_id)
        return json_response(events_page(job, query.after, query.limit))

    return routes


async def _audited(context: ServerContext, principal: Principal, action: str, job: Job, model: str) -> None:
    """Adds what was done with a compression to the tenant's audit trail."""
    fields = {"action": action, "job": job.id, "model": model, "key_id": principal.key_id}
    record = AuditRecord("compression", now_ms(), fields)
    await context.audit.record(principal.tenant, record, durable=True)
