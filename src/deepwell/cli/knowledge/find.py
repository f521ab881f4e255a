"""`deepwell knowledge search|chunks|eval`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from deepwell.cli.knowledge.options import EmbedderOption, Name, TenantOption, run, tell_found
from deepwell.cli.output import JsonFlag, console, print_table, reported_errors, write_json
from deepwell.process.calls import SINGLE_TENANT

if TYPE_CHECKING:
    from deepwell.knowledge.documents import Passage, Place
    from deepwell.knowledge.local import LocalKnowledge
    from deepwell.knowledge.search import Found

__all__ = ["chunks", "evaluate", "search", "where"]

_EXCERPT = 240  # characters of a passage on the screen


def search(
    name: Name,
    query: Annotated[str, typer.Argument(help="Question or words to search for.", metavar="QUERY")],
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=50, help="Number of passages to print at most.")
    ] = 5,
    ranker: Annotated[
        Literal["hybrid", "lexical", "dense"],
        typer.Option(help="Ranking to use: words, meaning, or both fused."),
    ] = "hybrid",
    min_score: Annotated[
        float, typer.Option(min=0, max=1, help="Least score of a passage, from 0 to 1.")
    ] = 0.0,
    rerank: Annotated[
        str | None,
        typer.Option(
            help="Language model that reorders the best passages, such as smollm2, or none; unset: "
            "DEEPWELL_KNOWLEDGE_RERANKER, else none.",
            metavar="MODEL",
        ),
    ] = None,
    tenant: TenantOption = None,
    json: JsonFlag = False,
) -> None:
    """Search a knowledge base, and print the best passages with the places that they come from."""
    with reported_errors(as_json=json):
        from deepwell.knowledge.search import SearchOptions

        async def work(knowledge: LocalKnowledge) -> Found:
            store = await knowledge.find(name)
            model = rerank or knowledge.settings.knowledge_reranker
            reranker = await knowledge.reranker(model) if model and model != "none" else None
            options = SearchOptions(limit, ranker, min_score, reranker=reranker)
            return await knowledge.searcher.find(knowledge.tenant, store.id, query, options)

        found = run(tenant, work)
        passages = found.passages
        tell_found(found)
        if json:
            shown = [_plain(one) for one in passages]
            write_json({"query": query, "reranked": found.reranked, "passages": shown})
            return
        if not passages:
            console().print("Nothing was found.")
            return
        out = console()
        for number, one in enumerate(passages, 1):
            out.print(
                f"[{number}] {one.score:.3f}  {where(one.filename, one.place)}", style="bold", soft_wrap=True
            )
            text = " ".join(one.text.split())
            out.print("    " + (text if len(text) <= _EXCERPT else text[:_EXCERPT] + "…"), soft_wrap=True)


def chunks(
    file: Annotated[Path, typer.Argument(help="File to read and cut.", metavar="FILE")],
    chunk_tokens: Annotated[
        int | None, typer.Option(min=32, max=4096, help="Longest chunk in tokens; unset: the embedder's.")
    ] = None,
    overlap_tokens: Annotated[
        int | None, typer.Option(min=0, max=2048, help="Tokens that neighbouring chunks share; unset: 64.")
    ] = None,
    embedder: EmbedderOption = None,
    json: JsonFlag = False,
) -> None:
    """Show how a file is read and cut into chunks, without storing anything."""
    with reported_errors(as_json=json):
        import asyncio

        from deepwell.knowledge.chunk import chunk_document, chunk_lines
        from deepwell.knowledge.embedders import Embedders
        from deepwell.knowledge.parse.process import ParseProcess
        from deepwell.settings import Settings

        settings = Settings.load()

        async def work() -> tuple[Any, list[Any]]:
            parser, embedders = ParseProcess(), Embedders(settings.models_dir)
            try:
                document = await parser.parse(SINGLE_TENANT, file, file.name)
                counter = await embedders.named(embedder or settings.knowledge_embedder)
                return document, chunk_document(
                    document, counter, max_tokens=chunk_tokens, overlap_tokens=overlap_tokens
                )
            finally:
                await embedders.close()
                await parser.close()

        document, windows = asyncio.run(work())
        if json:
            found = [
                {
                    "start": one.start,
                    "end": one.end,
                    "tokens": one.tokens,
                    "place": _place(one.place),
                    "text": one.text,
                }
                for one in windows
            ]
            write_json(
                {
                    "file": str(file),
                    "media_type": document.media_type,
                    "title": document.title,
                    "characters": len(document.text),
                    "metadata": dict(document.metadata),
                    "chunks": found,
                }
            )
            return
        out = console()
        title = f" {document.title!r}" if document.title else ""
        out.print(
            f"{file.name}: {document.media_type}{title}, {len(document.text)} characters, chunks: {len(windows)}",
            style="bold",
            soft_wrap=True,
        )
        for line in chunk_lines(windows):
            out.print(line, soft_wrap=True)


def evaluate(
    folder: Annotated[
        Path,
        typer.Argument(
            help="Folder in BEIR's form: corpus.jsonl, queries.jsonl, and qrels.tsv or qrels/test.tsv.",
            metavar="FOLDER",
        ),
    ],
    embedder: EmbedderOption = None,
    rerank: Annotated[
        str | None,
        typer.Option(
            help="Language model that reorders the hybrid ranking in a further line, such as smollm2.",
            metavar="MODEL",
        ),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Measure the retrieval of a collection with relevance judgements: nDCG@10, recall@20 and MRR of each ranking."""
    with reported_errors(as_json=json):
        from deepwell.knowledge.evaluate import RERANKED, evaluate_folder

        found = evaluate_folder(folder, embedder=embedder, reranker=rerank, shown=not json)
        if json:
            write_json(found.as_json())
            return
        print_table(found.columns, found.rows)
        if rerank is not None:
            plain, reranked = (found.milliseconds[arm] for arm in ("hybrid", RERANKED))
            console().print(
                f"median time of a query: {plain:.0f} ms hybrid, {reranked:.0f} ms reranked", soft_wrap=True
            )


def where(filename: str, place: Place) -> str:
    """Returns the place of a passage for people: `handbook.pdf, page 3, Leave > Parental leave`."""
    from deepwell.knowledge.chunk import place_text

    return ", ".join(part for part in (filename, place_text(place)) if part)


def _place(place: Place) -> dict[str, Any]:
    from dataclasses import asdict

    return {name: value for name, value in asdict(place).items() if value not in (None, ())}


def _plain(one: Passage) -> dict[str, Any]:
    return {
        "score": round(one.score, 4),
        "file_id": one.file_id,
        "filename": one.filename,
        "place": _place(one.place),
        "start": one.start,
        "end": one.end,
        "text": one.text,
        "attributes": dict(one.attributes),
    }
