"""Approvals, denials and results, which people and clients give to runs that wait."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from deepwell.agents.loop.calling import result_of
from deepwell.agents.loop.clean import read_json
from deepwell.agents.loop.steps import CallStarted, Decided, Ended, Entry, Step, decode_entry
from deepwell.agents.tools.tool import ToolOutput
from deepwell.errors import InvalidRequest
from deepwell.server.access.principal import Principal
from deepwell.server.context import ServerContext
from deepwell.server.families.agents.bodies import AgentCall
from deepwell.server.families.agents.described import pending_of
from deepwell.server.families.agents.desk import desk_of
from deepwell.server.families.agents.request import KeptRequest
from deepwell.server.families.agents.schema import OutputsRequest
from deepwell.server.families.agents.stored import step_of
from deepwell.server.families.batches.owner import payload_of
from deepwell.storage.agents import AGENT_JOB, StoredAgentRun, StoredStep
from deepwell.storage.clock import shared_time
from deepwell.storage.database import Tenant

__all__ = ["cancel_run", "chosen_calls", "decide", "following", "submit"]


async def decide(
    context: ServerContext,
    principal: Principal,
    id: str,
    call_ids: Sequence[str] | None,
    reason: str,
    *,
    is_approved: bool,
) -> StoredAgentRun:
    """Keeps the decision of a person about calls of a run; it goes on once nothing waits.

    Raises:
        NotFound: the tenant has no such run.
        InvalidRequest: a call does not wait for a decision.
    """
    run = await context.state.agents.get(principal.tenant, id)
    chosen = chosen_calls(run, "approval", call_ids)
    return await _answer(
        context, principal, run, [Decided(one.id, is_approved, reason) for one in chosen], chosen
    )


async def submit(
    context: ServerContext, principal: Principal, id: str, body: OutputsRequest
) -> StoredAgentRun:
    """Keeps results of the client's functions; the run goes on once nothing waits.

    Raises:
        NotFound: the tenant has no such run.
        InvalidRequest: a call does not wait for a result, or one is given twice.
    """
    run = await context.state.agents.get(principal.tenant, id)
    chosen = chosen_calls(run, "output", [one.call_id for one in body.outputs])
    options = KeptRequest.read(run.request).options
    steps: list[Step] = []
    for call, given in zip(chosen, body.outputs, strict=True):
        arguments = read_json(call.arguments.strip() or "{}")  # it was checked before the run stopped
        steps.append(CallStarted(call.id, call.name, arguments, "reads"))
        steps.append(result_of(call.id, ToolOutput(given.output, given.failed), options))
    return await _answer(context, principal, run, steps, chosen)


async def cancel_run(context: ServerContext, tenant: Tenant, id: str) -> StoredAgentRun:
    """Ends a run: one that nobody works on at once, another within its step.

    Raises:
        NotFound: the tenant has no such run.
    """
    run = await context.state.agents.get(tenant, id)
    reason = "the run was cancelled"
    end = step_of(Entry(0, shared_time(), run.seconds, Ended("cancelled", "", reason)))
    run = await context.state.agents.cancel(tenant, id, end, reason)
    desk_of(context).cancel(tenant, id)
    desk_of(context).tell(tenant, id)
    return run


def chosen_calls(run: StoredAgentRun, needs: str, call_ids: Sequence[str] | None) -> list[AgentCall]:
    """Returns the named calls of a run that wait for something; None: all that do.

    Raises:
        InvalidRequest: a call does not wait for it, or none does.
    """
    waiting = {one.id: one for one in pending_of(run) if one.needs == needs}
    ids = list(waiting) if call_ids is None else call_ids
    for id in ids:
        if id not in waiting or ids.count(id) > 1:
            known = ", ".join(waiting) or "no call"
            raise InvalidRequest(
                f"the call {id!r} of the run {run.id!r} waits for no {needs}",
                fix=f"{known} does; name each once",
                param="call_ids" if needs == "approval" else "outputs",
            )
    if not ids:
        raise InvalidRequest(
            f"no call of the run {run.id!r} waits for an {needs}: it is {run.status}",
            fix="read the run again: `deepwell agent show` or GET /v1/agents/runs/ID",
        )
    return [waiting[id] for id in ids]


def following(last: StoredStep, steps: Sequence[Step]) -> list[StoredStep]:
    """Returns steps as the rows that follow a last one."""
    entry = decode_entry(last.body)
    return [
        step_of(Entry(entry.number + place, shared_time(), entry.clock, step))
        for place, step in enumerate(steps, start=1)
    ]


async def _answer(
    context: ServerContext,
    principal: Principal,
    run: StoredAgentRun,
    steps: Sequence[Step],
    done: Sequence[AgentCall],
) -> StoredAgentRun:
    store, tenant = context.state.agents, principal.tenant
    if KeptRequest.read(run.request).is_local:
        raise InvalidRequest.of("agent_run_elsewhere", id=run.id)
    entries = following((await store.steps(tenant, run.id))[-1], steps)
    left = [one for one in pending_of(run) if one not in done]
    kept = await store.answer(
        tenant,
        run.id,
        entries,
        left=msgspec.json.encode(left).decode() if left else None,
        payload=payload_of(principal),
    )
    context.state.wake(AGENT_JOB)
    desk_of(context).tell(tenant, run.id)
    return kept
