"""`/v1/agents`: runs of agents, their steps, and the tools that they may call."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Annotated

import msgspec
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from deepwell.server.access.principal import principal_of, tenant_of
from deepwell.server.context import ServerContext
from deepwell.server.families.agents.answering import cancel_run, decide, submit
from deepwell.server.families.agents.bodies import (
    AgentRunDeleted,
    AgentRunList,
    AgentStepList,
    AgentToolList,
)
from deepwell.server.families.agents.creating import create_run, offered_tools
from deepwell.server.families.agents.described import run_body, step_body
from deepwell.server.families.agents.desk import desk_of
from deepwell.server.families.agents.schema import (
    AgentRunRequest,
    ApprovalRequest,
    DenialRequest,
    OutputsRequest,
    RunsQuery,
    StepsQuery,
)
from deepwell.server.families.pages import ends_of
from deepwell.server.http.json_route import JsonRoute, json_response
from deepwell.server.http.sse import EventStream, event
from deepwell.storage.agents import StoredAgentRun
from deepwell.storage.database import Tenant

__all__ = ["RUN", "RUNS", "TOOLS", "router"]

RUNS = "/v1/agents/runs"
RUN = f"{RUNS}/{{agent_run_id}}"
TOOLS = "/v1/agents/tools"

_encode = msgspec.json.encode


def router(context: ServerContext) -> APIRouter:
    """Returns the routes, bound to `context`."""
    routes = APIRouter(route_class=JsonRoute)

    async def shown(run: StoredAgentRun) -> Response:
        return json_response(run_body(run))

    @routes.post(RUNS, summary="Run an agent", response_model=None)
    async def create(request: Request, body: AgentRunRequest) -> Response:
        principal = principal_of(request)
        run = await create_run(context, principal, body)
        if body.stream:
            return EventStream(_events(context, principal.tenant, run.id, -1), context.stopped)
        return await shown(run)

    @routes.get(RUNS, summary="List runs of agents", response_model=None)
    async def listed(request: Request, query: Annotated[RunsQuery, Query()]) -> Response:
        page = await context.state.agents.list(
            tenant_of(request), status=query.status, after=query.after, limit=query.limit, order=query.order
        )
        data = [run_body(one) for one in page.data]
        return json_response(AgentRunList(data, *ends_of(data), page.has_more))

    @routes.get(RUN, summary="Fetch a run of an agent", response_model=None)
    async def retrieve(request: Request, agent_run_id: str) -> Response:
        return await shown(await context.state.agents.get(tenant_of(request), agent_run_id))

    @routes.delete(RUN, summary="Delete a run of an agent", response_model=None)
    async def delete(request: Request, agent_run_id: str) -> Response:
        await context.state.agents.delete(tenant_of(request), agent_run_id)
        return json_response(AgentRunDeleted(agent_run_id))

    @routes.get(f"{RUN}/steps", summary="List the steps of a run", response_model=None)
    async def steps(request: Request, agent_run_id: str, query: Annotated[StepsQuery, Query()]) -> Response:
        tenant, store = tenant_of(request), context.state.agents
        if query.stream:
            await store.get(tenant, agent_run_id)
            return EventStream(_events(context, tenant, agent_run_id, query.after), context.stopped)
        found = await store.steps(tenant, agent_run_id, after=query.after, limit=query.limit + 1)
        data = [step_body(one) for one in found[: query.limit]]
        return json_response(AgentStepList(data, len(found) > query.limit))

    @routes.post(f"{RUN}/cancel", summary="Cancel a run of an agent", response_model=None)
    async def cancel(request: Request, agent_run_id: str) -> Response:
        return await shown(await cancel_run(context, tenant_of(request), agent_run_id))

    @routes.post(f"{RUN}/approve", summary="Approve calls of a run", response_model=None)
    async def approve(request: Request, agent_run_id: str, body: ApprovalRequest) -> Response:
        principal = principal_of(request)
        return await shown(
            await decide(context, principal, agent_run_id, body.call_ids, body.reason, is_approved=True)
        )

    @routes.post(f"{RUN}/deny", summary="Deny calls of a run", response_model=None)
    async def deny(request: Request, agent_run_id: str, body: DenialRequest) -> Response:
        principal = principal_of(request)
        return await shown(
            await decide(context, principal, agent_run_id, body.call_ids, body.reason, is_approved=False)
        )

    @routes.post(
        f"{RUN}/submit_tool_outputs", summary="Give results of functions to a run", response_model=None
    )
    async def outputs(request: Request, agent_run_id: str, body: OutputsRequest) -> Response:
        return await shown(await submit(context, principal_of(request), agent_run_id, body))

    @routes.get(TOOLS, summary="List the tools of agents", response_model=None)
    async def tools(request: Request) -> Response:
        return json_response(AgentToolList(await offered_tools(context, principal_of(request))))

    return routes


async def _events(context: ServerContext, tenant: Tenant, id: str, after: int) -> AsyncGenerator[bytes]:
    """Yields the run, its steps behind a number as they come, and the run again once it ends or waits."""
    store, desk = context.state.agents, desk_of(context)
    yield event(_encode(run_body(await store.get(tenant, id))))
    with desk.watching(tenant, id):
        while True:
            run = await store.get(tenant, id)
            for step in await store.steps(tenant, id, after=after):
                after = step.number
                yield event(_encode(step_body(step)))
            if run.status not in ("queued", "in_progress"):
                yield event(_encode(run_body(run)))
                return
            await desk.wait(tenant, id)
