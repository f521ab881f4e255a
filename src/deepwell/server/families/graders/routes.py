"""`/v1/fine_tuning/alpha/graders/run` and `/validate`."""

from __future__ import annotations

import time

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from deepwell.server.access.principal import principal_of
from deepwell.server.context import ServerContext
from deepwell.server.families.graders.bodies import GraderErrors, GraderMetadata, GraderRun, GraderValidation
from deepwell.server.families.graders.models import ServedGrading
from deepwell.server.families.graders.schema import GraderRunRequest, GraderValidateRequest
from deepwell.server.http.json_route import JsonRoute, json_response
from deepwell.storage.database import Tenant
from deepwell.tuning.evaluate.graders import Grade, Grader, Multi, parse_grader, run_grader, sample_of

__all__ = ["GRADERS", "check_models", "router"]

GRADERS = "/v1/fine_tuning/alpha/graders"


def router(context: ServerContext) -> APIRouter:
    """Returns the routes, bound to `context`."""
    routes = APIRouter(route_class=JsonRoute)

    @routes.post(f"{GRADERS}/validate", summary="Check a grader", response_model=None)
    async def validate(request: Request, body: GraderValidateRequest) -> Response:
        await check_models(context, parse_grader(body.grader), principal_of(request).tenant)
        return json_response(GraderValidation(body.grader))

    @routes.post(f"{GRADERS}/run", summary="Judge an answer", response_model=None)
    async def run(request: Request, body: GraderRunRequest) -> Response:
        principal = principal_of(request)
        grader = parse_grader(body.grader)
        await check_models(context, grader, principal.tenant)
        serving = ServedGrading(context, principal)
        began = time.perf_counter()
        grade = await run_grader(
            grader, item=body.item or {}, sample=sample_of(body.model_sample), model=serving, embedder=serving
        )
        return json_response(_body(grader, grade, time.perf_counter() - began))

    return routes


async def check_models(context: ServerContext, grader: Grader, tenant: Tenant) -> None:
    """Checks that the models which a grader asks are served.

    Raises:
        ModelNotFound, InvalidRequest: one is not, or generates no text.
    """
    parts = list(grader.graders.values()) if isinstance(grader, Multi) else [grader]
    for part in parts:
        name = getattr(part, "model", None)
        if name is not None:
            await context.generator(name, tenant)


def _body(grader: Grader, grade: Grade, seconds: float) -> GraderRun:
    errors = GraderErrors()
    if grade.error is not None:
        errors = msgspec.structs.replace(errors, **{grade.error: True})
        if grade.error == "model_grader_server_error":
            errors.model_grader_server_error_details = grade.detail
    tokens = dict(grade.tokens)
    metadata = GraderMetadata(
        errors=errors,
        execution_time=seconds,
        name=grade.name,
        sampled_model_name=getattr(grader, "model", None),
        scores=dict(grade.scores) or {grade.name: grade.score},
        token_usage=sum(tokens.values()) if tokens else None,
        type=grade.type,
    )
    return GraderRun(metadata, tokens, grade.score, dict(grade.scores))
