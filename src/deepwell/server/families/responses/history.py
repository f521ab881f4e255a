"""The items before a request: those of its conversation or chain, and those that it refers to by id."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import msgspec

from deepwell.errors import InvalidRequest, NotFound
from deepwell.server.families.responses.bodies import FunctionCall, FunctionCallOutput, Item, Response
from deepwell.server.families.responses.item_schema import ItemInput, ItemReference
from deepwell.server.families.responses.items import decode_items
from deepwell.server.state import State
from deepwell.storage.database import Tenant
from deepwell.storage.responses import StoredResponse

__all__ = ["PreviousResponseNotFound", "before", "referenced"]

_OWNED = re.compile(r"[a-z]+_([0-9a-f]{32})[io]\d+")  # as `items.item_id` writes it


class PreviousResponseNotFound(InvalidRequest):
    """Raised if `previous_response_id` names no response. OpenAI answers it with 400, not with 404."""

    code = "previous_response_not_found"


async def before(
    state: State,
    tenant: Tenant,
    *,
    conversation: str | None,
    previous_id: str | None,
    own: Sequence[ItemInput] = (),
) -> list[Item]:
    """Returns the items of a conversation or of a chain of responses, the oldest first.

    What was deleted is not among them. A call whose result went with a deleted response goes too, as does a result without
    its call. `own` are the items of the request, which may hold results of earlier calls.

    Raises:
        NotFound: there is no such conversation.
        PreviousResponseNotFound: there is no such response.
        InvalidRequest: a response of the chain is not finished.
    """
    items: list[Item] = []
    if conversation is not None:
        for stored in await state.conversations.items(tenant, conversation):
            items += decode_items(f"[{stored.body}]")
        return items
    if previous_id is None:
        return items
    try:
        chain = await state.responses.chain(tenant, previous_id)
    except NotFound as error:
        raise PreviousResponseNotFound(error.message, fix=error.fix, param="previous_response_id") from error
    for response in chain:
        if response.status in ("queued", "in_progress"):
            raise InvalidRequest(
                f"the response {response.id!r} is not finished",
                fix="wait for it, or cancel it",
                param="previous_response_id",
            )
        items += _items_of(response)
    links = [None, *(response.id for response in chain)]
    if any(response.previous_id != link for response, link in zip(chain, links, strict=False)):
        return _paired(items, {one.call_id for one in own if one.type == "function_call_output"})
    return items


async def referenced(
    state: State, tenant: Tenant, given: Sequence[ItemInput], known: Sequence[Item] = ()
) -> Mapping[str, Item]:
    """Returns the items that `given` refers to, by id, without those that are `known` already.

    The id of an item names its response, so there is nothing to search.

    Raises:
        NotFound: an item is not stored.
    """
    wanted = {one.id for one in given if isinstance(one, ItemReference)} - {item.id for item in known}
    if not wanted:
        return {}
    owners = {f"resp_{match[1]}" for id in wanted if (match := _OWNED.fullmatch(id))}
    found: dict[str, Item] = {}
    for response in (await state.responses.some(tenant, owners)).values():
        found |= {item.id: item for item in _items_of(response) if item.id in wanted}
    if missing := wanted - found.keys():
        raise NotFound(
            f"there is no item {min(missing)!r}",
            fix="items are kept with their response, unless that has store: false or was deleted: send the item itself",
            param="input",
        )
    return found


def _items_of(response: StoredResponse) -> list[Item]:
    return [*decode_items(response.input), *msgspec.json.decode(response.body, type=Response).output]


def _paired(items: Sequence[Item], answered: set[str]) -> list[Item]:
    """Returns the items without results of calls that are not there, and without calls that nothing answers."""
    called = {item.call_id for item in items if isinstance(item, FunctionCall)}
    answered = answered | {item.call_id for item in items if isinstance(item, FunctionCallOutput)}
    return [
        item
        for item in items
        if not (isinstance(item, FunctionCallOutput) and item.call_id not in called)
        and not (isinstance(item, FunctionCall) and item.call_id not in answered)
    ]
