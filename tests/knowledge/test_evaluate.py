"""Contracts of the evaluation of retrieval: what is read, what is judged, and that rankers are asked as searches are."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.knowledge.hashing import HashEmbedder

from deepwell.errors import DeepwellError, InvalidRequest
from deepwell.knowledge.collection import Collection, read_collection
from deepwell.knowledge.evaluate import METRICS, evaluate, judged, published_arms
from deepwell.knowledge.protocols import Embedder
from deepwell.knowledge.search import Searcher
from deepwell.storage.database import Database
from deepwell.storage.files import FileStore
from deepwell.storage.knowledge import KnowledgeStorage
from deepwell.storage.knowledge.stores import StoredStore

COLLECTION = Collection(
    {name: f"text of {name}" for name in "abcdef"},
    {"1": "first", "2": "second"},
    {"1": {"a": 2, "b": 1}, "2": {"c": 1, "d": 0}},
)


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text, encoding="utf-8")
    return folder


CORPUS = '{"_id": "a", "title": "Title", "text": "Text."}\n{"_id": "b", "text": "No title"}\n'
QUERIES = '{"_id": "1", "text": "one"}\n{"_id": "2", "text": "two"}\n'


def test_a_folder_in_beir_s_form_is_read(tmp_path: Path) -> None:
    qrels = "query-id\tcorpus-id\tscore\n1\ta\t2\n1\tb\t0\n2\ta\t-1\n"
    found = read_collection(write(tmp_path, corpus_jsonl=CORPUS, queries_jsonl=QUERIES, qrels_tsv=qrels))
    assert found.documents == {"a": "Title\nText.", "b": "No title"}
    assert found.queries == {"1": "one"}  # nothing is relevant to the other
    assert found.qrels == {"1": {"a": 2, "b": 0}}


def test_the_qrels_may_lie_in_a_folder_without_a_heading(tmp_path: Path) -> None:
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text("2\tb\t1\n")
    assert read_collection(write(tmp_path, corpus_jsonl=CORPUS, queries_jsonl=QUERIES)).qrels == {
        "2": {"b": 1}
    }


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "corpus.jsonl cannot be read"),
        ({"corpus_jsonl": "{", "queries_jsonl": QUERIES, "qrels_tsv": "1\ta\t1"}, "corpus.jsonl, line 1"),
        (
            {"corpus_jsonl": CORPUS, "queries_jsonl": '\n["1"]', "qrels_tsv": "1\ta\t1"},
            "queries.jsonl, line 2",
        ),
        (
            {"corpus_jsonl": CORPUS, "queries_jsonl": QUERIES, "qrels_tsv": "h\th\th\n1\ta\n"},
            "qrels.tsv, line 2",
        ),
        ({"corpus_jsonl": CORPUS, "queries_jsonl": QUERIES, "qrels_tsv": "9\ta\t1\n"}, "no query"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, files: Mapping[str, str], says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        read_collection(write(tmp_path, **files))


def test_the_judge_knows_grades_and_ranks() -> None:
    values = judged(COLLECTION, {"1": {"a": 3.0, "b": 2.0}, "2": {"d": 2.0, "c": 1.0}})
    assert values["nDCG@10"].tolist() == [1.0, pytest.approx(0.6309, abs=1e-4)]
    assert values["R@20"].tolist() == [1.0, 1.0]
    assert values["RR"].tolist() == [1.0, 0.5]


def test_a_query_that_nothing_was_found_for_counts_as_zero() -> None:
    assert all(one.tolist() == [0.0, 0.0] for one in judged(COLLECTION, {"1": {}}).values())


async def test_arms_are_compared_query_by_query() -> None:
    async def good(query: str) -> Sequence[tuple[str, float]]:
        return [("a", 0.5), ("b", 0.5)] if query == "first" else [("c", 0.1)]

    async def bad(query: str) -> Sequence[tuple[str, float]]:
        return [("f", 1.0), ("a", 0.9), ("c", 0.9)]

    steps: list[tuple[str, int, int]] = []
    found = await evaluate(
        COLLECTION, {"lexical": bad, "dense": bad, "hybrid": good}, lambda *step: steps.append(step)
    )
    assert steps[0] == ("lexical", 0, 2)
    gain = found.difference("hybrid", found.best_single("RR"), "RR")
    assert found.mean("hybrid", "nDCG@10").mean == 1.0
    assert 0.5 <= gain.low <= gain.mean <= gain.high <= 1.0
    shown = found.as_json()
    assert shown["queries"] == 2
    assert shown["arms"]["hybrid"]["MRR"] == [100.0, 100.0, 100.0]
    assert shown["hybrid_gain"]["nDCG@10"][0] > 0
    assert [len(row) for row in found.rows] == [len(found.columns)] * 4
    assert len(found.columns) == 1 + len(METRICS)
    json.dumps(shown)


class _Judge:
    def __init__(self, *, broken: bool = False) -> None:
        self._broken = broken

    async def rerank(self, query: str, texts: Sequence[str]) -> list[float]:
        if self._broken:
            raise DeepwellError("the model broke")
        return [float(-len(one)) for one in texts]


async def test_rankers_are_those_of_searches(tmp_path: Path) -> None:
    database = Database.temporary()
    try:
        kept, files = KnowledgeStorage(database), FileStore(database, tmp_path / "files")
        embedder: Any = HashEmbedder()

        async def embedder_of(_: StoredStore) -> Embedder:
            return embedder

        long = " ".join(f"Sentence {number} is about harbours and ships." for number in range(40))
        documents = {"a": "a cat on a mat", "empty": "", "b": f"long one\n{long}", "c": "dogs bark at night"}
        collection = Collection(documents, {"1": "cat", "2": "harbours"}, {"1": {"a": 1}, "2": {"b": 1}})
        searcher = Searcher(kept, tmp_path / "side", embedder_of)
        arms = await published_arms(kept, files, searcher, embedder, collection)
        assert list(arms) == ["lexical", "dense", "hybrid"]
        for arm in arms.values():
            ranking = [document for document, _ in await arm("harbours and ships")]
            assert ranking[0] == "b"
            assert len(ranking) == len(set(ranking)) <= 3  # a document of several windows counts once
        found = await evaluate(collection, arms)
        assert found.mean("lexical", "RR").mean == 1.0
        assert set(found.milliseconds) == set(found.as_json()["milliseconds"]) == set(arms)
        arms = await published_arms(kept, files, searcher, embedder, collection, reranker=_Judge())
        reranked = await evaluate(collection, arms)
        assert list(reranked.values) == ["lexical", "dense", "hybrid", "reranked"]
        assert reranked.rows[-1][0] == "reranked - hybrid"
        assert len(reranked.as_json()["rerank_gain"]["nDCG@10"]) == 3
        arms = await published_arms(kept, files, searcher, embedder, collection, reranker=_Judge(broken=True))
        with pytest.raises(DeepwellError, match="the model broke"):
            await evaluate(collection, arms)
        embedded = len(embedder.embedded)
        await published_arms(kept, files, searcher, embedder, collection)
        assert len(embedder.embedded) == embedded
        await searcher.close()
    finally:
        database.close()
