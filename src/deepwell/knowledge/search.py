"""`Searcher`: hybrid search over vector stores, current to the last commit.

A search reads the store's generation first and brings the side files up to it, so that a chunk is found as soon as its
ingestion has ended. Found keys are looked up in the database at the end, so that a chunk that was removed is never returned,
whatever the side files still hold.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from deepwell.errors import DeepwellError, InvalidRequest
from deepwell.knowledge.bilingual import Asked, merged, other_language
from deepwell.knowledge.documents import Passage, Place
from deepwell.knowledge.explain import explained, explained_by_meaning, with_rerank
from deepwell.knowledge.filters import matches
from deepwell.knowledge.fuse import Candidates, calibration_of, candidates, fuse
from deepwell.knowledge.index.protocol import Hits
from deepwell.knowledge.protocols import Embedder, Reranker
from deepwell.knowledge.rerank import MOST_PASSAGES, reordered, titled
from deepwell.knowledge.sources.live_pool import LivePool
from deepwell.knowledge.sources.options import Access
from deepwell.knowledge.sources.source import SourceSpec
from deepwell.storage.database import Tenant
from deepwell.storage.knowledge import KnowledgeStorage
from deepwell.storage.knowledge.chunks import FoundChunk
from deepwell.storage.knowledge.stores import StoredStore

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from deepwell.knowledge.index.protocol import VectorIndex
    from deepwell.knowledge.index.shared import SharedVectors
    from deepwell.knowledge.index.side import SideIndex

__all__ = ["Arms", "Found", "Ranker", "SearchOptions", "Searcher", "passage_of", "shared_vectors"]

Ranker = Literal["hybrid", "lexical", "dense"]

_DEPTH = 100  # candidates of each arm; the fused ranking is theirs
_MOST_OPEN = 64  # indexes that one process holds open
_MOST_FILTERS = 64  # sets of allowed keys that are kept for the next search


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """Options of one search.

    Attributes:
        limit: number of passages to return at most.
        ranker: the arms to use; "hybrid" fuses both.
        min_score: least score of a passage by words and vectors, from 0 to 1. A reranker orders what is left.
        filters: a checked filter over the attributes of files.
        reranker: orders the best passages together with the search; None: the search alone does.
        explain: whether passages tell by `scores` why they stand where they do.
    """

    limit: int = 10
    ranker: Ranker = "hybrid"
    min_score: float = 0.0
    filters: Mapping[str, Any] | None = None
    reranker: Reranker | None = None
    explain: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """The outcome of one search.

    Attributes:
        passages: best first.
        errors: live sources that did not answer, by name, with the reason.
        reranked: number of passages, from the best on, that the reranker has judged.
        rerank_error: the reason why a reranker that was asked judged none. The passages are in the order of the search.
    """

    passages: list[Passage]
    errors: Mapping[str, DeepwellError] = field(default_factory=dict)
    reranked: int = 0
    rerank_error: DeepwellError | None = None


@dataclass(slots=True)
class Arms:
    """The hits of the arms of one search, and the vectors of the query and of both where both were asked.

    `translated` are those of the other language, once they were looked for.
    """

    query: NDArray[np.float32] | None = None
    lexical: Hits | None = None
    dense: Hits | None = None
    translated: Hits | None = None
    candidates: Candidates | None = None


@dataclass(slots=True)
class _Opened:
    side: SideIndex
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Searcher:
    """Searches of one process. It belongs to one event loop."""

    def __init__(
        self,
        kept: KnowledgeStorage,
        folder: Path,
        embedder_of: Callable[[StoredStore], Awaitable[Embedder]],
        access: Access | None = None,
        shared: SharedVectors | None = None,
    ) -> None:
        """Searches the stores of `kept`.

        Args:
            folder: directory of the side files, which may be deleted at any time that no process uses them.
            embedder_of: returns the embedder of a store.
            access: the hosts that live sources may reach.
            shared: vectors in the database. None: they lie in the side files, beside the texts.
        """
        self._live = LivePool(access)
        self._specs: OrderedDict[tuple[str, int], dict[str, SourceSpec]] = OrderedDict()
        self._kept = kept
        self._folder = folder
        self._embedder_of = embedder_of
        self._shared = shared
        self._open: OrderedDict[str, _Opened] = OrderedDict()
        self._opening = asyncio.Lock()
        self._allowed: OrderedDict[tuple[str, int, str], NDArray[np.int64]] = OrderedDict()

    async def search(
        self, tenant: Tenant, store_id: str, query: str, options: SearchOptions | None = None
    ) -> list[Passage]:
        """Returns the passages that fit a query best; see `find`."""
        return (await self.find(tenant, store_id, query, options)).passages

    async def find(
        self, tenant: Tenant, store_id: str, query: str, options: SearchOptions | None = None
    ) -> Found:
        """Returns the passages that fit a query best, best first; none if nothing reaches `min_score`.

        Live sources are asked at the same time, and their passages ranked among the others. A filter leaves them out. If the
        reranker fails, the passages come as the search found them, and `rerank_error` says why.

        Raises:
            NotFound: the tenant has no such store.
            InvalidRequest: the query is empty, or the store has expired or was made with another embedder.
        """
        options = options or SearchOptions()
        store = await self._usable(tenant, store_id, query)
        asking = asyncio.ensure_future(self._ask_live(tenant, store, query, options))
        try:
            passages = await self._stored(tenant, store, query, _widened(options))
            live, errors = await asking
        finally:
            asking.cancel()
        if live:
            passages = sorted([*passages, *live], key=lambda one: -one.score)
        found = await _reranked(query, Found(passages, errors), options.reranker)
        await self._kept.stores.touch(tenant, store)
        return replace(found, passages=found.passages[: options.limit])

    async def _stored(
        self, tenant: Tenant, store: StoredStore, query: str, options: SearchOptions
    ) -> list[Passage]:
        """Returns the best passages of the store itself."""
        if not store.dimensions:  # nothing was ever published
            return []
        allowed = None
        if options.filters is not None:
            allowed = await self._allowed_keys(tenant, store, options.filters)
            if not len(allowed):
                return []
        depth = max(_DEPTH, 2 * options.limit)
        while True:
            arms = await self._arms(tenant, store, query, options.ranker, depth, allowed)
            ranked = fuse(
                arms.lexical, arms.dense, arms.candidates, calibration=calibration_of(store.embedder)
            )
            if arms.query is not None:
                asked = Asked(query, arms.query, arms.lexical, arms.candidates, depth, allowed)
                arms.translated = await self._in_the_other_language(tenant, store, ranked, asked)
            if arms.translated is not None:
                ranked = merged(ranked, arms.translated)
            passages, removed = await self._passages(tenant, store, ranked, depth, options)
            # Removed chunks may fill a whole ranking until the next synchronisation; then it is read deeper.
            if len(passages) >= options.limit or not removed or len(ranked) < depth:
                break
            depth *= 4
        return explained(passages, arms) if options.explain else passages

    async def _passages(
        self, tenant: Tenant, store: StoredStore, ranked: Hits, depth: int, options: SearchOptions
    ) -> tuple[list[Passage], bool]:
        """Returns the best passages among the first `depth` of a ranking, and whether any that was read is gone.

        No more rows are read than are wanted, unless some are gone.
        """
        good = ranked.scores[:depth] >= options.min_score
        keys, scores = ranked.keys[:depth][good].tolist(), ranked.scores[:depth][good].tolist()
        passages: list[Passage] = []
        read = 0
        while read < len(keys) and len(passages) < options.limit:
            some = slice(read, read + options.limit - len(passages))
            found = await self._kept.chunks.found(tenant, store.id, keys[some])
            passages += [
                passage_of(found[key], score)
                for key, score in zip(keys[some], scores[some], strict=True)
                if key in found
            ]
            read = min(some.stop, len(keys))
        return passages, len(passages) < read

    async def _ask_live(
        self, tenant: Tenant, store: StoredStore, query: str, options: SearchOptions
    ) -> tuple[list[Passage], Mapping[str, DeepwellError]]:
        """Returns what the live sources of a store answer, scored by meaning, and their failures."""
        specs = await self._live_specs(tenant, store)
        if not specs or options.filters is not None:
            return [], {}
        answers = await self._live.ask(specs, query, options.limit)
        if not answers.passages:
            return [], answers.errors
        embedder = await self._embedder_of(store)
        [vector] = await embedder.embed([query], "query")
        vectors = await embedder.embed([one.text for one in answers.passages], "passage")
        cosines = vectors @ vector
        order = cosines.argsort(kind="stable")[::-1]
        ranked = fuse(
            None,
            Hits(order.astype("int64"), cosines[order].astype("float32")),
            calibration=calibration_of(store.embedder),
        )
        found = [
            replace(answers.passages[index], score=score)
            for index, score in zip(ranked.keys.tolist(), ranked.scores.tolist(), strict=True)
            if score >= options.min_score
        ]
        if options.explain:
            nearest = [answers.passages[index].key for index in order.tolist()]
            found = explained_by_meaning(found, nearest, cosines[order].tolist())
        return found, answers.errors

    async def _live_specs(self, tenant: Tenant, store: StoredStore) -> dict[str, SourceSpec]:
        """Returns the live sources of a store by name."""
        key = (store.id, store.generation)  # a source that is added or removed raises the generation
        found = self._specs.get(key)
        if found is None:
            rows = await self._kept.sources.list(tenant, store.id)
            specs = [(row.id, SourceSpec.from_json(json.loads(row.spec))) for row in rows]
            found = {str(spec.options.get("name") or id): spec for id, spec in specs if spec.is_live}
            self._specs[key] = found
            while len(self._specs) > _MOST_OPEN:
                self._specs.popitem(last=False)
        return found

    async def arms(
        self, tenant: Tenant, store_id: str, query: str, *, depth: int = _DEPTH, ranker: Ranker = "hybrid"
    ) -> Arms:
        """Returns the hits of each arm alone, for evaluation."""
        store = await self._usable(tenant, store_id, query)
        return await self._arms(tenant, store, query, ranker, depth, None)

    async def synchronise(self, tenant: Tenant, store_id: str) -> int:
        """Brings the indexes of a store up to its newest generation, and returns it.

        If the store has both languages and no alignment of them yet, that is learned too, which takes seconds. Searches do
        not wait for it: they begin it in a thread.
        """
        store = await self._kept.stores.get(tenant, store_id)
        if store.dimensions:
            side = await self._current(tenant, store)
            await asyncio.to_thread(side.learn, await self._vectors(tenant, store, side))
        return store.generation

    async def sweep(self) -> int:
        """Deletes the side files of stores that are gone, and their vectors. Returns the number of side indexes."""
        if self._shared is not None:
            await self._shared.sweep()
        names = await asyncio.to_thread(
            lambda: [path.name for path in self._folder.glob("vs_*")] if self._folder.is_dir() else []
        )
        gone = await self._kept.stores.missing(names)
        for name in gone:
            for key in [key for key in self._open if key.startswith(f"{name}/")]:
                opened = self._open.pop(key)
                async with opened.lock:
                    await asyncio.to_thread(opened.side.close)
            await asyncio.to_thread(shutil.rmtree, self._folder / name, ignore_errors=True)
        return len(gone)

    async def close(self) -> None:
        """Closes every index."""
        for opened in self._open.values():
            async with opened.lock:
                await asyncio.to_thread(opened.side.close)
        self._open.clear()
        await self._live.close()

    async def _usable(self, tenant: Tenant, store_id: str, query: str) -> StoredStore:
        if not query.strip():
            raise InvalidRequest("the query is empty", fix="send a question or some words", param="query")
        store = await self._kept.stores.get(tenant, store_id)
        if store.expired():
            raise InvalidRequest.of("store_expired", id=store_id)
        return store

    async def _arms(
        self,
        tenant: Tenant,
        store: StoredStore,
        query: str,
        ranker: Ranker,
        depth: int,
        allowed: NDArray[np.int64] | None,
    ) -> Arms:
        arms = Arms()
        embedding = None
        if ranker != "lexical":
            embedder = await self._embedder_of(store)
            embedding = asyncio.ensure_future(embedder.embed([query], "query"))
        try:
            side = await self._current(tenant, store)
            if ranker != "dense":
                arms.lexical = await asyncio.to_thread(side.lexical.search, query, depth, allowed=allowed)
            if embedding is not None:
                vectors = await self._vectors(tenant, store, side)
                arms.query = vector = (await embedding)[0]
                arms.dense = await asyncio.to_thread(vectors.search, vector, depth, allowed=allowed)
                if arms.lexical is not None:
                    arms.candidates = await asyncio.to_thread(
                        candidates, vectors, vector, arms.lexical, arms.dense
                    )
        finally:
            if embedding is not None:
                embedding.cancel()
        return arms

    async def _in_the_other_language(
        self, tenant: Tenant, store: StoredStore, ranked: Hits, asked: Asked
    ) -> Hits | None:
        side = await self._current(tenant, store)
        vectors = await self._vectors(tenant, store, side)
        side.learn_later(vectors)
        if side.alignment is None:
            return None
        return await asyncio.to_thread(other_language, ranked, asked, side, vectors)

    async def _current(self, tenant: Tenant, store: StoredStore) -> SideIndex:
        """Returns the index of a store, at least as new as its row."""
        opened = await self._opened(store)
        side = opened.side
        if side.generation == store.generation:
            return side
        async with opened.lock:
            await asyncio.to_thread(side.reload)
            anew = False
            # A row that was read before the last change, or a database that was restored from a backup, is behind.
            ahead = side.generation > store.generation
            while ahead or side.generation < store.generation:
                since = side.generation
                delta = await self._kept.chunks.delta(tenant, store.id, since, anew=anew)
                if self._shared is not None:
                    delta = self._shared.counted(delta)
                await asyncio.to_thread(side.apply, delta, since)
                anew = anew or delta.rebuild
                ahead = False
        return side

    async def _vectors(self, tenant: Tenant, store: StoredStore, side: SideIndex) -> VectorIndex:
        """Returns the vectors of a store, at least as new as its row."""
        if self._shared is None:
            return side.vectors
        return await self._shared.current(tenant, store, len(side.vectors))

    async def _opened(self, store: StoredStore) -> _Opened:
        key = f"{store.id}/{store.embedder_hash}"
        async with self._opening:
            if key not in self._open:
                side = await asyncio.to_thread(self._side, store)
                await asyncio.to_thread(side.repair)
                self._open[key] = _Opened(side)
            opened = self._open[key]
            self._open.move_to_end(key)
        while len(self._open) > _MOST_OPEN:
            _, old = self._open.popitem(last=False)
            async with old.lock:
                await asyncio.to_thread(old.side.close)
        return opened

    def _side(self, store: StoredStore) -> SideIndex:
        folder = self._folder / store.id
        if self._shared is not None:
            side = self._shared.side(folder, store)
        else:
            from deepwell.knowledge.index.side import SideIndex

            side = SideIndex(folder, store.dimensions, store.embedder_hash)
        side.repair()
        return side

    async def _allowed_keys(
        self, tenant: Tenant, store: StoredStore, filters: Mapping[str, Any]
    ) -> NDArray[np.int64]:
        key = (store.id, store.generation, json.dumps(filters, sort_keys=True))
        found = self._allowed.get(key)
        if found is None:
            attributes = await self._kept.files.attributes(tenant, store.id)
            files = [file_id for file_id, mine in attributes.items() if matches(filters, mine)]
            found = await self._kept.chunks.keys_of(tenant, store.id, files)
            self._allowed[key] = found
            while len(self._allowed) > _MOST_FILTERS:
                self._allowed.popitem(last=False)
        return found


def _widened(options: SearchOptions) -> SearchOptions:
    """Returns the options with as many passages as the reranker, if there is one, may choose from."""
    if options.reranker is None:
        return options
    return replace(options, limit=max(options.limit, MOST_PASSAGES))


async def _reranked(query: str, found: Found, reranker: Reranker | None) -> Found:
    """Returns what was found in the order of search and reranker; as it was if the reranker fails."""
    if reranker is None or len(found.passages) < 2:
        return found
    try:
        scores = await reranker.rerank(query, [titled(one) for one in found.passages[:MOST_PASSAGES]])
    except DeepwellError as error:
        return replace(found, rerank_error=error)
    judged = with_rerank(found.passages, scores)
    return replace(found, passages=reordered(judged, scores), reranked=len(scores))


def shared_vectors(kept: KnowledgeStorage, place: Literal["files", "pgvector"]) -> SharedVectors | None:
    """Returns what keeps vectors in the database if that is their place, as the setting `knowledge_vectors` says."""
    if place == "files":
        return None
    from deepwell.knowledge.index.shared import SharedVectors

    return SharedVectors(kept)


def passage_of(chunk: FoundChunk, score: float) -> Passage:
    """Returns a found chunk as a passage."""
    return Passage(
        key=chunk.key,
        file_id=chunk.file_id,
        filename=chunk.filename,
        score=score,
        text=chunk.text,
        start=chunk.start,
        end=chunk.end,
        place=msgspec.json.decode(chunk.place, type=Place),
        attributes=json.loads(chunk.attributes),
    )
