"""The bodies of plain completions, as msgspec structs, because they are encoded once per token."""

from __future__ import annotations

from msgspec import UNSET, Struct, UnsetType

from deepwell.server.families.generation_bodies import Finish, Usage

__all__ = [
    "Completion",
    "CompletionChoice",
    "CompletionLogprobs",
]


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


class Completion(Struct, tag_field="object", tag="text_completion"):
    """A whole completion, and a chunk of one: OpenAI gives both the same shape."""

    id: str
    created: int
    model: str
    choices: list[CompletionChoice]
    system_fingerprint: str
    usage: Usage | UnsetType | None = UNSET
