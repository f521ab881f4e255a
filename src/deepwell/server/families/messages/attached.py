"""`as_text`: a request of Anthropic's API whose images have become text."""

from __future__ import annotations

from typing import TypeVar

from deepwell.dialogue.model import ServedModel
from deepwell.knowledge.context.fitting.ledger import LedgerPart
from deepwell.knowledge.context.tokens import CodecTokens
from deepwell.server.attachments.attachments import Given, attachments_of
from deepwell.server.attachments.schema import Attachment
from deepwell.server.context import ServerContext
from deepwell.server.families.messages.schema import (
    CountTokensRequest,
    ImageBlock,
    MessagesRequest,
    TextBlock,
    UserBlock,
)
from deepwell.storage.database import Tenant

__all__ = ["as_text"]

Body = TypeVar("Body", MessagesRequest, CountTokensRequest)


async def as_text(
    context: ServerContext, model: ServedModel, body: Body, tenant: Tenant
) -> tuple[Body, tuple[LedgerPart, ...]]:
    """Returns a request of text alone, and the texts in place of images; the request itself if it has none.

    Raises as `Attachments.told`.
    """
    given = {
        place: Given([_part(block) for block in one.content], f"messages[{place}].content")
        for place, one in enumerate(body.messages)
        if one.role == "user" and any(isinstance(block, ImageBlock) for block in one.content)
    }
    if not given:
        return body, ()
    told = await context.shared(attachments_of).told(
        list(given.values()), tenant, CodecTokens(model.codec).count
    )
    pieces = dict(zip(given, told.pieces, strict=True))
    messages = list(body.messages)
    for place, texts in pieces.items():
        message = messages[place]
        assert message.role == "user"
        blocks = [_told(block, text) for block, text in zip(message.content, texts, strict=True)]
        messages[place] = message.model_copy(update={"content": blocks})
    return body.model_copy(update={"messages": messages}), told.parts


def _part(block: UserBlock) -> str | Attachment:
    if isinstance(block, ImageBlock):
        return block.attachment()
    return block.text if isinstance(block, TextBlock) else ""


def _told(block: UserBlock, text: str) -> UserBlock:
    return TextBlock(type="text", text=f"\n\n{text}\n\n") if isinstance(block, ImageBlock) else block
