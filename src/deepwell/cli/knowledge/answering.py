"""`deepwell ask --knowledge` and `--map-reduce`: answers with checked citations, and answers over a whole text."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from deepwell.cli.knowledge.options import tell_found
from deepwell.cli.output import console, write_json
from deepwell.messages import say

if TYPE_CHECKING:
    from deepwell.knowledge.answer.cite import GroundedAnswer
    from deepwell.knowledge.context.blocks import MapReduced
    from deepwell.knowledge.documents import Passage
    from deepwell.settings import Settings

__all__ = ["answer_from", "answer_over"]


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


def answer_over(
    settings: Settings, text: str, question: str, *, max_tokens: int | None, as_json: bool
) -> None:
    """Writes an answer over the whole of a text to standard output, from notes of all its blocks.

    Raises:
        ModelNotFound: the model is not in the store.
        ContextLengthExceeded: the question leaves no room for a block of the text.
    """
    found = asyncio.run(_map_reduced(settings, text, question, max_tokens, as_json=as_json))
    if as_json:
        from dataclasses import asdict

        write_json(asdict(found))
        return
    sys.stdout.write(f"{found.answer}\n")
    sys.stdout.flush()
    note = say(
        "map_reduced",
        tokens=found.source_tokens,
        blocks=found.blocks,
        repeated=found.repeated_tokens,
        rounds=found.rounds,
        notes=found.note_tokens,
    )
    if found.lost_tokens:
        note = f"{note} {say('map_reduce_lost', tokens=found.lost_tokens)}"
    console(stderr=True).print(note, style="yellow", soft_wrap=True)


async def _map_reduced(
    settings: Settings, text: str, question: str, max_tokens: int | None, *, as_json: bool
) -> MapReduced:
    from dataclasses import replace

    from deepwell.cli.progress import counted
    from deepwell.knowledge.context.blocks import BLOCK_OPTIONS, map_reduce
    from deepwell.knowledge.context.tokens import CodecTokens
    from deepwell.knowledge.models import LLMWriter
    from deepwell.llm import AsyncLLM

    options = BLOCK_OPTIONS if max_tokens is None else replace(BLOCK_OPTIONS, answer_tokens=max_tokens)
    async with AsyncLLM(settings.model, models_dir=settings.models_dir) as llm:
        with counted(say("blocks_read"), shown=not as_json) as told:
            return await map_reduce(
                text, question, LLMWriter(llm), CodecTokens(llm.codec), options, told=told
            )
