"""The requests of `/v1/agents`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "AgentMessage",
    "AgentRunRequest",
    "ApprovalRequest",
    "BudgetSpec",
    "DenialRequest",
    "FunctionSpec",
    "KnowledgeSpec",
    "OutputSpec",
    "OutputsRequest",
    "RunsQuery",
    "StepsQuery",
]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class AgentMessage(_Strict):
    """A message of the conversation that a run begins with."""

    role: Literal["user", "assistant", "system", "developer"]
    content: str = Field(min_length=1, max_length=1_000_000)


class KnowledgeSpec(_Strict):
    """The tool that searches documents, bound to some vector stores."""

    type: Literal["knowledge"]
    vector_store_ids: list[str] = Field(min_length=1, max_length=16)


class FunctionSpec(_Strict):
    """A tool whose calls the client makes: the run waits for their results."""

    type: Literal["function"]
    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    description: str = Field("", max_length=4096)
    parameters: dict[str, Any] = Field(default_factory=dict[str, Any])
    strict: bool = True


ToolSpec = Annotated[KnowledgeSpec | FunctionSpec, Field(discriminator="type")]


class BudgetSpec(_Strict):
    """The most that a run may use."""

    turns: int = Field(20, ge=1, le=200, description="Answers of the model.")
    calls: int = Field(40, ge=1, le=1000, description="Calls of tools.")
    tokens: int = Field(
        200_000, ge=1, le=10_000_000, description="Tokens that the model reads and writes, together."
    )
    seconds: float = Field(
        900, gt=0, le=86_400, description="Time at work; waiting for people does not count."
    )


class AgentRunRequest(_Strict):
    """A run."""

    model: str = Field(min_length=1, max_length=256)
    input: (
        Annotated[str, Field(min_length=1, max_length=1_000_000)]
        | Annotated[list[AgentMessage], Field(min_length=1, max_length=500)]
    )
    instructions: str | None = Field(
        None, max_length=100_000, description="The system message; left out, that of Deepwell's agents."
    )
    tools: list[Annotated[str, Field(min_length=1, max_length=64)] | ToolSpec] | None = Field(
        None,
        max_length=64,
        description="Names of the server's tools, and functions; left out, all that the server offers.",
    )
    budget: BudgetSpec = BudgetSpec.model_validate({})
    checks: bool = Field(
        True, description="Whether the loop explains failed calls and asks again about doubtful answers."
    )
    temperature: float = Field(0.0, ge=0, le=2)
    seed: int | None = Field(None, ge=0)
    max_output_tokens: int = Field(1024, ge=1, le=100_000, description="Most tokens of one turn.")
    call_timeout_s: float = Field(60, gt=0, le=600, description="Seconds that one call of a tool may take.")
    metadata: Annotated[dict[str, Annotated[str, Field(max_length=512)]], Field(max_length=16)] | None = None
    stream: bool = Field(False, description="Whether the steps are streamed as server-sent events.")


class ApprovalRequest(_Strict):
    """Calls that may be made."""

    call_ids: list[str] | None = Field(None, max_length=64, description="Left out, all that wait.")
    reason: str = Field("", max_length=2000)


class DenialRequest(_Strict):
    """Calls that may not be made."""

    call_ids: list[str] | None = Field(None, max_length=64, description="Left out, all that wait.")
    reason: str = Field("", max_length=2000, description="What the model reads.")


class OutputSpec(_Strict):
    """The result of one call of a function."""

    call_id: str = Field(min_length=1, max_length=64)
    output: str = Field(max_length=1_000_000)
    failed: bool = False


class OutputsRequest(_Strict):
    """Results of calls that the client makes."""

    outputs: list[OutputSpec] = Field(min_length=1, max_length=64)


class RunsQuery(_Strict):
    """A page of runs."""

    status: (
        Literal["queued", "in_progress", "requires_action", "completed", "incomplete", "cancelled", "failed"]
        | None
    ) = None
    after: str | None = Field(None, description="The last id of the page before.")
    limit: int = Field(20, ge=1, le=100)
    order: Literal["asc", "desc"] = "desc"


class StepsQuery(_Strict):
    """Steps of a run."""

    after: int = Field(-1, ge=-1, description="The number behind which they begin.")
    limit: int = Field(100, ge=1, le=1000)
    stream: bool = Field(False, description="Whether they are streamed until the run ends or waits.")
