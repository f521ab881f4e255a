"""`/v1/evals`: evaluations, their runs and the items of runs."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from deepwell.server.access.principal import principal_of, tenant_of
from deepwell.server.context import ServerContext
from deepwell.server.families.evals.bodies import (
    EvalDeleted,
    EvalItemList,
    EvalList,
    EvalRunDeleted,
    EvalRunList,
)
from deepwell.server.families.evals.creating import create_eval, create_run
from deepwell.server.families.evals.described import eval_body, item_body, run_body
from deepwell.server.families.evals.schema import (
    EvalRequest,
    EvalRunRequest,
    EvalsQuery,
    EvalUpdateRequest,
    ItemsQuery,
    RunsQuery,
)
from deepwell.server.families.pages import ends_of
from deepwell.server.http.json_route import JsonRoute, json_response
from deepwell.storage.tuning.evals import StoredRun

__all__ = ["EVAL", "EVALS", "ITEMS", "RUN", "RUNS", "router"]

EVALS = "/v1/evals"
EVAL = f"{EVALS}/{{eval_id}}"
RUNS = f"{EVAL}/runs"
RUN = f"{RUNS}/{{run_id}}"
ITEMS = f"{RUN}/output_items"


def router(context: ServerContext) -> APIRouter:
    """Returns the routes, bound to `context`."""
    routes = APIRouter(route_class=JsonRoute)
    _of_evals(context, routes)
    _of_runs(context, routes)
    _of_items(context, routes)
    return routes


def _of_evals(context: ServerContext, routes: APIRouter) -> None:
    @routes.post(EVALS, summary="Make an evaluation", response_model=None)
    async def create(request: Request, body: EvalRequest) -> Response:
        return json_response(eval_body(await create_eval(context, tenant_of(request), body)))

    @routes.get(EVALS, summary="List evaluations", response_model=None)
    async def listed(request: Request, query: Annotated[EvalsQuery, Query()]) -> Response:
        page = await context.state.evals.list(
            tenant_of(request), after=query.after, limit=query.limit, order=query.order, by=query.order_by
        )
        data = [eval_body(one) for one in page.data]
        return json_response(EvalList(data, *ends_of(data), page.has_more))

    @routes.get(EVAL, summary="Fetch an evaluation", response_model=None)
    async def retrieve(request: Request, eval_id: str) -> Response:
        return json_response(eval_body(await context.state.evals.get(tenant_of(request), eval_id)))

    @routes.post(EVAL, summary="Change an evaluation", response_model=None)
    async def update(request: Request, eval_id: str, body: EvalUpdateRequest) -> Response:
        values: dict[str, Any] = {}
        if body.name is not None:
            values["name"] = body.name
        if "metadata" in body.model_fields_set:
            values["metadata"] = (
                None if body.metadata is None else msgspec.json.encode(body.metadata).decode()
            )
        stored = await context.state.evals.update(tenant_of(request), eval_id, values)
        return json_response(eval_body(stored))

    @routes.delete(EVAL, summary="Delete an evaluation with its runs", response_model=None)
    async def delete(request: Request, eval_id: str) -> Response:
        await context.state.evals.delete(tenant_of(request), eval_id)
        return json_response(EvalDeleted(eval_id))


def _of_runs(context: ServerContext, routes: APIRouter) -> None:
    async def answer(request: Request, run: StoredRun) -> Response:
        return json_response(await run_body(context.state, tenant_of(request), run, str(request.base_url)))

    @routes.post(RUNS, summary="Start a run", response_model=None)
    async def create(request: Request, eval_id: str, body: EvalRunRequest) -> Response:
        return await answer(request, await create_run(context, principal_of(request), eval_id, body))

    @routes.get(RUNS, summary="List runs", response_model=None)
    async def listed(request: Request, eval_id: str, query: Annotated[RunsQuery, Query()]) -> Response:
        tenant = tenant_of(request)
        page = await context.state.evals.runs(
            tenant, eval_id, after=query.after, limit=query.limit, order=query.order, status=query.status
        )
        url = str(request.base_url)
        data = [await run_body(context.state, tenant, one, url) for one in page.data]
        return json_response(EvalRunList(data, *ends_of(data), page.has_more))

    @routes.get(RUN, summary="Fetch a run", response_model=None)
    async def retrieve(request: Request, eval_id: str, run_id: str) -> Response:
        return await answer(request, await context.state.evals.run(tenant_of(request), run_id, eval_id))

    # The document has the first path, and the official SDK calls the second.
    @routes.post(RUN, summary="Cancel a run", response_model=None)
    @routes.post(f"{RUN}/cancel", summary="Cancel a run, as the SDK does", response_model=None)
    async def cancel(request: Request, eval_id: str, run_id: str) -> Response:
        return await answer(
            request, await context.state.evals.cancel_run(tenant_of(request), run_id, eval_id)
        )

    @routes.delete(RUN, summary="Delete a run", response_model=None)
    async def delete(request: Request, eval_id: str, run_id: str) -> Response:
        await context.state.evals.delete_run(tenant_of(request), run_id, eval_id)
        return json_response(EvalRunDeleted(run_id))


def _of_items(context: ServerContext, routes: APIRouter) -> None:
    @routes.get(ITEMS, summary="List the items of a run", response_model=None)
    async def listed(
        request: Request, eval_id: str, run_id: str, query: Annotated[ItemsQuery, Query()]
    ) -> Response:
        tenant = tenant_of(request)
        run = await context.state.evals.run(tenant, run_id, eval_id)
        page = await context.state.evals.items(
            tenant,
            run_id,
            after=query.after,
            limit=query.limit,
            order=query.order,
            passed=None if query.status is None else query.status == "pass",
        )
        data = [item_body(run, one) for one in page.data]
        return json_response(EvalItemList(data, *ends_of(data), page.has_more))

    @routes.get(f"{ITEMS}/{{output_item_id}}", summary="Fetch an item of a run", response_model=None)
    async def retrieve(request: Request, eval_id: str, run_id: str, output_item_id: str) -> Response:
        tenant = tenant_of(request)
        run = await context.state.evals.run(tenant, run_id, eval_id)
        item = await context.state.evals.item(tenant, run_id, output_item_id)
        return json_response(item_body(run, item))
