"""The bodies of embeddings."""

from __future__ import annotations

from msgspec import Struct

__all__ = [
    "Embedding",
    "EmbeddingList",
    "EmbeddingUsage",
]


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
