"""Verbs of `deepwell bench` on knowledge."""

from __future__ import annotations

from typing import Annotated

import typer

from deepwell_bench.cli.options import Json, Row, measure

__all__ = [
    "citations",
    "context_survival",
    "cranfield",
    "current",
    "documents",
    "languages",
    "law",
    "medical",
    "million",
    "postgres_vectors",
    "rerank",
    "search",
    "vector_stores",
]


Embedder = Annotated[
    str | None, typer.Option(help="Embedding model to measure; unset: that of the settings.")
]


def cranfield(embedder: Embedder = None, row: Row = None, json: Json = False) -> None:
    """Measures lexical, dense and hybrid search on the Cranfield collection, beside bm25s."""
    from deepwell_bench.suites.knowledge.retrieval import bench_cranfield

    measure("knowledge_cranfield", row, json, lambda report: bench_cranfield(report, embedder=embedder))


def law(embedder: Embedder = None, row: Row = None, json: Json = False) -> None:
    """Measures lexical, dense and hybrid search on Chinese statutes, beside bm25s with jieba."""
    from deepwell_bench.suites.knowledge.retrieval import bench_law

    measure("knowledge_law", row, json, lambda report: bench_law(report, embedder=embedder))


def citations(
    model: Annotated[str, typer.Option(help="Chat model that writes the answers.")] = "qwen2.5-coder-0.5b",
    development: Annotated[
        bool,
        typer.Option("--development", help="Ask the questions on which thresholds and prompts were chosen."),
    ] = False,
    every: Annotated[int, typer.Option(min=1, help="Ask every n-th question alone.")] = 1,
    quoted: Annotated[
        bool,
        typer.Option("--quoted", help="Quote the best sentence instead of asking the model for an answer."),
    ] = False,
    written: Annotated[
        bool,
        typer.Option(
            "--written", help="Let the model write, also if a quotation was measured to answer better."
        ),
    ] = False,
    fit: Annotated[
        bool,
        typer.Option(
            "--fit",
            help="Fit weights and thresholds on the development questions, and try them on sets that were left out.",
        ),
    ] = False,
    fit_model: Annotated[
        bool,
        typer.Option(
            "--fit-writer",
            help="Fit with the chat model's likelihoods of the questions too, and the support of sentences.",
        ),
    ] = False,
    row: Row = None,
    json: Json = False,
) -> None:
    """Judges grounded answers, their citations and their declining on written questions, in English and Chinese."""
    from deepwell.knowledge.answer.grounded import AnswerOptions
    from deepwell_bench.suites.knowledge.citations import bench_citations

    if fit or fit_model:
        from deepwell_bench.suites.knowledge.citations_fit import fit_citations, fit_writer

        measure(
            "knowledge_citations_fit",
            None,
            json,
            lambda report: fit_writer(report, model) if fit_model else fit_citations(report),
        )
        return
    options = AnswerOptions(style="quoted" if quoted else "written" if written else "auto")
    measure(
        "knowledge_citations",
        row,
        json,
        lambda report: bench_citations(report, model, development=development, every=every, options=options),
    )


def current(
    passages: Annotated[
        int, typer.Option(min=10, help="Number of passages that are added and removed.")
    ] = 60,
    row: Row = None,
    json: Json = False,
) -> None:
    """Times how soon a new passage is found over HTTP, and counts removed ones that still are."""
    from deepwell_bench.suites.knowledge.current import bench_current

    measure("knowledge_current", row, json, lambda report: bench_current(report, passages=passages))


def million(
    vectors: Annotated[
        int, typer.Option(min=10_000, help="Number of vectors of the largest store.")
    ] = 1_000_000,
    passages: Annotated[
        int, typer.Option(min=100, help="Number of real passages they are made from.")
    ] = 4_000,
    noise: Annotated[
        float, typer.Option(min=0.0, help="Expected length of the Gaussian noise on a vector of length 1.")
    ] = 0.3,
    row: Row = None,
    json: Json = False,
) -> None:
    """Builds the index of a large store, kills it once, and measures its memory, speed and recall at three sizes."""
    from deepwell_bench.suites.knowledge.million import bench_million

    measure(
        "knowledge_million",
        row,
        json,
        lambda report: bench_million(report, vectors=vectors, passages=passages, noise=noise),
    )


def search(
    chunks: Annotated[int, typer.Option(min=100, help="Number of passages to ingest and search.")] = 26_000,
    row: Row = None,
    json: Json = False,
) -> None:
    """Ingests passages of the LibreOffice help in two languages, and times hybrid searches over them."""
    from deepwell_bench.suites.knowledge.speed import bench_speed

    measure("knowledge_speed", row, json, lambda report: bench_speed(report, chunks=chunks))


def vector_stores(row: Row = None, json: Json = False) -> None:
    """Calls every method of vector stores and file_search through the official SDK, synchronously and not."""
    from deepwell_bench.suites.knowledge.sdk import bench_knowledge_sdk

    measure("knowledge_sdk", row, json, bench_knowledge_sdk)


def documents(
    seed: Annotated[int, typer.Option(help="Seed of the damage and noise in the files.")] = 0,
    row: Row = None,
    json: Json = False,
) -> None:
    """Parses hostile documents of every format within limits, and names each file that breaks the bar."""
    from deepwell_bench.suites.knowledge.documents import bench_documents

    measure("knowledge_robustness", row, json, lambda report: bench_documents(report, seed=seed))


def languages(
    development: Annotated[
        bool, typer.Option("--development", help="Ask the development questions, on which choices are made.")
    ] = False,
    row: Row = None,
    json: Json = False,
) -> None:
    """Asks questions whose answer is a passage in the other language, over the LibreOffice help in both."""
    from deepwell_bench.suites.knowledge.languages import bench_languages

    measure("knowledge_languages", row, json, lambda report: bench_languages(report, development=development))


def medical(
    development: Annotated[
        bool, typer.Option("--development", help="Ask questions of the chapters on which choices are made.")
    ] = False,
    row: Row = None,
    json: Json = False,
) -> None:
    """Asks closed questions on ICD-10-CM with and without retrieval, and control questions that need none."""
    from deepwell_bench.suites.knowledge.medical import bench_medical

    measure("knowledge_medical", row, json, lambda report: bench_medical(report, development=development))


def postgres_vectors(
    passages: Annotated[int, typer.Option(min=100, help="Number of passages of each language.")] = 4_096,
    row: Row = None,
    json: Json = False,
) -> None:
    """Asks the same questions of SQLite with side files and of PostgreSQL with pgvector, and counts differing rankings."""
    from deepwell_bench.suites.knowledge.postgres_vectors import bench_postgres_vectors

    measure("knowledge_postgres", row, json, lambda report: bench_postgres_vectors(report, passages=passages))


def rerank(
    model: Annotated[str, typer.Option(help="Language model that reorders the passages.")] = "smollm2",
    development: Annotated[
        bool, typer.Option("--development", help="Ask the development questions, on which choices are made.")
    ] = False,
    row: Row = None,
    json: Json = False,
) -> None:
    """Asks questions on the LibreOffice help in the language of its passages, with and without a reranker."""
    from deepwell_bench.suites.knowledge.rerank import bench_rerank

    measure(
        "knowledge_rerank", row, json, lambda report: bench_rerank(report, model, development=development)
    )


def context_survival(
    development: Annotated[
        bool, typer.Option("--development", help="Measure the haystacks on which choices are made.")
    ] = False,
    embedder: Embedder = None,
    likelihood: Annotated[
        bool, typer.Option("--likelihood", help="Also score sentences by the likelihoods of the chat model.")
    ] = False,
    every: Annotated[int, typer.Option(min=1, help="Ask every n-th question alone.")] = 1,
    row: Row = None,
    json: Json = False,
) -> None:
    """Counts the facts of long texts that survive compression and retrieval, beside truncation to the same tokens."""
    from deepwell_bench.suites.context.survival import SurvivalOptions, bench_survival

    options = SurvivalOptions("development" if development else "evaluation", every=every)
    measure(
        "context_survival",
        row,
        json,
        lambda report: bench_survival(report, options, embedder=embedder, likelihood=likelihood),
    )
