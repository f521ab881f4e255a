"""Questions in one language on passages in the other, over all passages of the LibreOffice help in both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepwell.bench.harness.assets import e5_small
from deepwell.bench.harness.proportions import wilson
from deepwell.bench.harness.report import Report, rounded
from deepwell.bench.harness.vectors import CachedEmbedder
from deepwell.bench.workloads.knowledge.help_questions import (
    HelpQuestion,
    development_questions,
    help_questions,
)
from deepwell.bench.workloads.knowledge.libreoffice_help import HelpPassage, help_passages, help_source
from deepwell.errors import DeepwellError
from deepwell.knowledge.align import across, interleaved, learn_alignment
from deepwell.knowledge.index.lexical import TantivyIndex

__all__ = ["bench_languages", "context_text"]

_CANDIDATES = 200
_DEPTH = 10


@dataclass(frozen=True, slots=True)
class _Ranks:
    """The best places of one question, from 0. `gold`: of the passage in the other language; `twin`: of either."""

    language: str
    raw: int
    aligned: int
    gold: int
    twin: int
    filtered: int


def bench_languages(report: Report, *, development: bool = False) -> dict[str, Any]:
    """Returns recall@10 of the passage in the other language; beside it, with its translation counted as well."""
    passages = help_passages()
    questions = development_questions() if development else help_questions()
    source = help_source()
    report.note(
        f"{len(passages):,} aligned passages in 2 languages, corpus {source.corpus[:16]}, {source.packages}"
    )
    ranks = _ranked(report, passages, questions)
    rows: list[tuple[str, ...]] = []
    for name, hit in (
        ("one ranking by cosine", lambda one: one.raw < _DEPTH),
        ("one ranking, aligned", lambda one: one.aligned < _DEPTH),
        ("by turns, aligned and bridged", lambda one: one.gold < _DEPTH),
        ("the same, translation counted", lambda one: one.twin < _DEPTH),
        ("the same, search in the passage's language alone", lambda one: one.filtered < _DEPTH),
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
        "translation_counted": _rate([one.twin < _DEPTH for one in ranks]),
        "other_language_alone": _rate([one.filtered < _DEPTH for one in ranks]),
        "unaligned": _rate([one.raw < _DEPTH for one in ranks]),
        "passages": 2 * len(passages),
        "questions": len(ranks),
    }


def context_text(title: str, heading: str, text: str) -> str:
    """Returns a passage below the title of its page and the heading above it, as it is indexed."""
    above = dict.fromkeys(one for one in (title, heading) if one and one != text)
    return "\n".join([" > ".join(above), text]) if above else text


def _ranked(
    report: Report, passages: Sequence[HelpPassage], questions: Sequence[HelpQuestion]
) -> list[_Ranks]:
    texts = {"en": [one.english for one in passages], "zh": [one.chinese for one in passages]}
    indexed = {
        "en": [context_text(one.title_en, one.heading_en, one.english) for one in passages],
        "zh": [context_text(one.title_zh, one.heading_zh, one.chinese) for one in passages],
    }
    with CachedEmbedder(e5_small(), report.note) as embedder:
        raw = {language: embedder.embed(indexed[language], "passage") for language in ("zh", "en")}
        queries = embedder.embed([one.question for one in questions], "query")
    alignment = learn_alignment(raw["en"], raw["zh"])
    if alignment is None:
        raise DeepwellError("the two languages have nothing in common", fix="use the pinned packages")
    report.note(f"aligned by {alignment.pairs:,} mutual nearest neighbours, without their ids")
    common = {language: alignment.common(raw[language], of_first=language == "en") for language in raw}
    words = {language: TantivyIndex() for language in raw}
    for language, index in words.items():
        index.add(np.arange(len(passages)), indexed[language])
    places = {one.id: number for number, one in enumerate(passages)}
    found: list[_Ranks] = []
    for question, query in zip(questions, queries, strict=True):
        own, other = question.language, question.gold_language
        turned = alignment.common(query, of_first=own == "en")
        lexical = np.zeros(len(passages))
        hits = words[own].search(question.question, _CANDIDATES)
        if len(hits):
            lexical[hits.keys] = hits.scores / hits.scores[0]
        ours, theirs = across(common[own], common[other], turned, lexical)
        gold = _same(texts[other], places[question.gold])
        twin = _same(texts[own], places[question.gold])
        merged = interleaved(np.argsort(-ours, kind="stable"), np.argsort(-theirs, kind="stable"), 100)
        right = {(1, key) for key in gold}
        found.append(
            _Ranks(
                own,
                _rank(raw[other] @ query, gold, raw[own] @ query),
                _rank(common[other] @ turned, gold, common[own] @ turned),
                _first(merged, right),
                _first(merged, right | {(0, key) for key in twin}),
                _rank(theirs, gold),
            )
        )
    return found


def _same(texts: Sequence[str], place: int) -> list[int]:
    """Returns the passages whose text is that of the gold one: any of them answers the question."""
    return [number for number, text in enumerate(texts) if text == texts[place]]


def _rank(scores: NDArray[Any], right: Sequence[int], others: NDArray[Any] | None = None) -> int:
    best = scores[list(right)].max()
    return int((scores > best).sum()) + (0 if others is None else int((others > best).sum()))


def _first(merged: Sequence[tuple[int, int]], right: set[tuple[int, int]]) -> int:
    return next((place for place, one in enumerate(merged) if one in right), len(merged))


def _rate(hits: Sequence[bool]) -> float:
    return rounded(sum(hits) / len(hits))


def _share(ranks: Sequence[_Ranks], hit: Any) -> str:
    hits = sum(hit(one) for one in ranks)
    low, high = wilson(hits, len(ranks))
    return f"{hits / len(ranks):.1%} ({low:.1%} to {high:.1%})"
