"""The bodies of Anthropic's Messages API."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

__all__ = [
    "AnthropicMessage",
    "MessagesUsage",
    "TokenCount",
]


class MessagesUsage(Struct):
    """`input_tokens` leaves out those that the prefix cache served."""

    input_tokens: int
    output_tokens: int
    cache_read_input_tokens: int
    cache_creation_input_tokens: int = 0


class AnthropicMessage(Struct, tag_field="type", tag="message"):
    id: str
    model: str
    content: list[dict[str, Any]]
    usage: MessagesUsage
    role: Literal["assistant"] = "assistant"
    stop_reason: Literal["end_turn", "max_tokens", "stop_sequence", "tool_use", "refusal"] | None = None
    stop_sequence: str | None = None


class TokenCount(Struct):
    input_tokens: int
