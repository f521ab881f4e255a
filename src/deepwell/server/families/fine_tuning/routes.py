"""`/v1/fine_tuning/jobs`: jobs that train adapters, their events and their checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from deepwell.errors import InvalidRequest
from deepwell.server.access.principal import principal_of, tenant_of
from deepwell.server.context import ServerContext
from deepwell.server.families.fine_tuning.bodies import (
    FineTuningCheckpointList,
    FineTuningEventList,
    FineTuningJobList,
)
from deepwell.server.families.fine_tuning.creating import audited, create_job
from deepwell.server.families.fine_tuning.described import checkpoint_body, event_body, job_body
from deepwell.server.families.fine_tuning.schema import CheckpointsQuery, FineTuningQuery, FineTuningRequest
from deepwell.server.families.pages import ends_of
from deepwell.server.http.json_route import JsonRoute, json_response
from deepwell.storage.tuning.fine_tuning import TUNE_JOB
from deepwell.storage.tuning.records import StoredFineTuning

__all__ = ["JOB", "JOBS", "router"]

JOBS = "/v1/fine_tuning/jobs"
JOB = f"{JOBS}/{{fine_tuning_job_id}}"


def router(context: ServerContext) -> APIRouter:
    """Returns the routes, bound to `context`."""
    routes = APIRouter(route_class=JsonRoute)

    def answer(request: Request, job: StoredFineTuning) -> Response:
        return json_response(job_body(tenant_of(request), job))

    @routes.post(JOBS, summary="Train an adapter", response_model=None)
    async def create(request: Request, body: FineTuningRequest) -> Response:
        return answer(request, await create_job(context, principal_of(request), body))

    @routes.get(JOBS, summary="List fine-tuning jobs", response_model=None)
    async def listed(request: Request, query: Annotated[FineTuningQuery, Query()]) -> Response:
        wanted, without = _metadata(request.query_params.multi_items())
        page = await context.state.tunings.list(
            tenant_of(request),
            after=query.after,
            limit=query.limit,
            metadata=wanted,
            without_metadata=without,
        )
        data = [job_body(tenant_of(request), one) for one in page.data]
        return json_response(FineTuningJobList(data, *ends_of(data), page.has_more))

    @routes.get(JOB, summary="Fetch a fine-tuning job", response_model=None)
    async def retrieve(request: Request, fine_tuning_job_id: str) -> Response:
        return answer(request, await context.state.tunings.get(tenant_of(request), fine_tuning_job_id))

    @routes.post(f"{JOB}/cancel", summary="Cancel a fine-tuning job", response_model=None)
    async def cancel(request: Request, fine_tuning_job_id: str) -> Response:
        job = await context.state.tunings.cancel(tenant_of(request), fine_tuning_job_id)
        await audited(context, principal_of(request), "cancel", job)
        return answer(request, job)

    @routes.post(f"{JOB}/pause", summary="Pause a fine-tuning job", response_model=None)
    async def pause(request: Request, fine_tuning_job_id: str) -> Response:
        job = await context.state.tunings.pause(tenant_of(request), fine_tuning_job_id)
        await audited(context, principal_of(request), "pause", job)
        return answer(request, job)

    @routes.post(f"{JOB}/resume", summary="Resume a fine-tuning job", response_model=None)
    async def resume(request: Request, fine_tuning_job_id: str) -> Response:
        job = await context.state.tunings.resume(tenant_of(request), fine_tuning_job_id)
        context.state.wake(TUNE_JOB)
        await audited(context, principal_of(request), "resume", job)
        return answer(request, job)

    @routes.get(f"{JOB}/events", summary="List the events of a fine-tuning job", response_model=None)
    async def events(
        request: Request, fine_tuning_job_id: str, query: Annotated[FineTuningQuery, Query()]
    ) -> Response:
        page = await context.state.tunings.events(
            tenant_of(request), fine_tuning_job_id, after=query.after, limit=query.limit
        )
        data = [event_body(one) for one in page.data]
        return json_response(FineTuningEventList(data, *ends_of(data), page.has_more))

    @routes.get(
        f"{JOB}/checkpoints", summary="List the checkpoints of a fine-tuning job", response_model=None
    )
    async def checkpoints(
        request: Request, fine_tuning_job_id: str, query: Annotated[CheckpointsQuery, Query()]
    ) -> Response:
        job = await context.state.tunings.get(tenant_of(request), fine_tuning_job_id)
        page = await context.state.tunings.checkpoints(
            tenant_of(request), fine_tuning_job_id, after=query.after, limit=query.limit
        )
        data = [checkpoint_body(job, one) for one in page.data]
        return json_response(FineTuningCheckpointList(data, *ends_of(data), page.has_more))

    return routes


def _metadata(items: list[tuple[str, str]]) -> tuple[Mapping[str, str], bool]:
    """Returns the pairs that jobs must have, of `metadata[key]=value`, and whether `metadata=null` asks for those without.

    Raises:
        InvalidRequest: both are given, or a parameter is unknown.
    """
    wanted: dict[str, str] = {}
    without = False
    for name, value in items:
        if name.startswith("metadata[") and name.endswith("]"):
            wanted[name[len("metadata[") : -1]] = value
        elif name == "metadata" and value == "null":
            without = True
        elif name not in ("after", "limit"):
            raise InvalidRequest(
                f"unknown parameter {name[:64]!r}",
                fix="the filter of metadata is metadata[key]=value, or metadata=null",
                param=name[:64],
            )
    if wanted and without:
        raise InvalidRequest(
            "metadata=null goes with no metadata[key]=value", fix="leave one of them out", param="metadata"
        )
    return wanted, without
