"""The bodies of embeddings."""

from __future__ import annotations

import base64

import numpy as np
from msgspec import UNSET, Struct, UnsetType
from numpy.typing import NDArray

__all__ = [
    "Embedding",
    "EmbeddingList",
    "EmbeddingUsage",
    "packed",
]


class Embedding(Struct, tag_field="object", tag="embedding"):
    """A vector. `gates` are the weights that its parts had, if several were fused."""

    index: int
    embedding: list[float] | str
    gates: dict[str, float] | UnsetType = UNSET


class EmbeddingUsage(Struct):
    """Tokens of the texts, and of the space of text, image and sound the pictures and the seconds of the recordings."""

    prompt_tokens: int
    total_tokens: int
    images: int | UnsetType = UNSET
    audio_seconds: float | UnsetType = UNSET


class EmbeddingList(Struct, tag_field="object", tag="list"):
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


def packed(vector: NDArray[np.float32], encoding: str | None) -> list[float] | str:
    """Returns a vector as a request wants it: its numbers, or the bytes of their 32-bit floats in base64."""
    return (
        base64.b64encode(vector.astype("<f4").tobytes()).decode() if encoding == "base64" else vector.tolist()
    )
