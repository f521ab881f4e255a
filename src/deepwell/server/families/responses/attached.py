"""`as_text`: a request of the Responses API whose attachments have become text."""

from __future__ import annotations

from typing import TypeVar

from deepwell.dialogue.model import ServedModel
from deepwell.knowledge.context.fitting.ledger import LedgerPart
from deepwell.knowledge.context.tokens import CodecTokens
from deepwell.server.attachments.attachments import Given, attachments_of
from deepwell.server.attachments.schema import Attachment
from deepwell.server.context import ServerContext
from deepwell.server.families.responses.item_schema import MessageInput, RefusalPart, TextPart
from deepwell.server.families.responses.schema import CompactRequest, InputTokensRequest, ResponseRequest
from deepwell.storage.database import Tenant

__all__ = ["as_text"]

Body = TypeVar("Body", ResponseRequest, InputTokensRequest, CompactRequest)


async def as_text(
    context: ServerContext, model: ServedModel, body: Body, tenant: Tenant
) -> tuple[Body, tuple[LedgerPart, ...]]:
    """Returns a request of text alone, and the texts in place of attachments; the request itself if it has none.

    Raises as `Attachments.told`.
    """
    given: dict[int, Given] = {}
    for place, one in enumerate(body.input):
        if isinstance(one, MessageInput) and not all(isinstance(part, TextPart) for part in one.content):
            parts = _parts(one)
            if any(isinstance(part, Attachment) for part in parts):
                given[place] = Given(parts, f"input[{place}].content")
    if not given:
        return body, ()
    told = await context.shared(attachments_of).told(
        list(given.values()), tenant, CodecTokens(model.codec).count
    )
    texts = dict(zip(given, zip(told.texts, told.attached, strict=True), strict=True))
    items = list(body.input)
    for place, (text, attached) in texts.items():
        message = items[place]
        assert isinstance(message, MessageInput)
        items[place] = message.told([TextPart(type="input_text", text=text)], attached)
    return body.model_copy(update={"input": items}), told.parts


def _parts(message: MessageInput) -> list[str | Attachment]:
    """Returns the parts of a message, texts as they are."""
    parts: list[str | Attachment] = []
    for part in message.content:
        if isinstance(part, TextPart):
            parts.append(part.text)
        else:
            parts.append(part.refusal if isinstance(part, RefusalPart) else part.attachment())
    return parts
