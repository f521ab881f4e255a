"""`KeptRequest`: a request for a run as its row keeps it, from which the agent is made again after a crash."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from deepwell.agents.loop.agent import INSTRUCTIONS
from deepwell.agents.loop.budget import Budget
from deepwell.agents.loop.options import LoopOptions
from deepwell.server.families.agents.schema import AgentRunRequest, FunctionSpec, KnowledgeSpec

__all__ = ["KeptRequest"]


class KeptRequest(Struct):
    """The parts of an agent.

    Attributes:
        model: name of the model.
        instructions: the system message.
        tools: names of the server's tools.
        stores: vector stores that the tool `knowledge` searches; None: all of the tenant.
        functions: tools of the client.
        may_read: whether the key may read files, which the tool `knowledge` needs.
        folder: folder of the tools of files, of a run outside of a server.
        is_local: whether the run is done outside of a server, which then leaves it alone.
    """

    model: str
    instructions: str
    tools: list[str]
    stores: list[str] | None
    functions: list[dict[str, Any]]
    budget: Budget
    options: LoopOptions
    temperature: float
    seed: int | None
    metadata: dict[str, str] | None
    may_read: bool = True
    folder: str | None = None
    is_local: bool = False

    @classmethod
    def of(cls, body: AgentRunRequest, offered: tuple[str, ...], *, may_read: bool) -> KeptRequest:
        """Returns the request of a body. `offered`: tools for one that names none."""
        given = [*offered] if body.tools is None else body.tools
        stores = [id for one in given if isinstance(one, KnowledgeSpec) for id in one.vector_store_ids]
        names = [
            one if isinstance(one, str) else "knowledge" for one in given if not isinstance(one, FunctionSpec)
        ]
        spec = body.budget
        return cls(
            body.model,
            INSTRUCTIONS if body.instructions is None else body.instructions,
            list(dict.fromkeys(names)),
            stores or None,
            [one.model_dump() for one in given if isinstance(one, FunctionSpec)],
            Budget(spec.turns, spec.calls, spec.tokens, spec.seconds),
            LoopOptions(body.checks, body.max_output_tokens, body.call_timeout_s, guidance=False),
            body.temperature,
            body.seed,
            body.metadata,
            may_read,
        )

    @classmethod
    def read(cls, text: str) -> KeptRequest:
        """Returns the request of a row."""
        return msgspec.json.decode(text, type=cls)

    def kept(self) -> str:
        """Returns it as JSON."""
        return msgspec.json.encode(self).decode()
