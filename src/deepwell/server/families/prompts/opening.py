"""The messages with which a stored prompt opens a response, and what the response says of it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from deepwell.dialogue.dialogue import Dialogue
from deepwell.dialogue.prompts.content import decode_content
from deepwell.dialogue.prompts.text import PromptMessage, PromptText, Role
from deepwell.errors import NotFound
from deepwell.server.families.prompts.schema import PromptReference
from deepwell.server.families.responses.bodies import InputText, MessageItem, OutputText, PromptUsed
from deepwell.server.families.responses.items import new_id
from deepwell.server.guarding.checked import Checked
from deepwell.server.guarding.guard import ServerGuard
from deepwell.server.observe.record import current
from deepwell.storage.database import Tenant
from deepwell.storage.registry.prompts import PromptStore

__all__ = ["Opening", "opening_of", "read_values"]

_NUMBER = re.compile(r"[1-9][0-9]{0,8}")


@dataclass(frozen=True, slots=True)
class Opening:
    """The messages of a prompt, filled, and the prompt that they come from.

    Attributes:
        text: the messages with their variables.
    """

    items: list[MessageItem]
    used: PromptUsed
    text: PromptText


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
                f"Prompt with id {given.id!r} and version {given.version!r} not found",
                fix="versions are numbers from 1 on",
            )
        number = int(given.version)
    stored = await store.get(tenant, given.id, number)
    text = decode_content(stored.body).text
    items = _items(text.filled(given.variables or {}), text, instructions)
    if (record := current()) is not None:
        record.prompt, record.prompt_version = stored.id, str(stored.number)
    variables = None if given.variables is None else dict(given.variables)
    return Opening(items, PromptUsed(stored.id, variables, str(stored.number)), text)


async def read_values(
    opening: Opening, guard: ServerGuard, tenant: Tenant, instructions: str | None
) -> tuple[Opening, Checked | None]:
    """Returns the opening with values of variables as the guard lets the model see them, and its note; None: it read none.

    A policy that leaves out system messages trusts their author. The values in them are the caller's nevertheless, and are
    read as a message of the user. Those in messages that the policy reads are left to it.

    Args:
        instructions: those of the request, which take the place of the prompt's own.
    """
    reads, values = guard.policy.reads, opening.used.variables
    roles: tuple[Role, ...] = ("system", "assistant")
    trusted: list[Role] = [role for role in roles if role not in reads]
    names = opening.text.names(trusted, head=instructions is None)
    if not values or not names or "user" not in reads:
        return opening, None
    told = [{"role": "user", "content": values[name]} for name in names]
    read, checked = await guard.read(Dialogue(told, params={"messages": "prompt.variables"}), tenant)
    seen = dict(zip(names, (str(one["content"]) for one in read.messages), strict=True))
    if all(values[name] == text for name, text in seen.items()):
        return opening, checked
    # The response shows what was sent, as it does with messages.
    items = _items(opening.text.filled({**values, **seen}), opening.text, instructions)
    return Opening(items, opening.used, opening.text), checked


def _items(
    messages: tuple[PromptMessage, ...], text: PromptText, instructions: str | None
) -> list[MessageItem]:
    if instructions is not None:
        own = messages[1:] if text.instructions else messages
        messages = (PromptMessage("system", instructions), *own)
    return [_item(one.role, one.content) for one in messages]


def _item(role: Role, text: str) -> MessageItem:
    part = OutputText(text, []) if role == "assistant" else InputText(text)
    return MessageItem(new_id("msg"), "completed", role, [part])
