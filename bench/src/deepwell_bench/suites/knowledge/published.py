"""Publishes texts whose vectors are known in a store, so that a benchmark asks `Searcher` as a user does and embeds nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from hashlib import sha256
from typing import Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from deepwell.knowledge.documents import Place
from deepwell.storage.database import LOCAL
from deepwell.storage.files import FileStore
from deepwell.storage.knowledge import KnowledgeStorage
from deepwell.storage.knowledge.chunks import NewChunk
from deepwell.storage.knowledge.files import Attachment
from deepwell.storage.knowledge.stores import StoredStore

__all__ = ["KnownVectors", "publish"]

_A_FILE: Final = 512  # chunks


class KnownVectors:
    """An embedder of queries alone, whose vectors are there already: every store that is asked gets the same bits.

    Args:
        hash: hash of the embedder that made them.
        queries: float32 [dimensions] by text.
        dimensions: length of a vector.
    """

    name, max_tokens = "e5-small-q4", 512

    def __init__(self, hash: str, queries: Mapping[str, NDArray[np.float32]], dimensions: int) -> None:
        self.hash = hash
        self.dimensions = dimensions
        self._queries = queries

    def count(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]

    async def embed(
        self, texts: Sequence[str], input_type: Literal["query", "passage"]
    ) -> NDArray[np.float32]:
        return np.stack([self._queries[text] for text in texts])


async def publish(
    kept: KnowledgeStorage,
    files: FileStore,
    embedder: KnownVectors,
    texts: Sequence[str],
    vectors: NDArray[np.float32],
    *,
    name: str = "bench",
) -> StoredStore:
    """Returns a new store with a chunk for every text, in files of 512. The row in a chunk's place is the text's number from 1.

    Args:
        vectors: [texts, dimensions].
    """
    created = await kept.stores.create(LOCAL, name=name, embedder=embedder.name)
    store = await kept.stores.adopt(
        LOCAL,
        created.id,
        embedder=embedder.name,
        embedder_hash=embedder.hash,
        dimensions=embedder.dimensions,
    )
    for begin in range(0, len(texts), _A_FILE):
        chunks = [_chunk(text, row) for row, text in enumerate(texts[begin : begin + _A_FILE], begin + 1)]
        digests = [one.digest for one in chunks]
        await kept.chunks.keep_vectors(LOCAL, embedder.hash, digests, vectors[begin : begin + _A_FILE])

        async def content(chunks: Sequence[NewChunk] = chunks) -> AsyncIterator[bytes]:
            yield "\n".join(one.text for one in chunks).encode()

        stored = await files.create(LOCAL, filename=f"{begin}.txt", purpose="assistants", content=content())
        _, [attached] = await kept.files.attach(LOCAL, store.id, [Attachment(stored.id)])
        await kept.files.complete(
            LOCAL, attached, stored.id, chunks, usage_bytes=stored.bytes, embedder_hash=embedder.hash
        )
    return await kept.stores.get(LOCAL, store.id)


def _chunk(text: str, row: int) -> NewChunk:
    place = msgspec.json.encode(Place(row=row)).decode()
    return NewChunk(sha256(text.encode()).hexdigest(), text, 0, len(text), place, len(text.split()))
