"""Grounded answers over the LibreOffice help: answers, citations and declining, in English and Chinese apart."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from deepwell import AsyncLLM
from deepwell.cli.bench.report import Report, rounded
from deepwell.knowledge.answer.cite import GroundedAnswer
from deepwell.knowledge.answer.grounded import AnswerOptions, answer
from deepwell.knowledge.documents import Passage, Place
from deepwell.knowledge.fuse import Candidates, fuse
from deepwell.knowledge.index.lexical import TantivyIndex
from deepwell.knowledge.index.protocol import Hits
from deepwell.knowledge.models import LLMEmbedder, LLMWriter
from deepwell.knowledge.protocols import Embedder
from deepwell_bench.harness.assets import bench_cache, e5_small
from deepwell_bench.workloads.knowledge.answers import AnswerQuestion, development_answers, held_answers
from deepwell_bench.workloads.knowledge.libreoffice_help import HelpPassage, help_passages, help_source

__all__ = ["HelpStore", "Language", "NamedWriter", "bench_citations", "help_store"]

Language = Literal["en", "zh"]
Kind = Literal["covered", "near", "far"]

_PASSAGES: Final = 5000  # of each language; whole pages
_LEAST_CHARACTERS: Final = 40  # of the English text: shorter ones are headings and labels
_DEPTH: Final = 100
_AT_ONCE: Final = 4
_CONTEXT: Final = 2048


class HelpStore:
    """The passages of one language, searched by words and vectors as a vector store is. Keys count from 1."""

    def __init__(
        self, passages: Sequence[HelpPassage], language: Language, vectors: NDArray[np.float32]
    ) -> None:
        self._passages = [_passage(key, one, language) for key, one in enumerate(passages, 1)]
        self._vectors = vectors
        self._lexical = TantivyIndex()
        keys = np.arange(1, len(passages) + 1, dtype=np.int64)
        self._lexical.add(keys, [_indexed(one) for one in self._passages])

    async def search(
        self, query: str, limit: int, embedder: Embedder, without: Collection[str] = ()
    ) -> list[Passage]:
        """Returns the best passages, as if those with the file ids in `without` had been removed."""
        vector = (await embedder.embed([query], "query"))[0]
        cosines = self._vectors @ vector
        order = np.argsort(-cosines, kind="stable")[:_DEPTH]
        dense = Hits(order.astype(np.int64) + 1, cosines[order])
        lexical = self._lexical.search(query, _DEPTH)
        both = np.union1d(lexical.keys, dense.keys)
        ranked = fuse(lexical, dense, Candidates(vector, both, self._vectors[both - 1]))
        found = [self._passages[int(key) - 1] for key in ranked.keys]
        return [one for one in found if one.file_id not in without][:limit]


@dataclass(frozen=True, slots=True)
class _Judged:
    """One answer beside the truth."""

    question: AnswerQuestion
    kind: Kind
    answer: GroundedAnswer

    @property
    def is_right(self) -> bool:
        return not self.answer.declined and self.question.is_answered(self.answer.text)

    @property
    def cited(self) -> int:
        return len(self.answer.citations)

    @property
    def cited_gold(self) -> int:
        return sum(one.file_id in self.question.golds for one in self.answer.citations)

    @property
    def cited_stating(self) -> int:
        """Citations of a gold passage, or of another whose quoted sentence states the right answer."""
        return sum(
            one.file_id in self.question.golds or self.question.is_answered(one.quote)
            for one in self.answer.citations
        )


async def help_store(embedder: Embedder, language: Language) -> HelpStore:
    """Returns the passages of the pages that hold gold passages, and of other pages up to 5,000, with their vectors.

    Vectors are kept in the cache of benchmarks, by the embedder's hash and the passages.
    """
    passages = _chosen()
    identity = "\n".join((embedder.hash, help_source().corpus, *(one.id for one in passages)))
    name = sha256(identity.encode()).hexdigest()[:16]
    path = bench_cache() / f"help-vectors-{language}-{name}.npy"
    if path.exists():
        return HelpStore(passages, language, np.load(path))
    texts = [_indexed(_passage(0, one, language)) for one in passages]
    vectors = await embedder.embed(texts, "passage")
    part = path.with_suffix(".part.npy")
    np.save(part, vectors)
    part.replace(path)
    return HelpStore(passages, language, vectors)


def bench_citations(
    report: Report, model: str, *, development: bool, every: int, options: AnswerOptions
) -> dict[str, Any]:
    """Answers the held-out questions, or those of development, and judges answers, citations and declining.

    Covered questions are asked of all passages, near ones of all but the gold passages, far ones of all. An answer is
    right if it matches the pattern that was written down with the question. A citation is right if it is of a gold passage;
    `citation_stating_percent` also counts other passages whose quoted sentence matches the pattern.

    Args:
        every: asks every n-th question alone, for a quick look.
    """
    return asyncio.run(_bench(report, model, development, every, options))


async def _bench(
    report: Report, model: str, development: bool, every: int, options: AnswerOptions
) -> dict[str, Any]:
    questions = development_answers() if development else held_answers()
    judged: list[_Judged] = []
    started = time.monotonic()
    async with AsyncLLM(e5_small()) as encoder, AsyncLLM(model, context=_CONTEXT, kv_tokens=8192) as chat:
        embedder, writer = LLMEmbedder(encoder), NamedWriter(chat, model)
        for language in ("en", "zh"):
            store = await help_store(embedder, language)
            asked = _asked([one for one in questions if one.language == language][::every])
            judged += await _answers(asked, store, embedder, writer, options)
    _examples(report, judged)
    return _summary(report, judged, time.monotonic() - started)


class NamedWriter(LLMWriter):
    """A writer under the name of its entry in the catalog."""

    def __init__(self, llm: AsyncLLM, name: str) -> None:
        super().__init__(llm)
        self.name = name


def _asked(questions: Sequence[AnswerQuestion]) -> list[tuple[AnswerQuestion, Kind]]:
    covered = [one for one in questions if one.golds]
    far: list[tuple[AnswerQuestion, Kind]] = [(one, "far") for one in questions if not one.golds]
    kinds: tuple[Kind, ...] = ("covered", "near")
    near: list[tuple[AnswerQuestion, Kind]] = [(one, kind) for kind in kinds for one in covered]
    return near + far


async def _answers(
    asked: Sequence[tuple[AnswerQuestion, Kind]],
    store: HelpStore,
    embedder: Embedder,
    writer: LLMWriter,
    options: AnswerOptions,
) -> list[_Judged]:
    room = asyncio.Semaphore(_AT_ONCE)

    async def one(question: AnswerQuestion, kind: Kind) -> _Judged:
        async def search(query: str, limit: int) -> list[Passage]:
            return await store.search(query, limit, embedder, question.golds if kind == "near" else ())

        async with room:
            messages = [{"role": "user", "content": question.question}]
            return _Judged(question, kind, await answer(messages, search, writer, embedder, options))

    return list(await asyncio.gather(*(one(question, kind) for question, kind in asked)))


def _summary(report: Report, judged: Sequence[_Judged], seconds: float) -> dict[str, Any]:
    rows: list[list[Any]] = []
    value: dict[str, Any] = {}
    for language in ("en", "zh"):
        own = [one for one in judged if one.question.language == language]
        covered = [one for one in own if one.kind == "covered"]
        answered = [one for one in covered if not one.answer.declined]
        cited = sum(one.cited for one in covered)
        figures = {
            "right": (sum(one.is_right for one in covered), len(covered)),
            "declined": (len(covered) - len(answered), len(covered)),
            "far_declined": _declined(own, "far"),
            "near_declined": _declined(own, "near"),
            "citations_gold": (sum(one.cited_gold for one in covered), cited),
            "citations_stating": (sum(one.cited_stating for one in covered), cited),
        }
        for name, (hits, total) in figures.items():
            low, high = _wilson(hits, total)
            value[f"{language}_{name}_percent"] = rounded(100 * hits / max(total, 1), 3)
            value[f"{language}_{name}_interval"] = [rounded(100 * low, 3), rounded(100 * high, 3)]
            rows.append(
                [f"{language}: {name}", hits, total, 100 * hits / max(total, 1), 100 * low, 100 * high]
            )
    cited = sum(one.cited for one in judged if one.kind == "covered")
    gold = sum(one.cited_gold for one in judged if one.kind == "covered")
    stating = sum(one.cited_stating for one in judged if one.kind == "covered")
    value["citations"] = cited
    value["citation_precision_percent"] = rounded(100 * gold / max(cited, 1), 3)
    value["citation_stating_percent"] = rounded(100 * stating / max(cited, 1), 3)
    value["questions"] = sum(one.kind == "covered" for one in judged)
    report.table("Grounded answers", ["figure", "hits", "of", "%", "95 % from", "to"], rows)
    report.note(f"{len(judged)} answers in {seconds:.0f} s")
    return value


def _examples(report: Report, judged: Sequence[_Judged]) -> None:
    """Prints the answers that went wrong."""
    for one in judged:
        wrong_citation = one.cited and one.cited_gold < one.cited
        if one.kind == "covered" and one.is_right and not wrong_citation:
            continue
        if one.kind != "covered" and one.answer.declined:
            continue
        faults = "; ".join(f"{drop.action}: {drop.text!r} ({drop.reason})" for drop in one.answer.dropped)
        state = "right" if one.is_right else "wrong"
        report.note(
            f"{one.question.language} {one.kind} {state}: {one.question.question} -> {one.answer.text!r} {faults}"
        )


def _declined(own: Sequence[_Judged], kind: Kind) -> tuple[int, int]:
    asked = [one for one in own if one.kind == kind]
    return sum(one.answer.declined for one in asked), len(asked)


def _wilson(hits: int, total: int) -> tuple[float, float]:
    """Returns the 95 % interval of a share, after Wilson (1927)."""
    if not total:
        return 0.0, 1.0
    z, share = 1.96, hits / total
    middle = share + z * z / (2 * total)
    half = z * float(np.sqrt(share * (1 - share) / total + z * z / (4 * total * total)))
    scale = 1 + z * z / total
    return (middle - half) / scale, (middle + half) / scale


def _chosen() -> list[HelpPassage]:
    every = help_passages()
    gold = {gold for one in (*held_answers(), *development_answers()) for gold in one.golds}
    first = {one.page for one in every if one.id in gold}
    usable = [one for one in every if len(one.english) >= _LEAST_CHARACTERS]
    pages = sorted(
        {one.page for one in usable},
        key=lambda page: (page not in first, sha256(page.encode()).hexdigest()),
    )
    counts: dict[str, int] = {}
    for one in usable:
        counts[one.page] = counts.get(one.page, 0) + 1
    taken: set[str] = set()
    total = 0
    for page in pages:
        if total >= _PASSAGES and page not in first:
            break
        taken.add(page)
        total += counts[page]
    return [one for one in usable if one.page in taken]


def _passage(key: int, one: HelpPassage, language: Language) -> Passage:
    text, title, heading = (
        (one.english, one.title_en, one.heading_en)
        if language == "en"
        else (one.chinese, one.title_zh, one.heading_zh)
    )
    headings = tuple(dict.fromkeys(part for part in (title, heading) if part))
    return Passage(key, one.id, one.page, 0.0, text, 0, len(text), Place(headings=headings))


def _indexed(passage: Passage) -> str:
    """Returns the text that is embedded and indexed: the headings stand in front, as one paragraph says little alone."""
    return "\n".join((*passage.place.headings, passage.text))
