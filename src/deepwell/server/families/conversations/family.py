"""The family of conversations and their items."""

from __future__ import annotations

from deepwell.server.families.conversations.bodies import Conversation, ConversationDeleted
from deepwell.server.families.conversations.routes import router
from deepwell.server.families.conversations.schema import ConversationRequest
from deepwell.server.families.family import Family
from deepwell.server.families.responses.bodies import Item, ItemList
from deepwell.server.http.declaration import Declaration, Operation

__all__ = ["FAMILY"]

_CONVERSATIONS = "/v1/conversations"
_CONVERSATION = "/v1/conversations/{conversation_id}"

FAMILY = Family(
    Declaration(
        (
            Operation("post", _CONVERSATIONS, Conversation, request=ConversationRequest),
            Operation("get", _CONVERSATION, Conversation),
            Operation("post", _CONVERSATION, Conversation),
            Operation("delete", _CONVERSATION, ConversationDeleted),
            Operation("post", f"{_CONVERSATION}/items", ItemList),
            Operation("get", f"{_CONVERSATION}/items", ItemList),
            Operation("get", f"{_CONVERSATION}/items/{{item_id}}", Item),
            Operation("delete", f"{_CONVERSATION}/items/{{item_id}}", Conversation),
        )
    ),
    router,
)
