"""The family of chat completions, stored ones included."""

from __future__ import annotations

from deepwell.server.attachments.schema import CHAT_PARTS
from deepwell.server.families.chat.bodies import (
    ChatCompletion,
    CompletionDeleted,
    CompletionList,
    StoredCompletion,
    StoredMessageList,
)
from deepwell.server.families.chat.routes import router
from deepwell.server.families.chat.schema import CHOICE_TYPES, FORMAT_TYPES, ROLES, ChatRequest
from deepwell.server.families.family import Family
from deepwell.server.http.declaration import Declaration, Operation

__all__ = ["FAMILY"]

_COMPLETIONS = "/v1/chat/completions"
_COMPLETION = "/v1/chat/completions/{completion_id}"

FAMILY = Family(
    Declaration(
        (
            Operation(
                "post",
                _COMPLETIONS,
                ChatCompletion,
                streams=True,
                request=ChatRequest,
                name="chat",
                batches=True,
                replays=True,
                example="""{"model": "$model", "messages": [{"role": "user", "content": "$text"}],
                    "max_tokens": 40, "temperature": 0}""",
            ),
            Operation("get", _COMPLETIONS, CompletionList),
            Operation("get", _COMPLETION, StoredCompletion),
            Operation("post", _COMPLETION, StoredCompletion),
            Operation("delete", _COMPLETION, CompletionDeleted),
            Operation("get", f"{_COMPLETION}/messages", StoredMessageList),
        ),
        accepts={
            "POST /v1/chat/completions messages[].role": ROLES,
            "POST /v1/chat/completions messages[].content[].type": CHAT_PARTS,
            "POST /v1/chat/completions tools[].type": ("function",),
            "POST /v1/chat/completions tool_choice.type": CHOICE_TYPES,
            "POST /v1/chat/completions response_format.type": FORMAT_TYPES,
        },
    ),
    router,
)
