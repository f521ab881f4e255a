"""`/v1/jobs`: durable work of every kind: batches, ingestion, pulled models and others."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from deepwell.errors import NotFound
from deepwell.server.access.principal import principal_of, tenant_of
from deepwell.server.context import ServerContext
from deepwell.server.families.jobs.bodies import JobList
from deepwell.server.families.jobs.cancelling import cancel_job
from deepwell.server.families.jobs.described import job_body
from deepwell.server.families.jobs.kinds import hidden_kinds
from deepwell.server.families.jobs.schema import JobsQuery
from deepwell.server.http.json_route import json_response
from deepwell.server.http.lazy_route import LazyRoute
from deepwell.storage.jobs import Job

__all__ = ["router"]

_JOB = "/v1/jobs/{job_id}"


def router(context: ServerContext) -> APIRouter:
    """Returns the routes, bound to `context`."""
    routes = APIRouter(route_class=LazyRoute)

    async def found(request: Request, id: str) -> Job:
        job = await context.state.jobs.get(tenant_of(request), id)
        if job.kind in hidden_kinds(principal_of(request)):
            raise NotFound(f"there is no job {id!r}", fix="it was never made: check the id")
        return job

    @routes.get("/v1/jobs", summary="List jobs", response_model=None)
    async def listed(request: Request, query: Annotated[JobsQuery, Query()]) -> Response:
        page = await context.state.jobs.list(
            tenant_of(request),
            query.kind,
            status=query.status,
            besides=hidden_kinds(principal_of(request)),
            after=query.after,
            limit=query.limit,
            order=query.order,
        )
        data = [job_body(one) for one in page.data]
        first, last = (data[0].id, data[-1].id) if data else (None, None)
        return json_response(JobList(data, first, last, page.has_more))

    @routes.get(_JOB, summary="Fetch a job", response_model=None)
    async def retrieve(request: Request, job_id: str) -> Response:
        return json_response(job_body(await found(request, job_id)))

    @routes.post(f"{_JOB}/cancel", summary="Cancel a job", response_model=None)
    async def cancel(request: Request, job_id: str) -> Response:
        job = await cancel_job(context, tenant_of(request), await found(request, job_id))
        return json_response(job_body(job))

    return routes
