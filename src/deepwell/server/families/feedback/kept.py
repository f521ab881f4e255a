"""Answers that are kept: the model, the conversation and the person of a chat completion or a response."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from deepwell.errors import NotFound
from deepwell.server.families.responses.bodies import Item, Response
from deepwell.server.families.responses.history import before
from deepwell.server.families.responses.items import decode_items, messages_of
from deepwell.server.state import State
from deepwell.storage.completions import StoredCompletion
from deepwell.storage.database import Tenant
from deepwell.storage.responses import StoredResponse

__all__ = ["KeptAnswer", "kept_answer"]

_SAID = ("role", "content", "reasoning_content", "tool_calls", "tool_call_id", "refusal")


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """The kept parts of an answer.

    Attributes:
        model: the model that gave it.
        messages: chat messages, the answer last; None: there is not one answer, or what was before it is gone.
        end_user: the person whose conversation it was, as its request named one.
    """

    model: str
    messages: list[dict[str, Any]] | None
    end_user: str | None


async def kept_answer(state: State, tenant: Tenant, id: str) -> KeptAnswer | None:
    """Returns what is kept of a chat completion or a response; None: nothing is."""
    try:
        return _of_completion(await state.completions.get(tenant, id))
    except NotFound:
        pass
    try:
        response = await state.responses.get(tenant, id)
    except NotFound:
        return None
    return await _of_response(state, tenant, response)


def _of_completion(stored: StoredCompletion) -> KeptAnswer:
    choices = msgspec.json.decode(stored.body, type=dict[str, Any]).get("choices") or []
    if len(choices) != 1:  # nothing says which of them is meant
        return KeptAnswer(stored.model, None, stored.end_user)
    prompt = msgspec.json.decode(stored.messages, type=list[dict[str, Any]])
    messages = [_said(one) for one in (*prompt, choices[0]["message"])]
    return KeptAnswer(stored.model, messages, stored.end_user)


async def _of_response(state: State, tenant: Tenant, stored: StoredResponse) -> KeptAnswer:
    response = msgspec.json.decode(stored.body, type=Response)
    end_user = response.safety_identifier or response.user
    if response.status not in ("completed", "incomplete"):
        return KeptAnswer(response.model, None, end_user)
    given = decode_items(stored.input)
    earlier = await _earlier(state, tenant, stored, response, [*given, *response.output])
    if earlier is None:
        return KeptAnswer(response.model, None, end_user)
    messages = messages_of([*earlier, *given, *response.output], response.instructions)
    last = messages[-1] if messages else {}
    return KeptAnswer(response.model, messages if last.get("role") == "assistant" else None, end_user)


async def _earlier(
    state: State, tenant: Tenant, stored: StoredResponse, response: Response, own: Sequence[Item]
) -> list[Item] | None:
    """Returns the items before those of a response: of its conversation as it was then, or of its chain.

    None: a part of them was deleted since, so that nobody knows what the model read.
    """
    if response.conversation is not None:
        try:
            items = await before(state, tenant, conversation=response.conversation.id, previous_id=None)
        except NotFound:
            return None
        mine = {item.id for item in own}
        return next((items[:place] for place, item in enumerate(items) if item.id in mine), None)
    if stored.previous_id is None:
        return []
    try:
        chain = await state.responses.chain(tenant, stored.previous_id)
    except NotFound:
        return None
    links = [None, *(one.id for one in chain)]
    if any(one.previous_id != link for one, link in zip(chain, links, strict=False)):
        return None
    bodies = [msgspec.json.decode(one.body, type=Response).output for one in chain]
    return [
        item
        for one, output in zip(chain, bodies, strict=True)
        for item in (*decode_items(one.input), *output)
    ]


def _said(message: dict[str, Any]) -> dict[str, Any]:
    """Returns what a message says, without its id and without nulls but that of its content."""
    return {
        name: message[name]
        for name in _SAID
        if name in message and (message[name] is not None or name == "content")
    }
