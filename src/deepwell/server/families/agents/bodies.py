"""The bodies of `/v1/agents`."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

__all__ = [
    "AgentBudget",
    "AgentCall",
    "AgentRun",
    "AgentRunDeleted",
    "AgentRunList",
    "AgentStep",
    "AgentStepList",
    "AgentTool",
    "AgentToolList",
    "AgentUsage",
]


class AgentBudget(Struct):
    """The most that a run may use."""

    turns: int
    calls: int
    tokens: int
    seconds: float


class AgentUsage(Struct):
    """The use of a run so far."""

    turns: int
    calls: int
    input_tokens: int
    output_tokens: int
    total_tokens: int
    seconds: float


class AgentCall(Struct):
    """A call that waits: `approval` for a person, `output` for the client's result."""

    id: str
    name: str
    arguments: str
    needs: str


class AgentRun(Struct, tag_field="object", tag="agent.run"):
    """A run."""

    id: str
    status: str
    model: str
    input: str
    output_text: str
    reason: str
    limit: str | None
    required_action: list[AgentCall]
    tools: list[str]
    checks: bool
    budget: AgentBudget
    usage: AgentUsage
    metadata: dict[str, str] | None
    created_at: int
    finished_at: int | None


class AgentRunList(Struct, tag_field="object", tag="list"):
    """A page of runs."""

    data: list[AgentRun]
    first_id: str | None
    last_id: str | None
    has_more: bool


class AgentRunDeleted(Struct, tag_field="object", tag="agent.run.deleted"):
    """A run that is gone."""

    id: str
    deleted: bool = True


class AgentStep(Struct, tag_field="object", tag="agent.step"):
    """A step. `step` has its type and what the type says: started, turn, note, call, result, decision or end."""

    number: int
    at: float
    clock: float
    step: dict[str, Any]


class AgentStepList(Struct, tag_field="object", tag="list"):
    """Steps of a run."""

    data: list[AgentStep]
    has_more: bool


class AgentTool(Struct, tag_field="object", tag="agent.tool"):
    """A tool that the server offers to runs. `why_not`: why it cannot be used now, or null."""

    name: str
    description: str
    functions: list[dict[str, Any]]
    why_not: str | None


class AgentToolList(Struct, tag_field="object", tag="list"):
    """The tools."""

    data: list[AgentTool]
