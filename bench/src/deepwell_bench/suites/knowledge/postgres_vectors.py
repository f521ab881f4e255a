"""The same passages in SQLite with side files and in PostgreSQL with pgvector: the same rankings, and the recall of HNSW."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deepwell.cli.bench.report import Report, rounded
from deepwell.knowledge.index.pgvector import PgVectorIndex, build_hnsw
from deepwell.knowledge.index.shared import EXPANSION, SharedVectors
from deepwell.knowledge.search import Ranker, Searcher, SearchOptions
from deepwell.storage.database import LOCAL, Database
from deepwell.storage.files import FileStore
from deepwell.storage.knowledge import KnowledgeStorage
from deepwell.storage.knowledge.stores import StoredStore
from deepwell_bench.harness.assets import e5_small
from deepwell_bench.harness.junit import run_pytest
from deepwell_bench.harness.postgres import postgres
from deepwell_bench.harness.vectors import CachedEmbedder
from deepwell_bench.suites.knowledge.languages import context_text
from deepwell_bench.suites.knowledge.published import KnownVectors, publish
from deepwell_bench.workloads.knowledge.help_questions import help_questions
from deepwell_bench.workloads.knowledge.libreoffice_help import help_passages

__all__ = ["bench_postgres_vectors"]

_DEPTH: Final = 10
_RANKERS: Final[tuple[Ranker, ...]] = ("hybrid", "dense", "lexical")
_SUITE: Final = ("tests/storage/test_knowledge.py", "tests/knowledge/index")
_FLAT: Final = "tests.knowledge.index.test_flat.TestInMemory"
_SHARED: Final = "tests.knowledge.index.test_pgvector.TestExact"

_Rankings = Mapping[tuple[Ranker, str], list[tuple[str, float]]]


@dataclass(frozen=True, slots=True)
class _Corpus:
    """Texts, their vectors, and the questions with theirs."""

    texts: Sequence[str]
    vectors: NDArray[np.float32]
    queries: Mapping[str, NDArray[np.float32]]
    hash: str


def bench_postgres_vectors(report: Report, *, passages: int) -> dict[str, Any]:
    """Returns how many rankings differ between the two databases, and recall@10 of HNSW.

    Args:
        passages: number of passages of each language.
    """
    corpus = _corpus(report, passages)
    with tempfile.TemporaryDirectory() as folder, postgres() as url:
        value = asyncio.run(_compared(report, corpus, Path(folder), url))
    return {**value, **_suite(report), "chunks": len(corpus.texts), "questions": len(corpus.queries)}


def _corpus(report: Report, count: int) -> _Corpus:
    passages = help_passages()[:count]
    questions = [one.question for one in help_questions()]
    english = [context_text(one.title_en, one.heading_en, one.english) for one in passages]
    chinese = [context_text(one.title_zh, one.heading_zh, one.chinese) for one in passages]
    with CachedEmbedder(e5_small(), report.note) as embedder:
        vectors = np.concatenate([embedder.embed(texts, "passage") for texts in (english, chinese)])
        queries = embedder.embed(questions, "query")
        return _Corpus(
            [*english, *chinese], vectors, dict(zip(questions, queries, strict=True)), embedder.hash
        )


async def _compared(report: Report, corpus: _Corpus, folder: Path, url: str) -> dict[str, Any]:
    sqlite = Database.open(folder / "deepwell.db")
    shared = await asyncio.to_thread(Database.connect, url)
    try:
        expected, _ = await _rankings(sqlite, corpus, folder / "sqlite", in_database=False)
        report.note(f"searched {len(corpus.texts):,} chunks in SQLite and side files")
        found, store = await _rankings(shared, corpus, folder / "postgres", in_database=True)
        report.note("searched them in PostgreSQL and pgvector")
        differing = {
            ranker: sum(found[one] != expected[one] for one in expected if one[0] == ranker)
            for ranker in _RANKERS
        }
        report.table("rankings that differ", ("ranking", "of"), list(differing.items()))
        recall = await asyncio.to_thread(_recall, shared, corpus, store)
    finally:
        sqlite.close()
        shared.close()
    return {
        "differing": sum(differing.values()),
        "rankings": len(expected),
        "passages_found": sum(map(len, expected.values())),
        "hnsw_recall_10": rounded(recall),
        "hnsw_expansion": EXPANSION,
    }


async def _rankings(
    database: Database, corpus: _Corpus, folder: Path, *, in_database: bool
) -> tuple[_Rankings, StoredStore]:
    """Publishes the chunks, and returns texts and scores of what every question finds, by every ranking."""
    kept = KnowledgeStorage(database)
    embedder = KnownVectors(corpus.hash, corpus.queries, corpus.vectors.shape[1])
    files = FileStore(database, folder / "files")
    store = await publish(kept, files, embedder, corpus.texts, corpus.vectors)

    async def embedder_of(_store: StoredStore) -> KnownVectors:
        return embedder

    vectors = SharedVectors(kept) if in_database else None
    searcher = Searcher(kept, folder / "side", embedder_of, shared=vectors)
    await searcher.synchronise(LOCAL, store.id)
    rankings: dict[tuple[Ranker, str], list[tuple[str, float]]] = {}
    for ranker in _RANKERS:
        for question in corpus.queries:
            options = SearchOptions(limit=_DEPTH, ranker=ranker)
            passages = await searcher.search(LOCAL, store.id, question, options)
            rankings[ranker, question] = [(one.text, one.score) for one in passages]
    await searcher.close()
    return rankings, store


def _recall(database: Database, corpus: _Corpus, store: StoredStore) -> float:
    """Returns recall@10 of the HNSW index against the exact scan of the same rows."""
    dimensions = corpus.vectors.shape[1]
    exact = PgVectorIndex(database, LOCAL, store.id, dimensions)
    build_hnsw(database, dimensions)
    graph = PgVectorIndex(database, LOCAL, store.id, dimensions, expansion=EXPANSION)
    shares = [
        len(np.intersect1d(graph.search(query, _DEPTH).keys, exact.search(query, _DEPTH).keys)) / _DEPTH
        for query in corpus.queries.values()
    ]
    return float(np.mean(shares))


def _suite(report: Report) -> dict[str, Any]:
    """Returns how many tests of rows and of indexes pass on both, and how many do not pass at all."""
    done = run_pytest(_SUITE, {"CI": "true"})
    sides: dict[str, dict[str, str]] = {}
    for full, result in done.outcomes():
        name, _, parameters = full.removesuffix("]").partition("[")
        place, _, test = name.rpartition(".")
        if place in (_FLAT, _SHARED):
            sides.setdefault(f"index {test}[{parameters}]", {})[place] = result
        elif place == "tests.storage.test_knowledge":
            words = parameters.split("-")
            side = next((one for one in ("sqlite", "postgres") if one in words), None)
            if side is not None:
                words.remove(side)
                sides.setdefault(f"rows {test}[{'-'.join(words)}]", {})[side] = result
    for name, results in sides.items():
        if set(results.values()) != {"passed"} or len(results) < 2:
            report.note(f"differs: {name}: {results}")
    both = sum(list(results.values()) == ["passed", "passed"] for results in sides.values())
    counts = done.counts()
    if done.status:
        report.note(done.last_lines())
    return {
        "suite_on_both": both,
        "suite_on_one": len(sides) - both,
        "tests_passed": counts["passed"],
        "tests_failed": counts["failed"],
    }
