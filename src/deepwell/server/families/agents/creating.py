"""New runs, and the tools that they may call."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import AsyncExitStack

from deepwell.agents.kit import ABOUT, open_tools
from deepwell.agents.loop.agent import begun
from deepwell.agents.loop.steps import Entry
from deepwell.errors import DeepwellError
from deepwell.server.access.principal import Principal
from deepwell.server.context import ServerContext
from deepwell.server.families.agents.bodies import AgentTool
from deepwell.server.families.agents.request import KeptRequest
from deepwell.server.families.agents.schema import AgentRunRequest
from deepwell.server.families.agents.stored import step_of
from deepwell.server.families.agents.wiring import agent_of, server_kit, stores_of
from deepwell.server.families.batches.owner import payload_of
from deepwell.storage.agents import AGENT_JOB, StoredAgentRun
from deepwell.storage.clock import shared_time

__all__ = ["create_run", "offered_tools"]

_MOST_TASK = 300  # characters that lists show


async def create_run(context: ServerContext, principal: Principal, body: AgentRunRequest) -> StoredAgentRun:
    """Checks model, tools and task, and stores a run with its first step.

    Raises:
        ModelNotFound: the model is not served.
        InvalidRequest: a tool is unknown, not offered or cannot be had, or its schema cannot be used.
        InsufficientScope: the key may not read what a tool reads.
        MissingDependency: the extra of agents, or of a tool, is missing.
        TooManyAgentRuns: the tenant has too many runs that have not ended.
    """
    usable: tuple[str, ...] = ()
    if body.tools is None:
        usable = tuple(one.name for one in await offered_tools(context, principal) if one.why_not is None)
    request = KeptRequest.of(body, usable, may_read=principal.may("files"))
    messages = (
        [{"role": "user", "content": body.input}]
        if isinstance(body.input, str)
        else [one.model_dump() for one in body.input]
    )
    async with AsyncExitStack() as stack:
        agent = await agent_of(context, principal, request, stack)
        started = await asyncio.to_thread(begun, agent, messages)  # it looks into folders and tables
    said = [str(one["content"]) for one in messages if one["role"] == "user"]
    run = StoredAgentRun(
        id=f"run_{uuid.uuid4().hex}",
        status="queued",
        model=body.model,
        task=(said[-1] if said else "")[:_MOST_TASK],
        request=request.kept(),
        created_at=int(shared_time()),
    )
    step = step_of(Entry(0, shared_time(), 0.0, started))
    run = await context.state.agents.create(principal.tenant, run, [step], payload=payload_of(principal))
    context.state.wake(AGENT_JOB)
    return run


async def offered_tools(context: ServerContext, principal: Principal) -> list[AgentTool]:
    """Returns the tools that the operator allows, each with what a model may call and why it cannot be used now."""
    found: list[AgentTool] = []
    for name in context.options.agents.tools:
        why, functions = None, list[dict[str, object]]()
        try:
            async with AsyncExitStack() as stack:
                tools = await open_tools([name], server_kit(context, None), stack)
                functions = [one.function().rendered()["function"] for one in tools]
            if name == "knowledge":
                why = await _nothing_to_search(context, principal)
        except DeepwellError as error:
            why = str(error)
        except OSError as error:
            why = error.strerror or type(error).__name__
        about = ABOUT.get(name, f"tools of the MCP server {name.removeprefix('mcp:')}")
        found.append(AgentTool(name, about, functions, why))
    return found


async def _nothing_to_search(context: ServerContext, principal: Principal) -> str | None:
    if not principal.may("files"):
        return "this API key does not have the scope 'files'"
    return None if await stores_of(context, principal.tenant) else "there is no vector store"
