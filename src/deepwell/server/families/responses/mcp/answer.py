"""`spoken_of`: the parts of an answer, in which the server searches, draws, and calls tools of MCP servers."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from typing import cast

from deepwell.dialogue.completion import Choice
from deepwell.dialogue.dialogue import Dialogue
from deepwell.server.access.principal import Principal
from deepwell.server.answering import Answering
from deepwell.server.context import ServerContext
from deepwell.server.families.responses.citing import OutputPart, cited_parts
from deepwell.server.families.responses.file_search import results_of
from deepwell.server.families.responses.guarded import guarded
from deepwell.server.families.responses.image_tool import with_images
from deepwell.server.families.responses.mcp.calling import MOST_CALLS, McpRun, Turns
from deepwell.server.families.responses.respond import Prompted, choices_of, is_prose
from deepwell.server.families.responses.schema import ResponseRequest
from deepwell.server.grounding import planned
from deepwell.server.guarding.checked import Checked

__all__ = ["spoken_of"]


def spoken_of(
    context: ServerContext,
    answering: Answering,
    said: Prompted,
    choices: Sequence[Choice],
    body: ResponseRequest,
    principal: Principal,
    adapter: str,
) -> AsyncGenerator[OutputPart, None]:
    """Returns the parts that a response is built of: the turns of the model, the search before them, and pictures."""
    parts = _spoken_of(context, answering, said, choices, body)
    if said.mcp is not None and said.dialogue is not None:
        parts = _with_mcp(context, answering, said, parts, (principal, adapter, body, choices))
    return parts if said.image is None else with_images(context, said.image, parts)


def _spoken_of(
    context: ServerContext,
    answering: Answering,
    said: Prompted,
    choices: Sequence[Choice],
    body: ResponseRequest,
) -> AsyncGenerator[OutputPart, None]:
    if said.search is None:
        return answering.converse(said.plan, choices)
    guard, plan = answering.guard, said.plan
    # What leaves is made of passages as much as of the model's words: it is read as a whole.
    turns = answering.converse(plan if guard is None else replace(plan, checked=Checked.part()), choices)
    parts = cited_parts(
        turns,
        said.search,
        results_of(said.search, body),
        prose=is_prose(body),
        answered=context.knowledge.answered,
    )
    return parts if guard is None else guarded(guard, plan.checked, parts)


def _with_mcp(
    context: ServerContext,
    answering: Answering,
    said: Prompted,
    first: AsyncGenerator[OutputPart, None],
    request: tuple[Principal, str, ResponseRequest, Sequence[Choice]],
) -> AsyncGenerator[OutputPart, None]:
    """Returns the parts of an answer with calls of tools of MCP servers, which the server makes."""
    principal, adapter, body, choices = request
    id = choices[0].request.request_id
    assert said.mcp is not None and said.dialogue is not None

    async def converse(dialogue: Dialogue, number: int, used: int) -> Turns:
        plan = await planned(context, answering, adapter, principal, dialogue, said.wish)
        left = None if body.max_output_tokens is None else max(body.max_output_tokens - used, 1)
        asked = body.model_copy(update={"max_output_tokens": left})
        again = choices_of(answering.model, asked, plan, f"{id}-{number}", principal.caller, adapter)
        return answering.converse(plan, again)

    run = McpRun(
        context,
        answering.guard,
        principal.tenant,
        said.mcp.offers,
        said.dialogue,
        said.mcp.approved,
        converse,
        min(body.max_tool_calls or MOST_CALLS, MOST_CALLS),
    )
    return run.parts(cast("Turns", first))  # without a search, they are turns
