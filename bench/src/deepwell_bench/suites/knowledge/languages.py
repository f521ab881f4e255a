"""Questions in one language on passages in the other, over all passages of the LibreOffice help in both."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deepwell.cli.bench.report import Report, rounded
from deepwell.knowledge.search import Searcher, SearchOptions
from deepwell.storage.database import LOCAL, Database
from deepwell.storage.files import FileStore
from deepwell.storage.knowledge import KnowledgeStorage
from deepwell.storage.knowledge.stores import StoredStore
from deepwell_bench.harness.assets import e5_small
from deepwell_bench.harness.proportions import wilson
from deepwell_bench.harness.vectors import CachedEmbedder
from deepwell_bench.suites.knowledge.published import KnownVectors, publish
from deepwell_bench.workloads.knowledge.help_questions import (
    HelpQuestion,
    development_questions,
    help_questions,
)
from deepwell_bench.workloads.knowledge.libreoffice_help import HelpPassage, help_passages, help_source

__all__ = ["bench_languages", "context_text"]

_DEPTH: Final = 10
_MISSED: Final = 10**6
_FEW: Final = 19  # one in 19 of a language beside all of the other: 5 % of both


@dataclass(frozen=True, slots=True)
class _Ranks:
    """The best places of one question, from 0. `gold`: of the passage in the other language; `twin`: of its translation.

    `raw` is the former by cosine alone. `single` and `minor` are the latter in a store of the question's language alone, and in
    one of which 5 % are of the other language.
    """

    language: str
    raw: int
    gold: int
    twin: int
    single: int
    minor: int


@dataclass(frozen=True, slots=True)
class _Corpus:
    """Passages, English ones first, as they are indexed, and the vectors of passages and questions."""

    passages: Sequence[HelpPassage]
    texts: Sequence[str]
    vectors: NDArray[np.float32]
    queries: NDArray[np.float32]
    hash: str

    def same(self, gold: str, language: str) -> set[int]:
        """Returns the numbers of the passages with the gold one's text in a language: any of them answers the question."""
        texts = [one.english if language == "en" else one.chinese for one in self.passages]
        text = next(mine for one, mine in zip(self.passages, texts, strict=True) if one.id == gold)
        start = 0 if language == "en" else len(texts)
        return {start + number for number, mine in enumerate(texts) if mine == text}


def bench_languages(report: Report, *, development: bool = False) -> dict[str, Any]:
    """Returns recall@10 of the passage in the other language, as `Searcher` finds it in a store with all passages.

    Beside it: its translation counted as well, and nDCG@10 of the translation alone, in this store, in one of which 5 % are of
    the other language, and in one without it, which shows what the other language costs.
    """
    questions = development_questions() if development else help_questions()
    corpus = _corpus(report, questions)
    with tempfile.TemporaryDirectory() as folder:
        ranks = asyncio.run(_ranked(report, corpus, questions, Path(folder)))
    rows: list[tuple[str, ...]] = []
    for name, hit in (
        ("one ranking by cosine", lambda one: one.raw < _DEPTH),
        ("the store's search", lambda one: one.gold < _DEPTH),
        ("the same, translation counted", lambda one: min(one.gold, one.twin) < _DEPTH),
        ("the translation alone", lambda one: one.twin < _DEPTH),
        ("the same, 5 % of the store in the other language", lambda one: one.minor < _DEPTH),
        ("the same, in a store of one language", lambda one: one.single < _DEPTH),
    ):
        shares = [
            _share([one for one in ranks if one.language in languages], hit)
            for languages in ("zh", "en", "zh en")
        ]
        rows.append((name, *shares))
    report.table("recall@10", ("search", "Chinese questions", "English questions", "all"), rows)
    hits = sum(one.gold < _DEPTH for one in ranks)
    low, high = wilson(hits, len(ranks))
    return {
        "recall_10": rounded(hits / len(ranks)),
        "low": rounded(low),
        "high": rounded(high),
        "chinese_on_english": _rate([one.gold < _DEPTH for one in ranks if one.language == "zh"]),
        "english_on_chinese": _rate([one.gold < _DEPTH for one in ranks if one.language == "en"]),
        "translation_counted": _rate([min(one.gold, one.twin) < _DEPTH for one in ranks]),
        "own_language_ndcg_10": _ndcg([one.twin for one in ranks]),
        "own_language_ndcg_10_beside_5_percent": _ndcg([one.minor for one in ranks]),
        "own_language_ndcg_10_alone": _ndcg([one.single for one in ranks]),
        "unaligned": _rate([one.raw < _DEPTH for one in ranks]),
        "passages": len(corpus.texts),
        "questions": len(ranks),
    }


def context_text(title: str, heading: str, text: str) -> str:
    """Returns a passage below the title of its page and the heading above it, as it is indexed."""
    above = dict.fromkeys(one for one in (title, heading) if one and one != text)
    return "\n".join([" > ".join(above), text]) if above else text


def _corpus(report: Report, questions: Sequence[HelpQuestion]) -> _Corpus:
    passages, source = help_passages(), help_source()
    english = [context_text(one.title_en, one.heading_en, one.english) for one in passages]
    chinese = [context_text(one.title_zh, one.heading_zh, one.chinese) for one in passages]
    with CachedEmbedder(e5_small(), report.note) as embedder:
        vectors = [embedder.embed(texts, "passage") for texts in (english, chinese)]
        queries = embedder.embed([one.question for one in questions], "query")
    report.note(
        f"{len(passages):,} aligned passages in 2 languages, corpus {source.corpus[:16]}, {source.packages}"
    )
    return _Corpus(passages, [*english, *chinese], np.concatenate(vectors), queries, embedder.hash)


async def _ranked(
    report: Report, corpus: _Corpus, questions: Sequence[HelpQuestion], folder: Path
) -> list[_Ranks]:
    database = Database.open(folder / "deepwell.db")
    kept, files = KnowledgeStorage(database), FileStore(database, folder / "files")
    texts = [one.question for one in questions]
    known = dict(zip(texts, corpus.queries, strict=True))
    embedder = KnownVectors(corpus.hash, known, corpus.vectors.shape[1])

    async def embedder_of(_store: StoredStore) -> KnownVectors:
        return embedder

    searcher = Searcher(kept, folder / "side", embedder_of)
    english, chinese = np.split(np.arange(len(corpus.texts)), 2)
    parts = {
        "both": [english, chinese],
        "en": [english],
        "zh": [chinese],
        "en and few": [english, chinese[::_FEW]],
        "zh and few": [chinese, english[::_FEW]],
    }
    stores: dict[str, tuple[str, list[int]]] = {}
    for name, part in parts.items():
        numbers: list[int] = np.concatenate(part).tolist()
        mine = [corpus.texts[number] for number in numbers]
        store = await publish(kept, files, embedder, mine, corpus.vectors[numbers], name=name)
        await searcher.synchronise(LOCAL, store.id)
        stores[name] = store.id, numbers
        report.note(f"published {name}: {len(numbers):,} passages")
    options = SearchOptions(limit=_DEPTH)
    ranks: list[_Ranks] = []
    for question, query in zip(questions, corpus.queries, strict=True):
        own = question.language
        gold = corpus.same(question.gold, question.gold_language)
        twin = corpus.same(question.gold, own)
        cosines = corpus.vectors @ query
        found: dict[str, list[int]] = {}
        for name in ("both", own, f"{own} and few"):
            store_id, numbers = stores[name]
            passages = await searcher.search(LOCAL, store_id, question.question, options)
            found[name] = [numbers[(one.place.row or 0) - 1] for one in passages]
        ranks.append(
            _Ranks(
                own,
                int((cosines > cosines[list(gold)].max()).sum()),
                _place(found["both"], gold),
                _place(found["both"], twin),
                _place(found[own], twin),
                _place(found[f"{own} and few"], twin),
            )
        )
    await searcher.close()
    database.close()
    return ranks


def _place(found: Sequence[int], right: set[int]) -> int:
    return next((place for place, one in enumerate(found) if one in right), _MISSED)


def _ndcg(places: Sequence[int]) -> float:
    """Returns the mean nDCG@10 in points of rankings with one relevant passage each, at these places."""
    gains = [1 / np.log2(place + 2) if place < _DEPTH else 0.0 for place in places]
    return rounded(100 * float(np.mean(gains)))


def _rate(hits: Sequence[bool]) -> float:
    return rounded(sum(hits) / len(hits))


def _share(ranks: Sequence[_Ranks], hit: Any) -> str:
    hits = sum(hit(one) for one in ranks)
    low, high = wilson(hits, len(ranks))
    return f"{hits / len(ranks):.1%} ({low:.1%} to {high:.1%})"
