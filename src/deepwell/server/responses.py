"""The bodies the server writes, as msgspec structs: they are encoded once a token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

from deepwell.server.completion import Counts

__all__ = [
    "CalledFunction",
    "ChatChoice",
    "ChatChunk",
    "ChatChunkChoice",
    "ChatCompletion",
    "ChatDelta",
    "ChatLogprob",
    "ChatLogprobs",
    "ChatTopLogprob",
    "Completion",
    "CompletionChoice",
    "CompletionDeleted",
    "CompletionLogprobs",
    "CompletionTokensDetails",
    "Embedding",
    "EmbeddingList",
    "EmbeddingUsage",
    "FunctionDelta",
    "Message",
    "ModelCard",
    "ModelList",
    "PromptTokensDetails",
    "StoredMessage",
    "ToolCall",
    "ToolCallDelta",
    "Usage",
    "usage",
]

Finish = Literal["stop", "length", "tool_calls"]


class PromptTokensDetails(Struct):
    """Of the prompt, the tokens that were not computed: served from the prefix cache, or all of a reused answer."""

    cached_tokens: int


class CompletionTokensDetails(Struct):
    """Of the completion, the tokens that speculation had guessed."""

    accepted_prediction_tokens: int


class Usage(Struct):
    """Tokens read and written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


class ChatTopLogprob(Struct):
    """An alternative token."""

    token: str
    logprob: float
    bytes: list[int]


class ChatLogprob(Struct):
    """A drawn token; `bytes` is exact where `token` is half a character."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[ChatTopLogprob]


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


class Message(Struct):
    """`reasoning_content` is DeepSeek's."""

    content: str | None
    role: Literal["assistant"] = "assistant"
    refusal: None = None
    annotations: list[Any] = []
    tool_calls: list[ToolCall] | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET


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


class CompletionLogprobs(Struct):
    """Parallel lists; `text_offset` counts characters from the start of the choice's text."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(Struct):
    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: Finish | None = None


class CompletionDeleted(Struct, tag_field="object", tag="chat.completion.deleted"):
    id: str
    deleted: bool = True


class StoredMessage(Struct):
    """A message that a stored completion answered."""

    id: str
    role: str
    content: str | None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    name: None = None
    content_parts: None = None


class Completion(Struct, tag_field="object", tag="text_completion"):
    """A whole completion, and a chunk of one: OpenAI gives both the same shape."""

    id: str
    created: int
    model: str
    choices: list[CompletionChoice]
    system_fingerprint: str
    usage: Usage | UnsetType | None = UNSET


class Embedding(Struct, tag_field="object", tag="embedding"):
    index: int
    embedding: list[float] | str


class EmbeddingUsage(Struct):
    prompt_tokens: int
    total_tokens: int


class EmbeddingList(Struct, tag_field="object", tag="list"):
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


class ModelCard(Struct, tag_field="object", tag="model"):
    id: str
    created: int
    owned_by: str
    max_model_len: int
    parent: str | UnsetType = UNSET  # of an adapter: its base, as vLLM has it


class ModelList(Struct, tag_field="object", tag="list"):
    data: list[ModelCard]


def usage(counts: Sequence[Counts], n: int) -> Usage:
    """Sum the choices of a request, in order. A prompt counts once, however many (`n`) choices continue it."""
    prompts = counts[::n]
    prompt = sum(count.prompt for count in prompts)
    completion = sum(count.completion for count in counts)
    cached = PromptTokensDetails(sum(count.cached for count in prompts))
    accepted = CompletionTokensDetails(sum(count.accepted for count in counts))
    return Usage(prompt, completion, prompt + completion, cached, accepted)
