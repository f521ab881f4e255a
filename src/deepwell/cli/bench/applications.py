"""Verbs of `deepwell bench` on the applications of `examples/`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deepwell.cli.bench.options import Json, Row, measure

__all__ = ["content", "rules", "support"]
__all__ = ["content", "data_analysis", "support"]


def content(
    briefs: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File of the held-out briefs; left out: that of the repository."),
    ] = None,
    model: Annotated[str, typer.Option(help="Model that writes.")] = "qwen2.5-coder-0.5b",
    limit: Annotated[
        int | None, typer.Option(min=1, help="Number of briefs of each language; left out: all.")
    ] = None,
    row: Row = None,
    json: Json = False,
) -> None:
    """Writes the product texts of 100 held-out briefs: length, required and forbidden terms, beside one plain prompt."""
    from deepwell.bench.harness.assets import repository
    from deepwell.bench.suites.applications.content import bench_content
    from deepwell.llm import LLM

    path = briefs or repository() / "bench" / "data" / "content" / "held_out.jsonl"
    with LLM(model) as llm:
        measure("content", row, json, lambda report: bench_content(report, path, llm, limit))


def support(
    turns: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File of the held-out turns; left out: that of the repository."),
    ] = None,
    model: Annotated[str, typer.Option(help="Model that writes.")] = "qwen2.5-coder-0.5b",
    development: Annotated[
        bool,
        typer.Option("--development", help="Ask the development questions in place of the held-out ones."),
    ] = False,
    every: Annotated[int, typer.Option(min=1, help="Ask every n-th question alone, for a quick look.")] = 1,
    row: Row = None,
    json: Json = False,
) -> None:
    """Asks the support desk 208 held-out questions over the LibreOffice help, and reads 80 turns that may want a person."""
    from deepwell.bench.harness.assets import repository
    from deepwell.bench.suites.applications.support import bench_support

    path = turns or repository() / "bench" / "data" / "support" / "held_out.jsonl"
    measure(
        "support",
        row,
        json,
        lambda report: bench_support(report, model, path, development=development, every=every),
    )


def rules(
    programs: Annotated[int, typer.Option(min=1, help="Number of random programs.")] = 1000,
    row: Row = None,
    json: Json = False,
) -> None:
    """Compares clingo with a second evaluator on random programs, and counts explained decisions of the examples."""
    from deepwell.bench.harness.assets import repository
    from deepwell.bench.suites.applications.rules import bench_rules

    folder = repository() / "examples" / "rules"
    examples = [folder / "loan", folder / "ticket.yaml"]
    measure("rules_programs", row, json, lambda report: bench_rules(report, examples, programs))
def data_analysis(
    questions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File of questions with gold SQL; left out: the held-out ones of the repository.",
        ),
    ] = None,
    model: Annotated[str, typer.Option(help="Model that writes SQL.")] = "qwen2.5-coder-0.5b",
    embedder: Annotated[
        str, typer.Option(help="Embedding model that finds tables, columns and values.")
    ] = "e5-small-q4",
    row: Row = None,
    json: Json = False,
) -> None:
    """Asks 100 held-out questions over five tables, with and without retrieval, and tries to leave the sandbox."""
    from deepwell.bench.harness.assets import repository
    from deepwell.bench.suites.applications.data_analysis import bench_data_analysis

    path = questions or repository() / "bench" / "data" / "analysis" / "held_out.jsonl"
    script = repository() / "examples" / "data-analysis" / "make_data.py"
    measure(
        "data_analysis", row, json, lambda report: bench_data_analysis(report, path, script, model, embedder)
    )
