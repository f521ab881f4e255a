"""`as_text`: a chat request whose attachments have become text."""

from __future__ import annotations

from deepwell.dialogue.model import ServedModel
from deepwell.knowledge.context.fitting.ledger import LedgerPart
from deepwell.knowledge.context.tokens import CodecTokens
from deepwell.server.attachments.attachments import Given, attachments_of
from deepwell.server.attachments.schema import ChatTextPart
from deepwell.server.context import ServerContext
from deepwell.server.families.chat.schema import ChatRequest
from deepwell.storage.database import Tenant

__all__ = ["as_text"]


async def as_text(
    context: ServerContext, model: ServedModel, body: ChatRequest, tenant: Tenant
) -> tuple[ChatRequest, tuple[LedgerPart, ...]]:
    """Returns a request of text alone, and the texts in place of attachments; the request itself if it has none.

    Raises as `Attachments.told`.
    """
    given = {
        place: Given(
            [part.text if isinstance(part, ChatTextPart) else part.attachment() for part in one.content],
            f"messages[{place}].content",
        )
        for place, one in enumerate(body.messages)
        if isinstance(one.content, list)
    }
    if not given:
        return body, ()
    told = await context.shared(attachments_of).told(
        list(given.values()), tenant, CodecTokens(model.codec).count
    )
    texts = dict(zip(given, zip(told.texts, told.attached, strict=True), strict=True))
    messages = [one.told(*texts[place]) if place in texts else one for place, one in enumerate(body.messages)]
    return body.model_copy(update={"messages": messages}), told.parts
