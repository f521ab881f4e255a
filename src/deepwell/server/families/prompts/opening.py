"""The messages with which a stored prompt opens a response, and what the response says of it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from deepwell.dialogue.prompts.content import decode_content
from deepwell.dialogue.prompts.text import PromptMessage, Role
from deepwell.errors import NotFound
from deepwell.server.families.prompts.schema import PromptReference
from deepwell.server.families.responses.bodies import InputText, MessageItem, OutputText, PromptUsed
from deepwell.server.families.responses.items import new_id
from deepwell.server.observe.record import current
from deepwell.storage.database import Tenant
from deepwell.storage.registry.prompts import PromptStore

__all__ = ["Opening", "opening_of"]

_NUMBER = re.compile(r"[1-9][0-9]{0,8}")


@dataclass(frozen=True, slots=True)
class Opening:
    """The messages of a prompt, filled, and the prompt that they come from."""

    items: list[MessageItem]
    used: PromptUsed


async def opening_of(
    store: PromptStore, tenant: Tenant, given: PromptReference | None, instructions: str | None
) -> Opening | None:
    """Returns the messages of the prompt that a request names; None: it names none.

    Args:
        instructions: those of the request, which take the place of the prompt's own.

    Raises:
        NotFound: the tenant has no such prompt, or it has no such version.
        InvalidRequest: variables are missing or superfluous.
    """
    if given is None:
        return None
    number = None
    if given.version is not None:
        if not _NUMBER.fullmatch(given.version):
            raise NotFound(
                f"Prompt with id {given.id!r} and version {given.version!r} not found.",
                fix="versions are numbers from 1 on",
            )
        number = int(given.version)
    stored = await store.get(tenant, given.id, number)
    text = decode_content(stored.body).text
    messages = text.filled(given.variables or {})
    if instructions is not None:
        own = messages[1:] if text.instructions else messages
        messages = (PromptMessage("system", instructions), *own)
    items = [_item(one.role, one.content) for one in messages]
    if (record := current()) is not None:
        record.prompt, record.prompt_version = stored.id, str(stored.number)
    variables = None if given.variables is None else dict(given.variables)
    return Opening(items, PromptUsed(stored.id, variables, str(stored.number)))


def _item(role: Role, text: str) -> MessageItem:
    part = OutputText(text, []) if role == "assistant" else InputText(text)
    return MessageItem(new_id("msg"), "completed", role, [part])
