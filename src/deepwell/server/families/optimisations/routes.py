"""`/v1/prompt_optimisations`: jobs that search for a better prompt."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from deepwell.safety.audit.trail import now_ms
from deepwell.server.access.principal import Principal, principal_of, tenant_of
from deepwell.server.context import ServerContext
from deepwell.server.families.optimisations.bodies import OptimisationList
from deepwell.server.families.optimisations.creating import create_optimisation
from deepwell.server.families.optimisations.described import optimisation_body
from deepwell.server.families.optimisations.schema import OptimisationRequest
from deepwell.server.families.pages import PageQuery, ends_of
from deepwell.server.http.json_route import JsonRoute, json_response
from deepwell.storage.jobs import Job
from deepwell.storage.safety.chain import AuditRecord
from deepwell.storage.tuning.works import OPTIMISE_JOB

__all__ = ["OPTIMISATION", "OPTIMISATIONS", "router"]

OPTIMISATIONS = "/v1/prompt_optimisations"
OPTIMISATION = f"{OPTIMISATIONS}/{{prompt_optimisation_id}}"


def router(context: ServerContext) -> APIRouter:
    """Returns the routes, bound to `context`."""
    routes = APIRouter(route_class=JsonRoute)
    checking = asyncio.Lock()

    @routes.post(OPTIMISATIONS, summary="Search for a better prompt", response_model=None)
    async def create(request: Request, body: OptimisationRequest) -> Response:
        principal = principal_of(request)
        job = await create_optimisation(context, principal, body, checking)
        await _audited(context, principal, "create", job, body.prompt.id)
        return json_response(optimisation_body(job))

    @routes.get(OPTIMISATIONS, summary="List searches for prompts", response_model=None)
    async def listed(request: Request, query: Annotated[PageQuery, Query()]) -> Response:
        page = await context.state.works.list(
            tenant_of(request), OPTIMISE_JOB, after=query.after, limit=query.limit, order=query.order
        )
        data = [optimisation_body(one) for one in page.data]
        return json_response(OptimisationList(data, *ends_of(data), page.has_more))

    @routes.get(OPTIMISATION, summary="Fetch a search for a prompt", response_model=None)
    async def retrieve(request: Request, prompt_optimisation_id: str) -> Response:
        job = await context.state.works.get(tenant_of(request), OPTIMISE_JOB, prompt_optimisation_id)
        return json_response(optimisation_body(job))

    @routes.post(f"{OPTIMISATION}/cancel", summary="Cancel a search for a prompt", response_model=None)
    async def cancel(request: Request, prompt_optimisation_id: str) -> Response:
        principal = principal_of(request)
        job = await context.state.works.cancel(principal.tenant, OPTIMISE_JOB, prompt_optimisation_id)
        body = optimisation_body(job)
        await _audited(context, principal, "cancel", job, body.prompt.id)
        return json_response(body)

    return routes


async def _audited(
    context: ServerContext, principal: Principal, action: str, job: Job, prompt_id: str
) -> None:
    """Adds what was done with a search to the tenant's audit trail."""
    fields = {"action": action, "job": job.id, "key_id": principal.key_id}
    record = AuditRecord("prompt_optimisation", now_ms(), fields, named={"prompt": prompt_id})
    await context.audit.record(principal.tenant, record, durable=True)
