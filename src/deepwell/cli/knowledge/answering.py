"""`deepwell ask --knowledge`: one question, answered from a knowledge base with checked citations."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from deepwell.cli.knowledge.options import tell_found
from deepwell.cli.output import console, write_json

if TYPE_CHECKING:
    from deepwell.knowledge.answer.cite import GroundedAnswer
    from deepwell.knowledge.documents import Passage
    from deepwell.settings import Settings

__all__ = ["answer_from"]


def answer_from(
    settings: Settings,
    name: str,
    messages: Sequence[Mapping[str, str]],
    *,
    max_tokens: int | None,
    as_json: bool,
) -> None:
    """Streams an answer from a knowledge base to standard output, sentence by sentence, and lists its sources.

    Raises:
        NotFound: there is no such knowledge base.
        ModelNotFound: the model that writes or the one that embeds is not in the store.
    """
    found = asyncio.run(_answer(settings, name, messages, max_tokens, as_json=as_json))
    if as_json:
        write_json(_plain(found))
        return
    sys.stdout.write("\n")
    cited = dict.fromkeys(one.number for one in found.citations)
    if not cited:
        return
    from deepwell.cli.knowledge.find import where

    out = console()
    out.print()
    for number in sorted(cited):
        passage = found.passages[number - 1]
        out.print(f"[{number}] {where(passage.filename, passage.place)}", style="dim", soft_wrap=True)


async def _answer(
    settings: Settings,
    name: str,
    messages: Sequence[Mapping[str, str]],
    max_tokens: int | None,
    *,
    as_json: bool,
) -> GroundedAnswer:
    from deepwell.knowledge.answer.cite import GroundedAnswer
    from deepwell.knowledge.answer.grounded import AnswerOptions, stream_answer
    from deepwell.knowledge.local import LocalKnowledge
    from deepwell.knowledge.models import LLMReranker, LLMWriter
    from deepwell.knowledge.search import SearchOptions
    from deepwell.llm import AsyncLLM

    async with LocalKnowledge(settings) as knowledge:
        store = await knowledge.find(name)
        llm = AsyncLLM(settings.model, models_dir=settings.models_dir)
        try:
            await llm.open()
            embedder = await knowledge.embedders.of_store(store)
            judge = settings.knowledge_reranker
            shared = judge is not None and judge == settings.model
            reranker = None
            if judge is not None:
                reranker = LLMReranker(llm) if shared else await knowledge.reranker(judge)

            async def search(query: str, limit: int) -> list[Passage]:
                options = SearchOptions(limit, min_score=settings.knowledge_min_score, reranker=reranker)
                found = await knowledge.searcher.find(knowledge.tenant, store.id, query, options)
                tell_found(found)
                return found.passages

            options = AnswerOptions() if max_tokens is None else AnswerOptions(answer_tokens=max_tokens)
            async for part in stream_answer(messages, search, LLMWriter(llm), embedder, options):
                if isinstance(part, GroundedAnswer):
                    if part.declined and not as_json:
                        sys.stdout.write(part.text)
                    return part
                if not as_json:
                    sys.stdout.write(part.text)
                    sys.stdout.flush()
        finally:
            await llm.close()
    raise AssertionError("an answer ends with the whole of it")


def _plain(found: GroundedAnswer) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "answer": found.text,
        "declined": found.declined,
        "quoted": found.quoted,
        "query": found.query,
        "citations": [asdict(one) for one in found.citations],
        "passages": [
            {
                "number": number,
                "file_id": one.file_id,
                "filename": one.filename,
                "start": one.start,
                "end": one.end,
                "text": one.text,
            }
            for number, one in enumerate(found.passages, 1)
        ],
        "dropped": [asdict(one) for one in found.dropped],
        "tokens": None if found.ledger is None else asdict(found.ledger),
    }
