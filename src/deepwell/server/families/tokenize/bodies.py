"""The bodies of tokenizing and detokenizing."""

from __future__ import annotations

from msgspec import Struct

__all__ = ["Detokenized", "Tokenized"]


class Tokenized(Struct):
    """The tokens of a text or of a conversation."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None  # as the vocabulary spells them


class Detokenized(Struct):
    """The text of tokens."""

    prompt: str
