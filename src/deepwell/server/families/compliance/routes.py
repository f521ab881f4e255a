"""`/v1/compliance/reports`: queues the checks of compliance packs as a job, whose result is the report."""

from __future__ import annotations

import json

from fastapi import APIRouter, Request
from starlette.responses import Response

from deepwell.safety.compliance.packs import PACKS
from deepwell.server.access.principal import tenant_of
from deepwell.server.context import ServerContext
from deepwell.server.families.compliance.schema import ComplianceRequest
from deepwell.server.families.compliance.worker import COMPLIANCE_JOB
from deepwell.server.families.jobs.described import job_body
from deepwell.server.http.json_route import JsonRoute, json_response

__all__ = ["router"]


def router(context: ServerContext) -> APIRouter:
    """Returns the route, bound to `context`."""
    routes = APIRouter(route_class=JsonRoute)

    @routes.post("/v1/compliance/reports", summary="Run compliance checks", response_model=None)
    async def report(request: Request, body: ComplianceRequest) -> Response:
        payload = json.dumps({"packs": list(dict.fromkeys(body.packs or PACKS))})
        job = await context.state.jobs.enqueue(tenant_of(request), COMPLIANCE_JOB, payload)
        return json_response(job_body(job))

    return routes
