"""Knowledge for a test's server: its real ingestion and search, over an embedder that needs no model."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from deepwell.storage.knowledge.stores import StoredStore

__all__ = ["HashEmbedder", "use_hash_embedder"]


class HashEmbedder:
    """A vector counts the words of a text, each in the place that its hash names."""

    name = "hash"
    hash = "hash-1"
    dimensions = 256
    max_tokens = 512

    def count(self, texts: Sequence[str]) -> list[int]:
        return [len(_words(text)) for text in texts]

    async def embed(
        self, texts: Sequence[str], input_type: Literal["query", "passage"]
    ) -> NDArray[np.float32]:
        found = np.zeros((len(texts), self.dimensions), np.float32)
        for row, text in zip(found, texts, strict=True):
            for word in _words(text):
                row[hashlib.sha256(word.encode()).digest()[0]] += 1
        return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-6)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


class _Embedders:
    """`Embedders` with the one."""

    def __init__(self, _models_dir: Path | None = None) -> None:
        self._embedder = HashEmbedder()

    async def named(self, _name: str) -> HashEmbedder:
        return self._embedder

    async def of_store(self, _store: StoredStore) -> HashEmbedder:
        return self._embedder

    async def close(self) -> None: ...


def use_hash_embedder(patch: pytest.MonkeyPatch) -> None:
    """Makes the servers of a test embed with `HashEmbedder`."""
    patch.setattr("deepwell.knowledge.embedders.Embedders", _Embedders)
