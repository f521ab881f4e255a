"""The bodies of the Conversations API."""

from __future__ import annotations

from msgspec import Raw, Struct

__all__ = [
    "Conversation",
    "ConversationDeleted",
    "RawItemList",
]


class RawItemList(Struct, tag_field="object", tag="list"):
    """`ItemList` of items that are JSON already."""

    data: list[Raw]
    first_id: str | None
    last_id: str | None
    has_more: bool


class Conversation(Struct, tag_field="object", tag="conversation"):
    id: str
    created_at: int
    metadata: dict[str, str]


class ConversationDeleted(Struct, tag_field="object", tag="conversation.deleted"):
    id: str
    deleted: bool = True
