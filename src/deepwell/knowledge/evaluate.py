"""`evaluate_folder`: retrieval over a collection with relevance judgements, each arm alone and both together.

The collection is published in a knowledge base of its own and asked through `Searcher`, as any other. ir-measures judges.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from deepwell.errors import MissingDependency, NotFound
from deepwell.knowledge.chunk import chunk_document
from deepwell.knowledge.collection import Collection, read_collection
from deepwell.knowledge.documents import Chunk, Document, Place, Section
from deepwell.knowledge.ingest import digest_of_text
from deepwell.knowledge.protocols import Embedder, Reranker
from deepwell.knowledge.search import Ranker, SearchOptions
from deepwell.storage.database import LOCAL
from deepwell.storage.knowledge.chunks import NewChunk
from deepwell.storage.knowledge.files import Attachment
from deepwell.storage.knowledge.stores import StoredStore

if TYPE_CHECKING:
    from deepwell.knowledge.search import Searcher
    from deepwell.storage.files import FileStore
    from deepwell.storage.knowledge import KnowledgeStorage

__all__ = [
    "METRICS",
    "RANKERS",
    "RERANKED",
    "Arm",
    "Evaluation",
    "Interval",
    "Progress",
    "evaluate",
    "evaluate_folder",
    "evaluated",
    "judged",
    "published_arms",
]

METRICS: Final = ("nDCG@10", "R@20", "RR")
RANKERS: Final[tuple[Ranker, ...]] = ("lexical", "dense", "hybrid")
RERANKED: Final = "reranked"
"""Name of the hybrid ranking behind a reranker."""

_SHOWN: Final = {"nDCG@10": "nDCG@10", "R@20": "recall@20", "RR": "MRR"}
_SAMPLES: Final = 10_000
_PASSAGES: Final = 50  # a ranking; more would make each arm look deeper than in an ordinary search
_BATCH: Final = 256

Arm = Callable[[str], Awaitable[Sequence[tuple[str, float]]]]
"""Ranks documents for a query: pairs of document and score, best first."""

Progress = Callable[[str, int, int], None]
"""Takes a stage, what is done and the whole."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over queries with its 95 % interval by bootstrap."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Values of every arm.

    Attributes:
        values: float64 [queries] by arm and metric, in the order of the collection's queries.
        milliseconds: median time of a query by arm.
    """

    values: Mapping[str, Mapping[str, NDArray[np.float64]]]
    documents: int = 0
    milliseconds: Mapping[str, float] = field(default_factory=dict)

    def mean(self, arm: str, metric: str) -> Interval:
        """Returns the mean of an arm."""
        return _interval(self.values[arm][metric])

    def difference(self, arm: str, other: str, metric: str) -> Interval:
        """Returns the mean over queries of how much `arm` is above `other`."""
        return _interval(self.values[arm][metric] - self.values[other][metric])

    def best_single(self, metric: str) -> str:
        """Returns the better of the lexical and the dense arm."""
        return max(("lexical", "dense"), key=lambda arm: self.values[arm][metric].mean())

    @property
    def columns(self) -> list[str]:
        """Headings of `rows`."""
        return ["ranking", *(_SHOWN[metric] for metric in METRICS)]

    @property
    def rows(self) -> list[list[str]]:
        """Returns a row an arm, in percent with intervals, and one for what the hybrid gains over the better arm."""
        table = [[arm, *(_shown(self.mean(arm, metric)) for metric in METRICS)] for arm in self.values]
        if set(RANKERS) <= set(self.values):
            gains = (self.difference("hybrid", self.best_single(metric), metric) for metric in METRICS)
            table.append(["hybrid - best single", *(_shown(gain, sign="+") for gain in gains)])
        if {RERANKED, "hybrid"} <= set(self.values):
            gains = (self.difference(RERANKED, "hybrid", metric) for metric in METRICS)
            table.append([f"{RERANKED} - hybrid", *(_shown(gain, sign="+") for gain in gains)])
        return table

    def as_json(self) -> dict[str, Any]:
        """Returns means and intervals in points of 100."""
        arms = {
            arm: {_SHOWN[metric]: _plain(self.mean(arm, metric)) for metric in METRICS} for arm in self.values
        }
        queries = len(next(iter(next(iter(self.values.values())).values())))
        found: dict[str, Any] = {"documents": self.documents, "queries": queries, "arms": arms}
        if self.milliseconds:
            found["milliseconds"] = {arm: round(value, 1) for arm, value in self.milliseconds.items()}
        if set(RANKERS) <= set(self.values):
            found["hybrid_gain"] = {
                _SHOWN[metric]: _plain(self.difference("hybrid", self.best_single(metric), metric))
                for metric in METRICS
            }
        if {RERANKED, "hybrid"} <= set(self.values):
            found["rerank_gain"] = {
                _SHOWN[metric]: _plain(self.difference(RERANKED, "hybrid", metric)) for metric in METRICS
            }
        return found


async def evaluate(
    collection: Collection, arms: Mapping[str, Arm], progress: Progress = lambda _stage, _done, _total: None
) -> Evaluation:
    """Asks every arm every query.

    Raises:
        MissingDependency: ir-measures is not installed.
    """
    values: dict[str, dict[str, NDArray[np.float64]]] = {}
    milliseconds: dict[str, float] = {}
    for name, arm in arms.items():
        taken: list[float] = []
        run: dict[str, dict[str, float]] = {}
        for number, (query, text) in enumerate(collection.queries.items()):
            progress(name, number, len(collection.queries))
            # The judge breaks ties its own way: ranks are unambiguous.
            began = time.perf_counter()
            ranking = await arm(text)
            taken.append(1000 * (time.perf_counter() - began))
            run[query] = {document: float(-rank) for rank, (document, _) in enumerate(ranking)}
        values[name] = judged(collection, run)
        milliseconds[name] = float(np.median(taken))
    return Evaluation(values, len(collection.documents), milliseconds)


def judged(collection: Collection, run: Mapping[str, Mapping[str, float]]) -> dict[str, NDArray[np.float64]]:
    """Returns the values of a run, scores by query and document, by metric: float64 [queries].

    Raises:
        MissingDependency: ir-measures is not installed.
    """
    try:
        import ir_measures
    except ImportError:
        raise MissingDependency(
            "evaluation needs the package ir-measures, which is not installed", fix="pip install ir-measures"
        ) from None
    places = {query: place for place, query in enumerate(collection.queries)}
    values = {metric: np.zeros(len(places)) for metric in METRICS}
    measures = {ir_measures.parse_measure(metric): metric for metric in METRICS}
    filled = {query: dict(scores) for query, scores in run.items() if scores}
    if filled:
        for one in ir_measures.iter_calc(list(measures), collection.qrels, filled):
            values[measures[one.measure]][places[one.query_id]] = one.value
    return values


def evaluate_folder(
    folder: Path, *, embedder: str | None = None, reranker: str | None = None, shown: bool = False
) -> Evaluation:
    """Evaluates lexical, dense and hybrid search over a folder in BEIR's form.

    Vectors are kept below the cache of models, so that a second evaluation embeds nothing.

    Args:
        embedder: name of the embedding model; None: that of the settings.
        reranker: name of a language model that reorders the hybrid ranking in a further arm.
        shown: whether to show a progress bar on stderr.

    Raises:
        InvalidRequest: the folder cannot be read.
        ModelNotFound: the embedder or the reranker is not in the store of models.
        MissingDependency: ir-measures is not installed.
    """
    collection = read_collection(folder)
    if not shown:
        return asyncio.run(evaluated(collection, embedder, reranker=reranker))
    from rich.console import Console
    from rich.progress import Progress as Bars

    with Bars(console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("")

        def progress(stage: str, done: int, total: int) -> None:
            bars.update(task, description=stage, completed=done, total=total)

        return asyncio.run(evaluated(collection, embedder, progress, reranker=reranker))


async def evaluated(
    collection: Collection,
    embedder: str | None = None,
    progress: Progress = lambda _stage, _done, _total: None,
    more: Mapping[str, Arm] | None = None,
    *,
    reranker: str | None = None,
) -> Evaluation:
    """Publishes a collection in a knowledge base and evaluates each ranker of `Searcher` on it.

    Args:
        embedder: name of the embedding model; None: that of the settings.
        more: other arms to show beside them.
        reranker: name of a language model that reorders the hybrid ranking in a further arm.
    """
    from deepwell.knowledge.local import LocalKnowledge
    from deepwell.settings import Settings

    settings = Settings.load()
    data = settings.models_dir.parent / "evaluation"
    settings = settings.model_copy(
        update={"data_dir": data, "state_dir": data / "state", "database_url": None}
    )
    async with LocalKnowledge(settings) as knowledge:
        found = await knowledge.embedders.named(embedder or settings.knowledge_embedder)
        judge = None if reranker is None else await knowledge.reranker(reranker)
        arms = await published_arms(
            knowledge.kept, knowledge.files, knowledge.searcher, found, collection, progress, judge
        )
        return await evaluate(collection, {**(more or {}), **arms}, progress)


async def published_arms(
    kept: KnowledgeStorage,
    files: FileStore,
    searcher: Searcher,
    embedder: Embedder,
    collection: Collection,
    progress: Progress = lambda _stage, _done, _total: None,
    reranker: Reranker | None = None,
) -> dict[str, Arm]:
    """Returns each ranker of a search over a collection as an arm, and the hybrid one behind a reranker if there is one.

    The collection is published first, if it is not there.
    """
    store = await _published(kept, files, embedder, collection, progress)
    options: dict[str, SearchOptions] = {ranker: SearchOptions(_PASSAGES, ranker) for ranker in RANKERS}
    if reranker is not None:
        options[RERANKED] = SearchOptions(_PASSAGES, reranker=reranker)
    documents = list(collection.documents)
    return {name: _arm(searcher, store, documents, one) for name, one in options.items()}


def _arm(searcher: Searcher, store: StoredStore, documents: Sequence[str], options: SearchOptions) -> Arm:
    async def arm(query: str) -> list[tuple[str, float]]:
        best: dict[str, float] = {}
        found = await searcher.find(LOCAL, store.id, query, options)
        if found.rerank_error is not None:  # a ranking that is half another one would be judged
            raise found.rerank_error
        for passage in found.passages:
            best.setdefault(documents[(passage.place.row or 0) - 1], passage.score)
        return list(best.items())

    return arm


async def _published(
    kept: KnowledgeStorage, files: FileStore, embedder: Embedder, collection: Collection, progress: Progress
) -> StoredStore:
    """Returns the knowledge base of a collection: each document a record of one file, in windows if it is long."""
    corpus = json.dumps(list(collection.documents.values()), ensure_ascii=False).encode()
    name = hashlib.sha256(corpus + embedder.hash.encode()).hexdigest()[:16]
    with contextlib.suppress(NotFound):
        store = await kept.stores.named(LOCAL, name)
        if await kept.stores.chunk_count(LOCAL, store.id):
            return store
        await kept.stores.delete(LOCAL, store.id)
    new: list[NewChunk] = []
    for row, text in enumerate(collection.documents.values(), 1):
        progress("chunks", row, len(collection.documents))
        place = Place(row=row)
        document = Document(text, (Section(0, len(text), place),), "text/plain")
        new += [_new_chunk(window) for window in chunk_document(document, embedder)]
    await _embed(kept, embedder, new, progress)
    store = await kept.stores.create(LOCAL, name=name, embedder=embedder.name)
    store = await kept.stores.adopt(
        LOCAL, store.id, embedder=embedder.name, embedder_hash=embedder.hash, dimensions=embedder.dimensions
    )

    async def content() -> AsyncIterator[bytes]:
        yield corpus

    stored = await files.create(LOCAL, filename=f"{name}.json", purpose="assistants", content=content())
    _, [attached] = await kept.files.attach(LOCAL, store.id, [Attachment(stored.id)])
    await kept.files.complete(LOCAL, attached, stored.sha256, new, usage_bytes=0, embedder_hash=embedder.hash)
    return await kept.stores.get(LOCAL, store.id)


def _new_chunk(window: Chunk) -> NewChunk:
    return NewChunk(
        digest_of_text(window.text),
        window.text,
        window.start,
        window.end,
        msgspec.json.encode(window.place).decode(),
        window.tokens,
    )


async def _embed(
    kept: KnowledgeStorage, embedder: Embedder, new: Sequence[NewChunk], progress: Progress
) -> None:
    texts = {chunk.digest: chunk.text for chunk in new}
    there = await kept.chunks.embedded(LOCAL, embedder.hash, texts)
    # Texts of like length together: fewer tokens are wasted.
    missing = sorted(texts.keys() - there, key=lambda digest: len(texts[digest]))
    for start in range(0, len(missing), _BATCH):
        progress("vectors", start, len(missing))
        digests = missing[start : start + _BATCH]
        vectors = await embedder.embed([texts[one] for one in digests], "passage")
        await kept.chunks.keep_vectors(LOCAL, embedder.hash, digests, vectors)


def _interval(values: NDArray[np.float64]) -> Interval:
    chance = np.random.default_rng(0)
    means = np.array(
        [values[chance.integers(0, len(values), len(values))].mean() for _ in range(_SAMPLES)], np.float64
    )
    low, high = np.percentile(means, (2.5, 97.5))
    return Interval(float(values.mean()), float(low), float(high))


def _plain(interval: Interval) -> list[float]:
    return [round(100 * value, 2) for value in (interval.mean, interval.low, interval.high)]


def _shown(interval: Interval, sign: str = "") -> str:
    mean, low, high = _plain(interval)
    return f"{mean:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"
