"""`deepwell ask --data`: a question about tables becomes a query, its rows, and a chart."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from deepwell.cli.output import console, print_table, write_json
from deepwell.errors import InvalidRequest
from deepwell.messages import say

if TYPE_CHECKING:
    from deepwell.agents.analysis import Analysis
    from deepwell.agents.analysis.retrieve import Embedder
    from deepwell.cli.answers import Answers
    from deepwell.llm import AsyncLLM
    from deepwell.settings import Settings

__all__ = ["answer_from_tables"]

_SHOWN_ROWS = 50
_STATEMENT_TOKENS = 160


def answer_from_tables(
    settings: Settings, data: Path, question: str, chart: Path | None, *, as_json: bool
) -> bool:
    """Prints the query that a model writes for a question, and its rows. Returns whether there is a result.

    Args:
        data: CSV or SQLite file, or a folder of them.
        chart: file for a bar chart of the rows.

    Raises:
        InvalidRequest: there is no table, or nothing to draw.
        InvalidFile: a file cannot be read.
        MissingDependency: sqlglot or matplotlib is not installed.
        SandboxUnavailable: no sandbox can be had here.
    """
    from deepwell.agents.analysis import check_chart, draw_bars
    from deepwell.agents.tools.sql.statement import require_sqlglot
    from deepwell.cli.answers import open_answers, warn_of_language
    from deepwell.cli.progress import waiting

    require_sqlglot()
    if chart is not None:
        check_chart(chart)
    with closing(open_answers(settings)) as answers:
        if not as_json:
            warn_of_language(answers, question, "ask --model")
        with waiting(say("data_asked"), shown=not as_json):
            found = asyncio.run(_analysed(settings, data, question, answers, as_json=as_json))
        model, where = answers.model, answers.where
    undrawn: InvalidRequest | None = None
    if chart is not None and found.rows is not None:
        try:
            draw_bars(found.rows, found.question, chart)
        except InvalidRequest as error:  # the rows are an answer nevertheless
            chart, undrawn = None, error
    if as_json:
        plain = _plain(found, chart) | ({} if undrawn is None else {"problem": undrawn.message})
        write_json({"model": model, "where": where, **plain})
        if undrawn is not None:
            raise typer.Exit(1)
    else:
        _print(found, chart)
    if undrawn is not None:
        raise undrawn
    return found.rows is not None


async def _analysed(
    settings: Settings, data: Path, question: str, answers: Answers, *, as_json: bool
) -> Analysis:
    from deepwell.agents.analysis import Analyst, load_tables
    from deepwell.cli.answers import Asked
    from deepwell.errors import ModelNotFound
    from deepwell.llm import AsyncLLM

    tables = await load_tables(data)

    def written(messages: Sequence[Any]) -> str:
        asked = Asked(list(messages), _STATEMENT_TOKENS, temperature=0)
        return "".join(part.text for part in answers.stream(asked))

    async def write(messages: Sequence[Any]) -> str:
        return await asyncio.to_thread(written, messages)

    async with AsyncExitStack() as stack:
        embed: Embedder | None = None
        name = settings.knowledge_embedder
        try:
            embed = _embedder(await stack.enter_async_context(AsyncLLM(name, models_dir=settings.models_dir)))
        except ModelNotFound:
            if not as_json:
                note = say("data_without_embedder", model=name)
                console(stderr=True).print(note, style="yellow", soft_wrap=True)
        return await Analyst(tables, write, embed=embed).ask(question)


def _embedder(encoder: AsyncLLM) -> Embedder:
    async def embed(texts: Sequence[str]) -> Sequence[Sequence[float]]:
        return [[float(one) for one in vector] for vector in await encoder.embed(list(texts))]

    return embed


def _plain(found: Analysis, chart: Path | None) -> dict[str, Any]:
    rows = found.rows
    return {
        "question": found.question,
        "sql": found.sql,
        "tables": list(found.tables),
        "attempts": found.attempts,
        "columns": None if rows is None else list(rows.columns),
        "rows": None if rows is None else [list(row) for row in rows.rows],
        "more": rows is not None and rows.more,
        "problem": found.problem,
        "chart": None if chart is None or rows is None else str(chart),
    }


def _print(found: Analysis, chart: Path | None) -> None:
    out = console()
    out.print(found.sql, soft_wrap=True, highlight=False, markup=False)
    out.print()
    if found.rows is None:
        console(stderr=True).print(
            say("data_unanswered", problem=found.problem), style="red", soft_wrap=True, markup=False
        )
        return
    rows = found.rows.rows
    shown = [["NULL" if cell is None else str(cell) for cell in row] for row in rows[:_SHOWN_ROWS]]
    print_table(found.rows.columns, shown, folded=found.rows.columns)
    if found.rows.more or len(rows) > _SHOWN_ROWS:
        out.print(say("data_more_rows", shown=len(shown), found=f"{len(rows)}{'+' * found.rows.more}"))
    if chart is not None:
        out.print(say("data_chart", path=chart), soft_wrap=True)
