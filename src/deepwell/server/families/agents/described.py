"""Runs and steps as the API shows them."""

from __future__ import annotations

from typing import Any

import msgspec

from deepwell.server.families.agents.bodies import AgentBudget, AgentCall, AgentRun, AgentStep, AgentUsage
from deepwell.server.families.agents.request import KeptRequest
from deepwell.storage.agents import StoredAgentRun, StoredStep

__all__ = ["pending_of", "run_body", "step_body"]


def run_body(row: StoredAgentRun) -> AgentRun:
    """Returns a run."""
    request = KeptRequest.read(row.request)
    budget = request.budget
    return AgentRun(
        id=row.id,
        status=row.status,
        model=row.model,
        input=row.task,
        output_text=row.text,
        reason=row.reason,
        limit=row.reached,
        required_action=pending_of(row),
        tools=[*request.tools, *(one["name"] for one in request.functions)],
        checks=request.options.checks,
        budget=AgentBudget(budget.turns, budget.calls, budget.tokens, budget.seconds),
        usage=AgentUsage(
            row.turns,
            row.calls,
            row.prompt_tokens,
            row.completion_tokens,
            row.prompt_tokens + row.completion_tokens,
            round(row.seconds, 3),
        ),
        metadata=request.metadata,
        created_at=row.created_at,
        finished_at=row.finished_at,
    )


def pending_of(row: StoredAgentRun) -> list[AgentCall]:
    """Returns the calls that wait for a person or for the client."""
    return msgspec.json.decode(row.pending, type=list[AgentCall])


def step_body(step: StoredStep) -> AgentStep:
    """Returns a step."""
    body: dict[str, Any] = msgspec.json.decode(step.body)
    return AgentStep(step.number, body["at"], body["clock"], body["step"])
