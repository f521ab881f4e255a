"""The requests of the Conversations API."""

from __future__ import annotations

from pydantic import Field

from deepwell.server.families.responses.item_schema import ItemInput
from deepwell.server.http.schema import Metadata, Strict

__all__ = [
    "ConversationItemsRequest",
    "ConversationRequest",
]


class ConversationRequest(Strict):
    """`POST /v1/conversations`."""

    items: list[ItemInput] | None = Field(None, max_length=20)
    metadata: Metadata | None = None


class ConversationItemsRequest(Strict):
    """`POST /v1/conversations/{id}/items`."""

    items: list[ItemInput] = Field(min_length=1, max_length=20)
