"""`chat_as_text`, `prompt_as_text`: requests of ollama's API whose images have become text."""

from __future__ import annotations

from collections.abc import Sequence

from deepwell.dialogue.model import ServedModel
from deepwell.knowledge.context.fitting.ledger import LedgerPart
from deepwell.knowledge.context.tokens import CodecTokens
from deepwell.server.attachments.attachments import Given, Told, attachments_of
from deepwell.server.attachments.schema import Attachment
from deepwell.server.context import ServerContext
from deepwell.server.families.ollama.schema import OllamaChatRequest, OllamaGenerateRequest
from deepwell.storage.database import Tenant

__all__ = ["chat_as_text", "prompt_as_text"]


async def chat_as_text(
    context: ServerContext, model: ServedModel, body: OllamaChatRequest, tenant: Tenant
) -> tuple[OllamaChatRequest, tuple[LedgerPart, ...]]:
    """Returns a request of text alone, and the texts in place of images; the request itself if it has none.

    Raises as `Attachments.told`.
    """
    given = {
        place: Given(_parts(one.content, one.images), f"messages[{place}]")
        for place, one in enumerate(body.messages)
        if one.images
    }
    if not given:
        return body, ()
    told = await _told(context, model, list(given.values()), tenant)
    texts = dict(zip(given, told.texts, strict=True))
    messages = [
        one.model_copy(update={"content": texts[place], "images": None}) if place in texts else one
        for place, one in enumerate(body.messages)
    ]
    return body.model_copy(update={"messages": messages}), told.parts


async def prompt_as_text(
    context: ServerContext, model: ServedModel, body: OllamaGenerateRequest, tenant: Tenant
) -> tuple[OllamaGenerateRequest, tuple[LedgerPart, ...]]:
    """Returns a request of text alone, as `chat_as_text` does."""
    if not body.images:
        return body, ()
    told = await _told(context, model, [Given(_parts(body.prompt, body.images), "images")], tenant)
    return body.model_copy(update={"prompt": told.texts[0], "images": None}), told.parts


async def _told(context: ServerContext, model: ServedModel, given: Sequence[Given], tenant: Tenant) -> Told:
    return await context.shared(attachments_of).told(given, tenant, CodecTokens(model.codec).count)


def _parts(text: str | None, images: Sequence[str] | None) -> list[str | Attachment]:
    return [text or "", *(Attachment("image", data=one) for one in images or ())]
