"""An embedder without a model: words hash to directions, so that texts that share words are near."""

import hashlib
import re

import numpy as np

__all__ = ["HashEmbedder"]


class HashEmbedder:
    """Deterministic vectors of 64 dimensions. `embedded` lists every text that was embedded as a passage."""

    name, hash, dimensions, max_tokens = "hash", "hash-1", 64, 128

    def __init__(self) -> None:
        self.embedded: list[str] = []

    def count(self, texts):
        return [len(re.findall(r"\w+|[^\w\s]", text)) for text in texts]

    async def embed(self, texts, input_type):
        if input_type == "passage":
            self.embedded += texts
        return np.stack([self._vector(text) for text in texts])

    def _vector(self, text):
        found = np.zeros(self.dimensions, np.float32)
        for word in re.findall(r"\w+", text.lower()):
            digest = hashlib.sha256(word.encode()).digest()
            found[digest[0] % self.dimensions] += 1.0 if digest[1] % 2 else -1.0
        length = np.linalg.norm(found)
        return found / length if length else np.eye(1, self.dimensions, dtype=np.float32)[0]
