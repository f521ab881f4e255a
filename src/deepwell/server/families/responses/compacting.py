"""Compaction of a conversation into one item: messages of users stay whole, and of everything else the best sentences.

Nothing is written anew: what the item holds was said, word for word, with an ellipsis for what was left out. Clients send it
back as it is. It is opaque but no secret, and read by the guard like any message.

NOTE: OpenAI lists the user messages in front of the item. Its SDK has no type for them there and refuses them where it checks
answers strictly, so they are in the item.
"""

from __future__ import annotations

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
    ImageCall,
    InputTokensDetails,
    Item,
    MessageItem,
    OutputTokensDetails,
    ResponseUsage,
)
from deepwell.server.families.responses.history import before, referenced
from deepwell.server.families.responses.item_schema import Compacted, compacted_in, compaction_of
from deepwell.server.families.responses.items import drawn_text, messages_of, new_id, text_of, to_items
from deepwell.server.families.responses.mcp.bodies import McpCall
from deepwell.server.families.responses.mcp.kept import error_text
from deepwell.server.families.responses.schema import CompactRequest
from deepwell.storage.clock import shared_time

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
    said = [one for item in items for one in _said(item) if one.content.strip()]
    query = next((one.content for one in reversed(said) if one.role == "user"), "")
    short = [one for one in said if one.role in ("assistant", "tool")]
    texts, tokens = await context.fitting.compressed(model, principal, [one.content for one in short], query)
    left = iter(texts)
    kept = [Compacted(one.role, next(left)) if one.role in ("assistant", "tool") else one for one in said]
    item = CompactionItem(new_id("cmp"), compaction_of([one for one in kept if one.content]))
    usage = ResponseUsage(
        len(prompt), InputTokensDetails(0), tokens, OutputTokensDetails(0), len(prompt) + tokens
    )
    return CompactedResponse(new_id("resp"), int(shared_time()), [item], usage)


def _said(item: Item) -> list[Compacted]:
    """Returns what an item says, as messages."""
    match item:
        case MessageItem():
            role = "system" if item.role == "developer" else item.role
            return [Compacted(role, text_of(item))]
        case FunctionCall():
            return [Compacted("assistant", f"{item.name} {item.arguments}")]
        case FunctionCallOutput():
            return [Compacted("tool", item.output)]
        case McpCall():
            output = item.output or "" if item.error is None else error_text(item.error)
            return [
                Compacted("assistant", f"{item.name} {item.arguments}"),
                Compacted("tool", output),
            ]
        case ImageCall():
            return [Compacted("assistant", drawn_text(item))]
        case CompactionItem():
            return list(compacted_in(item.encrypted_content) or ())
        case _:
            return []
