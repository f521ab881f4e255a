"""`deepwell bench support`: the support desk over the LibreOffice help, in English and Chinese apart."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from deepwell import AsyncLLM
from deepwell.agents.support import ANSWERS, DeskReply, SupportDesk, signal_of
from deepwell.cli.bench.report import Report, rounded
from deepwell.errors import InvalidRequest
from deepwell.knowledge.answer.cite import GroundedAnswer
from deepwell.knowledge.answer.grounded import answer
from deepwell.knowledge.documents import Passage
from deepwell.knowledge.models import LLMEmbedder, LLMWriter
from deepwell.knowledge.protocols import Embedder
from deepwell_bench.harness.assets import e5_small
from deepwell_bench.harness.proportions import wilson
from deepwell_bench.suites.knowledge.citations import HelpStore, NamedWriter, help_store
from deepwell_bench.workloads.knowledge.answers import AnswerQuestion, development_answers, held_answers

__all__ = ["SIGNALS_SHA256", "bench_support"]

SIGNALS_SHA256: Final = "fa73381a53ed0851a5569b35e5ca8d8074e71dd5b371ebfb30255d477700b811"
"""Turns that ask for a person, say that an answer failed, or do neither, as they were written before the desk."""

_CONTEXT: Final = 2048
_AT_ONCE: Final = 4


def bench_support(
    report: Report, model: str, signals: Path, *, development: bool = False, every: int = 1
) -> dict[str, Any]:
    """Asks a fresh desk each held-out question, covered, near (without its gold passages) and far, and reads 80 turns.

    A covered question counts if the answer matches the pattern that was written with it and one of its citations is of a gold
    passage, or of another whose quoted sentence matches the pattern. An answer quotes up to two passages; beside it
    stands how often the first quotation alone would have counted.

    Args:
        development: asks the development questions in place of the held-out ones.
        every: asks every n-th question alone, for a quick look.

    Raises:
        InvalidRequest: the file of turns is another.
    """
    if hashlib.sha256(signals.read_bytes()).hexdigest() != SIGNALS_SHA256:
        raise InvalidRequest(
            f"{signals} is not the file of held-out turns", fix="restore it from the repository"
        )
    value = asyncio.run(
        _bench(report, model, development_answers() if development else held_answers(), every)
    )
    turns = [json.loads(line) for line in signals.read_text(encoding="utf-8").splitlines()]
    wanted = [one["kind"] if one["kind"] != "neither" else "none" for one in turns]
    found = [signal_of(one["text"]) for one in turns]
    calls = [n for n, one in enumerate(wanted) if one != "none"]
    return {
        **value,
        "turns": len(turns),
        "signals_found_percent": rounded(100 * sum(found[n] == wanted[n] for n in calls) / len(calls), 3),
        "false_signals": sum(found[n] != "none" for n, one in enumerate(wanted) if one == "none"),
    }


async def _bench(
    report: Report, model: str, questions: Sequence[AnswerQuestion], every: int
) -> dict[str, Any]:
    value = dict[str, Any]()
    rows = list[list[Any]]()
    async with AsyncLLM(e5_small()) as encoder, AsyncLLM(model, context=_CONTEXT, kv_tokens=8192) as chat:
        embedder, writer = LLMEmbedder(encoder), NamedWriter(chat, model)
        for language in ("en", "zh"):
            store = await help_store(embedder, language)
            asked = [one for one in questions if one.language == language][::every]
            figures = await _language(asked, store, embedder, writer)
            for name, (hits, total) in figures.items():
                low, high = wilson(hits, total)
                value[f"{language}_{name}_percent"] = rounded(100 * hits / max(total, 1), 3)
                value[f"{language}_{name}_interval"] = [rounded(100 * low, 3), rounded(100 * high, 3)]
                rows.append([f"{language}: {name}", hits, total, f"{100 * low:.0f} to {100 * high:.0f} %"])
    report.table("Support desk", ["figure", "hits", "of", "95 %"], rows)
    return value


async def _language(
    asked: Sequence[AnswerQuestion], store: HelpStore, embedder: Embedder, writer: LLMWriter
) -> dict[str, tuple[int, int]]:
    covered, far = [one for one in asked if one.golds], [one for one in asked if not one.golds]
    room = asyncio.Semaphore(_AT_ONCE)

    async def one(question: AnswerQuestion, without: frozenset[str]) -> DeskReply:
        async def answering(messages: Sequence[Mapping[str, str]], seen: frozenset[str]) -> GroundedAnswer:
            async def search(query: str, limit: int) -> list[Passage]:
                return await store.search(query, limit, embedder, without | seen)

            return await answer(messages, search, writer, embedder, ANSWERS)

        async with room:
            return await SupportDesk(answering).reply(question.question)

    found = await asyncio.gather(*(one(question, frozenset()) for question in covered))
    near = await asyncio.gather(*(one(question, frozenset(question.golds)) for question in covered))
    away = await asyncio.gather(*(one(question, frozenset()) for question in far))
    return {
        "covered_right_and_cited": (sum(map(_right, covered, found)), len(covered)),
        "covered_right_at_first": (
            sum(_right(one, reply, shown=1) for one, reply in zip(covered, found, strict=True)),
            len(covered),
        ),
        "covered_declined": (sum(one.state != "answered" for one in found), len(covered)),
        "near_declined": (sum(one.state != "answered" for one in near), len(near)),
        "far_declined": (sum(one.state != "answered" for one in away), len(away)),
    }


def _right(question: AnswerQuestion, reply: DeskReply, shown: int = ANSWERS.quotations) -> bool:
    cited = [one for one in reply.citations if one.number <= shown]
    if reply.state != "answered" or not cited:
        return False
    if not question.is_answered(reply.text[: max(one.answer_end for one in cited)]):
        return False
    return any(one.file_id in question.golds or question.is_answered(one.quote) for one in cited)
