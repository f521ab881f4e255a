"""`evaluate_folder`: retrieval over a collection with relevance judgements, each arm alone and both together.

The collection is published in a knowledge base of its own and asked through `Searcher`, as any other. ir-measures judges.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from deepwell.errors import InvalidRequest, MissingDependency, NotFound
from deepwell.knowledge.chunk import chunk_document
from deepwell.knowledge.documents import Chunk, Document, Place, Section
from deepwell.knowledge.ingest import digest_of_text
from deepwell.knowledge.protocols import Embedder
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
    "Arm",
    "Collection",
    "Evaluation",
    "Interval",
    "Progress",
    "evaluate",
    "evaluate_folder",
    "evaluated",
    "judged",
    "published_arms",
    "read_collection",
]

METRICS: Final = ("nDCG@10", "R@20", "RR")
RANKERS: Final[tuple[Ranker, ...]] = ("lexical", "dense", "hybrid")
_SHOWN: Final = {"nDCG@10": "nDCG@10", "R@20": "recall@20", "RR": "MRR"}
_SAMPLES: Final = 10_000
_PASSAGES: Final = 50  # a ranking; more would make each arm look deeper than in an ordinary search
_BATCH: Final = 256

Arm = Callable[[str], Awaitable[Sequence[tuple[str, float]]]]
"""Ranks documents for a query: pairs of document and score, best first."""

Progress = Callable[[str, int, int], None]
"""Takes a stage, what is done and the whole."""


@dataclass(frozen=True, slots=True)
class Collection:
    """Documents, queries and judgements.

    Attributes:
        documents: texts by id; a title stands in front of the text, in a line of its own.
        queries: texts of those queries that have a relevant document, by id.
        qrels: grades by query and document; 0 is not relevant.
    """

    documents: Mapping[str, str]
    queries: Mapping[str, str]
    qrels: Mapping[str, Mapping[str, int]]


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
    """

    values: Mapping[str, Mapping[str, NDArray[np.float64]]]
    documents: int = 0
    notes: Mapping[str, str] = field(default_factory=dict)

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
        return table

    def as_json(self) -> dict[str, Any]:
        """Returns means and intervals in points of 100."""
        arms = {
            arm: {_SHOWN[metric]: _plain(self.mean(arm, metric)) for metric in METRICS} for arm in self.values
        }
        queries = len(next(iter(next(iter(self.values.values())).values())))
        found: dict[str, Any] = {"documents": self.documents, "queries": queries, "arms": arms}
        if set(RANKERS) <= set(self.values):
            found["hybrid_gain"] = {
                _SHOWN[metric]: _plain(self.difference("hybrid", self.best_single(metric), metric))
                for metric in METRICS
            }
        return found


def read_collection(folder: Path) -> Collection:
    """Reads a folder in BEIR's form: corpus.jsonl, queries.jsonl, and qrels.tsv or qrels/test.tsv.

    Raises:
        InvalidRequest: a file is missing or a line of it cannot be read, or no query has a relevant document.
    """
    documents: dict[str, str] = {}
    for row in _lines(folder / "corpus.jsonl"):
        title, text = str(row.get("title") or "").strip(), str(row.get("text") or "").strip()
        documents[str(row["_id"])] = f"{title}\n{text}".strip()
    queries = {str(row["_id"]): str(row["text"]) for row in _lines(folder / "queries.jsonl")}
    path = folder / "qrels.tsv"
    if not path.exists():
        path = folder / "qrels" / "test.tsv"
    qrels: dict[str, dict[str, int]] = {}
    for number, line in enumerate(_text(path).splitlines(), 1):
        cells = line.split("\t")
        if number == 1 and not cells[-1].strip().lstrip("-").isdigit():
            continue  # the heading
        if line.strip():
            try:
                query, document, grade = cells[0], cells[1], int(cells[2])
            except (IndexError, ValueError):
                raise _unreadable(path, number, "it is not query, document and grade") from None
            qrels.setdefault(query, {})[document] = max(0, grade)
    judged = {name: text for name, text in queries.items() if any(qrels.get(name, {}).values())}
    if not judged:
        raise InvalidRequest(
            f"no query of {folder} has a relevant document", fix="check the ids in the qrels"
        )
    return Collection(documents, judged, {name: qrels[name] for name in judged})


async def evaluate(
    collection: Collection, arms: Mapping[str, Arm], progress: Progress = lambda _stage, _done, _total: None
) -> Evaluation:
    """Asks every arm every query.

    Raises:
        MissingDependency: ir-measures is not installed.
    """
    values: dict[str, dict[str, NDArray[np.float64]]] = {}
    for name, arm in arms.items():
        run: dict[str, dict[str, float]] = {}
        for number, (query, text) in enumerate(collection.queries.items()):
            progress(name, number, len(collection.queries))
            # The judge breaks ties its own way: ranks are unambiguous.
            ranking = await arm(text)
            run[query] = {document: float(-rank) for rank, (document, _) in enumerate(ranking)}
        values[name] = judged(collection, run)
    return Evaluation(values, len(collection.documents))


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


def evaluate_folder(folder: Path, *, embedder: str | None = None, shown: bool = False) -> Evaluation:
    """Evaluates lexical, dense and hybrid search over a folder in BEIR's form.

    Vectors are kept below the cache of models, so that a second evaluation embeds nothing.

    Args:
        embedder: name of the embedding model; None: that of the settings.
        shown: whether to show a progress bar on stderr.

    Raises:
        InvalidRequest: the folder cannot be read.
        ModelNotFound: the embedder is not in the store of models.
        MissingDependency: ir-measures is not installed.
    """
    collection = read_collection(folder)
    if not shown:
        return asyncio.run(evaluated(collection, embedder))
    from rich.console import Console
    from rich.progress import Progress as Bars

    with Bars(console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("")

        def progress(stage: str, done: int, total: int) -> None:
            bars.update(task, description=stage, completed=done, total=total)

        return asyncio.run(evaluated(collection, embedder, progress))


async def evaluated(
    collection: Collection,
    embedder: str | None = None,
    progress: Progress = lambda _stage, _done, _total: None,
    more: Mapping[str, Arm] | None = None,
) -> Evaluation:
    """Publishes a collection in a knowledge base and evaluates each ranker of `Searcher` on it.

    Args:
        embedder: name of the embedding model; None: that of the settings.
        more: other arms to show beside them.
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
        arms = await published_arms(
            knowledge.kept, knowledge.files, knowledge.searcher, found, collection, progress
        )
        return await evaluate(collection, {**(more or {}), **arms}, progress)


async def published_arms(
    kept: KnowledgeStorage,
    files: FileStore,
    searcher: Searcher,
    embedder: Embedder,
    collection: Collection,
    progress: Progress = lambda _stage, _done, _total: None,
) -> dict[str, Arm]:
    """Returns each ranker of a search over a collection as an arm. The collection is published first, if it is not there."""
    store = await _published(kept, files, embedder, collection, progress)
    return {ranker: _arm(searcher, store, list(collection.documents), ranker) for ranker in RANKERS}


def _arm(searcher: Searcher, store: StoredStore, documents: Sequence[str], ranker: Ranker) -> Arm:
    options = SearchOptions(limit=_PASSAGES, ranker=ranker)

    async def arm(query: str) -> list[tuple[str, float]]:
        best: dict[str, float] = {}
        for passage in await searcher.search(LOCAL, store.id, query, options):
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


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(
            f"{path} cannot be read: {error}",
            fix="give a folder with corpus.jsonl, queries.jsonl, and qrels.tsv or qrels/test.tsv",
        ) from None


def _lines(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise _unreadable(path, number, str(error)) from None
        if not isinstance(row, dict) or "_id" not in row or not isinstance(row.get("text"), str):
            raise _unreadable(path, number, "it has no _id or text")
        rows.append(row)
    return rows


def _unreadable(path: Path, number: int, reason: str) -> InvalidRequest:
    return InvalidRequest(f"{path}, line {number}: {reason}", fix="correct the line")
