"""Compaction of a conversation: user messages stay whole, and the best sentences of everything else become one item.

Nothing is written anew: what the item holds was said, word for word, with an ellipsis for what was left out. Clients send it
back as it is. It is opaque but no secret, and read by the guard like any message.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from deepwell.dialogue.dialogue import Dialogue, encode_dialogue
from deepwell.errors import InvalidRequest
from deepwell.server.access.principal import Principal
from deepwell.server.answering import Answering
from deepwell.server.context import ServerContext
from deepwell.server.families.responses.bodies import (
    CompactedResponse,
    CompactionItem,
    FunctionCall,
    FunctionCallOutput,
    InputTokensDetails,
    Item,
    MessageItem,
    OutputTokensDetails,
    ResponseUsage,
)
from deepwell.server.families.responses.history import before, referenced
from deepwell.server.families.responses.item_schema import sealed, unsealed
from deepwell.server.families.responses.items import messages_of, new_id, text_of, to_items
from deepwell.server.families.responses.schema import CompactRequest

__all__ = ["compacted"]

_MOST_TOKENS = 1 << 20  # of a conversation


async def compacted(
    context: ServerContext, answering: Answering, principal: Principal, body: CompactRequest
) -> CompactedResponse:
    """Returns the compaction of the history and the input of a request.

    Raises:
        NotFound: an item that the request refers to does not exist.
        InvalidRequest: there is nothing to compact.
    """
    model, state, tenant = answering.model, context.state, principal.tenant
    history = await before(
        state,
        tenant,
        conversation=body.conversation.id if body.conversation else None,
        previous_id=body.previous_response_id,
        own=body.input,
    )
    own = to_items(body.input, await referenced(state, tenant, body.input, history))
    items = [*history, *own]
    if not items:
        raise InvalidRequest("there is nothing to compact", fix="send input", param="input")
    dialogue = Dialogue(messages_of(items, body.instructions), params={"messages": "input"})
    prompt = await encode_dialogue(model, dialogue, _MOST_TOKENS)
    whole: list[Item] = [one for one in items if isinstance(one, MessageItem) and one.role != "assistant"]
    query = next((text_of(one) for one in reversed(whole) if isinstance(one, MessageItem)), "")
    note, tokens = await context.fitting.noted(model, _said(items), query)
    kept = [*whole, CompactionItem(new_id("cmp"), sealed(note))]
    usage = ResponseUsage(
        len(prompt), InputTokensDetails(0), tokens, OutputTokensDetails(0), len(prompt) + tokens
    )
    return CompactedResponse(new_id("resp"), int(time.time()), kept, usage)


def _said(items: Sequence[Item]) -> list[tuple[str, str]]:
    """Returns the texts that are compacted, each with the name of who said it."""
    found: list[tuple[str, str]] = []
    for item in items:
        match item:
            case MessageItem(role="assistant"):
                found.append(("assistant", text_of(item)))
            case FunctionCall():
                found.append(("call", f"{item.name} {item.arguments}"))
            case FunctionCallOutput():
                found.append(("result", item.output))
            case CompactionItem():
                found.append(("", unsealed(item.encrypted_content) or ""))
            case _:
                pass
    return [(who, text) for who, text in found if text.strip()]
