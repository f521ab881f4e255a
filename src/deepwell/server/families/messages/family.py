"""The family of Anthropic's Messages API."""

from __future__ import annotations

from deepwell.server.families.family import Family
from deepwell.server.families.messages.bodies import AnthropicMessage, TokenCount
from deepwell.server.families.messages.routes import router
from deepwell.server.families.messages.schema import CountTokensRequest, MessagesRequest
from deepwell.server.http.declaration import Declaration, Operation

__all__ = ["FAMILY"]

_MESSAGES = '"messages": [{"role": "user", "content": "$text"}]'

FAMILY = Family(
    Declaration(
        (
            Operation(
                "post",
                "/v1/messages",
                AnthropicMessage,
                streams=True,
                request=MessagesRequest,
                name="chat",
                batches=True,
                example=f'{{"model": "$model", {_MESSAGES}, "max_tokens": 40, "temperature": 0}}',
            ),
            Operation(
                "post",
                "/v1/messages/count_tokens",
                TokenCount,
                request=CountTokensRequest,
                example=f'{{"model": "$model", {_MESSAGES}}}',
            ),
        ),
        api="anthropic",
    ),
    router,
)
