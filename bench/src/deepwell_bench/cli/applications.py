"""Verbs of `deepwell bench` on the applications of `examples/`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepwell_bench.cli.options import Json, Row, measure

if TYPE_CHECKING:
    from deepwell.cli.bench.report import Report

__all__ = ["content", "contracts", "data_analysis", "finance", "prompts", "rules", "rules_joined", "support"]


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
    from deepwell.llm import LLM
    from deepwell_bench.harness.assets import repository
    from deepwell_bench.suites.applications.content import bench_content

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
    from deepwell_bench.harness.assets import repository
    from deepwell_bench.suites.applications.support import bench_support

    path = turns or repository() / "bench" / "data" / "support" / "held_out.jsonl"
    measure(
        "support",
        row,
        json,
        lambda report: bench_support(report, model, path, development=development, every=every),
    )


def prompts(
    model: Annotated[str, typer.Option(help="Model that answers.")] = "qwen2.5-coder-0.5b",
    only: Annotated[
        str, typer.Option(metavar="NAME", help="Part of the names of packs to measure; left out: all.")
    ] = "",
    development: Annotated[
        bool, typer.Option("--development", help="Ask the development items in place of the held-out ones.")
    ] = False,
    row: Row = None,
    json: Json = False,
) -> None:
    """Asks each industry prompt and a plain prompt the held-out items of its task, and compares their scores in pairs."""
    from deepwell.llm import LLM
    from deepwell_bench.suites.applications.prompts import bench_prompts

    half = "development" if development else "held_out"
    with LLM(model) as llm:
        measure("prompts", row, json, lambda report: bench_prompts(report, llm, half=half, only=only))


def rules(
    programs: Annotated[int, typer.Option(min=1, help="Number of random programs.")] = 1000,
    row: Row = None,
    json: Json = False,
) -> None:
    """Compares clingo with a second evaluator on random programs, and counts explained decisions of the examples."""
    from deepwell_bench.harness.assets import repository
    from deepwell_bench.suites.applications.rules import bench_rules

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
    from deepwell_bench.harness.assets import repository
    from deepwell_bench.suites.applications.data_analysis import bench_data_analysis

    path = questions or repository() / "bench" / "data" / "analysis" / "held_out.jsonl"
    script = repository() / "examples" / "data-analysis" / "make_data.py"
    measure(
        "data_analysis", row, json, lambda report: bench_data_analysis(report, path, script, model, embedder)
    )


def finance(
    model: Annotated[
        str, typer.Option(help="Model that reads the names of the parties.")
    ] = "qwen2.5-coder-0.5b",
    row: Row = None,
    json: Json = False,
) -> None:
    """Reviews 96 held-out Chinese loan contracts by rules, by a model and by both: fields, missing and unlawful clauses."""
    measure("finance", row, json, lambda report: _finance(report, model))


def contracts(row: Row = None, json: Json = False) -> None:
    """Labels 394 held-out licence texts by rules, by a model and by both: terms and categories."""
    measure("contracts", row, json, _contracts)


def rules_joined(
    model: Annotated[
        str, typer.Option(help="Model that reads the names of the parties.")
    ] = "qwen2.5-coder-0.5b",
    row: Row = None,
    json: Json = False,
) -> None:
    """Compares rules and models joined with each of them alone on two tasks, licence texts and loan contracts."""

    def both(report: Report) -> dict[str, Any]:
        value: dict[str, Any] = {}
        for name, found in (("contracts", _contracts(report)), ("finance", _finance(report, model))):
            for figure in (
                "f1_rules",
                "f1_model",
                "f1_joined",
                "points_over_best",
                "points_over_best_interval",
                "explained",
            ):
                value[f"{name}_{figure}"] = found[figure]
        return value

    measure("rules_joined", row, json, both)


def _finance(report: Report, model: str) -> dict[str, Any]:
    from deepwell.llm import LLM
    from deepwell_bench.harness.assets import e5_small
    from deepwell_bench.harness.vectors import CachedEmbedder
    from deepwell_bench.suites.applications.finance import bench_finance

    embedder = CachedEmbedder(e5_small(), report.note)
    try:
        with LLM(model) as reader:
            return bench_finance(report, lambda texts: embedder.embed(texts, "passage"), reader)
    finally:
        embedder.close()


def _contracts(report: Report) -> dict[str, Any]:
    from deepwell_bench.harness.assets import minilm
    from deepwell_bench.harness.vectors import CachedEmbedder
    from deepwell_bench.suites.applications.contracts import bench_contracts

    embedder = CachedEmbedder(minilm(), report.note)
    try:
        return bench_contracts(report, lambda texts: embedder.embed(texts, "passage"))
    finally:
        embedder.close()
