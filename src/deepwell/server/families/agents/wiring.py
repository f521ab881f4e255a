"""The agent of a run: its model is asked through the server's own routes, and its tools are those that the operator allows."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from deepwell.agents.kit import Kit, open_tools
from deepwell.agents.loop.actions import ClientTool
from deepwell.agents.loop.agent import Agent
from deepwell.agents.loop.model import Choice, Message, ModelTurn
from deepwell.agents.loop.models.wire import ModelOptions, chat_body, error_of, turn_of
from deepwell.agents.tools.tool import Tool
from deepwell.dialogue.tools import FunctionTool
from deepwell.errors import InvalidRequest
from deepwell.server.access.auth import InsufficientScope
from deepwell.server.access.principal import Principal
from deepwell.server.context import ServerContext
from deepwell.server.families.agents.request import KeptRequest
from deepwell.server.families.graders.models import post
from deepwell.server.families.vector_stores.search import search_options, search_stores
from deepwell.storage.database import Tenant

if TYPE_CHECKING:
    from deepwell.agents.tools.knowledge import KnowledgePassage

__all__ = ["ServedChat", "agent_of", "server_kit", "stores_of"]

_MOST_STORES = 16  # that one search reads, where the run names none


class ServedChat:
    """Asks a served model through `/v1/chat/completions`: the guard, limits, usage and caches are those of any request."""

    def __init__(
        self, context: ServerContext, principal: Principal, model: str, options: ModelOptions
    ) -> None:
        self._context = context
        self._principal = principal
        self._model = model
        self._options = options

    @property
    def name(self) -> str:
        """The name of the model."""
        return self._model

    async def complete(
        self, messages: Sequence[Message], tools: Sequence[FunctionTool], *, choice: Choice, max_tokens: int
    ) -> ModelTurn:
        """Returns the next turn.

        Raises:
            DeepwellError: the request was refused.
        """
        body = chat_body(self._model, messages, tools, choice, max_tokens, self._options)
        reply = await post(self._context, self._principal, "/v1/chat/completions", body)
        if reply.status != 200:
            raise error_of(reply.status, reply.body)
        return turn_of(reply.body)


async def agent_of(
    context: ServerContext, principal: Principal, request: KeptRequest, stack: AsyncExitStack
) -> Agent:
    """Returns the agent of a run. What its tools hold open is closed with `stack`.

    Raises:
        InvalidRequest: the server does not offer a tool.
        InsufficientScope: the key may not read what a tool reads.
        ModelNotFound: the model is not served.
        DeepwellError: a tool cannot be had.
    """
    await context.generator(request.model, principal.tenant)
    options = context.options.agents
    for name in request.tools:
        if name not in options.tools:
            known = ", ".join(options.tools) or "none"
            raise InvalidRequest.of("agent_tool_not_allowed", name=name, known=known, param="tools")
        if name == "knowledge" and not request.may_read:
            raise InsufficientScope(
                "this API key does not have the scope 'files', which the tool knowledge needs",
                fix="use one that was made with `deepwell keys create --scope inference --scope files`",
            )
    tools: list[Tool | ClientTool] = [
        *await open_tools(request.tools, server_kit(context, request.stores), stack)
    ]
    tools += [
        ClientTool(one["name"], one["description"], one["parameters"], one["strict"])
        for one in request.functions
    ]
    model = ServedChat(
        context, principal, request.model, ModelOptions(request.temperature, seed=request.seed)
    )
    return Agent(model, tools, request.instructions, request.budget, request.options)


def server_kit(context: ServerContext, stores: Sequence[str] | None) -> Kit:
    """Returns what the server's tools are made of."""

    async def search(tenant: str, query: str, limit: int) -> Sequence[KnowledgePassage]:
        from deepwell.agents.tools.knowledge import KnowledgePassage

        owner = Tenant(tenant)
        ids = list(stores) if stores else await stores_of(context, owner)
        if not ids:
            raise InvalidRequest.of("agent_no_knowledge")
        options = search_options(
            context, owner, limit=limit, filters=None, ranker=None, min_score=None, searches=len(ids)
        )
        found = await search_stores(context, owner, ids, [query], options)
        return [KnowledgePassage(one.filename, one.text, one.score) for one in found]

    return Kit(context.options.agents.folder, search, context.options.mcp)


async def stores_of(context: ServerContext, tenant: Tenant) -> list[str]:
    """Returns the tenant's newest vector stores, as many as one search reads."""
    page = await context.state.knowledge.stores.list(tenant, after=None, limit=_MOST_STORES, order="desc")
    return [one.id for one in page.data if not one.expired()]
