"""The bodies that the server writes, as msgspec structs, because they are encoded once per token."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType, field

from deepwell.server.families.generation_bodies import ChatLogprob, Finish, Usage
from deepwell.server.routing.bodies import RouteBody

__all__ = [
    "AudioChunk",
    "CalledFunction",
    "ChatChoice",
    "ChatChunk",
    "ChatChunkChoice",
    "ChatCompletion",
    "ChatDelta",
    "ChatLogprobs",
    "CompletionDeleted",
    "FunctionDelta",
    "ImageUrl",
    "Message",
    "MessageAudio",
    "MessageImage",
    "StoredMessage",
    "ToolCall",
    "ToolCallDelta",
    "Usage",
]


class ChatLogprobs(Struct):
    content: list[ChatLogprob]
    refusal: None = None


class CalledFunction(Struct):
    name: str
    arguments: str


class ToolCall(Struct):
    id: str
    function: CalledFunction
    type: Literal["function"] = "function"


class MessageAudio(Struct):
    """A spoken answer. `format` is an extension."""

    id: str
    data: str
    expires_at: int
    transcript: str
    format: str


class ImageUrl(Struct):
    url: str


class MessageImage(Struct, tag_field="type", tag="image_url"):
    """A picture as a data URL, as OpenRouter documents it."""

    image_url: ImageUrl


class Message(Struct):
    """`reasoning_content` is DeepSeek's, `images` OpenRouter's."""

    content: str | None
    role: Literal["assistant"] = "assistant"
    refusal: None = None
    annotations: list[Any] = []
    tool_calls: list[ToolCall] | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    audio: MessageAudio | UnsetType = UNSET
    images: list[MessageImage] | UnsetType = UNSET


class ChatChoice(Struct):
    index: int
    message: Message
    finish_reason: Finish
    logprobs: ChatLogprobs | None = None


class ChatCompletion(Struct, tag_field="object", tag="chat.completion"):
    id: str
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    system_fingerprint: str
    service_tier: Literal["default"] = "default"
    route: RouteBody | UnsetType = UNSET


class AudioChunk(Struct):
    """A piece of a spoken answer: its id, sound in base64, text, or at its end the time until which it is kept."""

    id: str | UnsetType = UNSET
    data: str | UnsetType = UNSET
    transcript: str | UnsetType = UNSET
    expires_at: int | UnsetType = UNSET


class FunctionDelta(Struct):
    arguments: str
    name: str | UnsetType = UNSET


class ToolCallDelta(Struct):
    """The first one of a call has its id and its name."""

    index: int
    function: FunctionDelta
    id: str | UnsetType = UNSET
    type: Literal["function"] | UnsetType = UNSET


class ChatDelta(Struct):
    content: str | UnsetType | None = UNSET
    role: Literal["assistant"] | UnsetType = UNSET
    refusal: UnsetType | None = UNSET
    tool_calls: list[ToolCallDelta] | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    audio: AudioChunk | UnsetType = UNSET
    images: list[MessageImage] | UnsetType = UNSET


class ChatChunkChoice(Struct):
    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: Finish | None = None


class ChatChunk(Struct, tag_field="object", tag="chat.completion.chunk"):
    id: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChunkChoice]
    usage: Usage | UnsetType | None = UNSET
    service_tier: Literal["default"] = "default"
    route: RouteBody | UnsetType = UNSET


class CompletionDeleted(Struct, tag_field="object", tag="chat.completion.deleted"):
    id: str
    deleted: bool = True


class StoredMessage(Struct):
    """A message that a stored completion answered."""

    id: str
    role: str
    content: str | None
    tool_calls: list[dict[str, Any]] | UnsetType = UNSET
    tool_call_id: str | UnsetType = UNSET


class StoredCompletion(ChatCompletion, tag="chat.completion"):
    """A chat completion, and its labels."""

    metadata: dict[str, str] = field(default_factory=dict)


class CompletionList(Struct, tag_field="object", tag="list"):
    """A page of stored completions."""

    data: list[StoredCompletion]
    first_id: str | None
    last_id: str | None
    has_more: bool


class StoredMessageList(Struct, tag_field="object", tag="list"):
    """A page of messages."""

    data: list[StoredMessage]
    first_id: str | None
    last_id: str | None
    has_more: bool
