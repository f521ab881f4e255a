"""`Analyst`: a question becomes one checked SELECT statement; errors go back to the model, which mends it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from deepwell.agents.analysis.mend import Mender
from deepwell.agents.analysis.query import CheckedQuery, QueryProblem, check_query, statement_text
from deepwell.agents.analysis.retrieve import Embedder, SchemaIndex, ddl
from deepwell.agents.analysis.run import Rows, run_query
from deepwell.agents.analysis.tables import ANALYSIS_LIMITS, Tables
from deepwell.agents.sandbox import Sandbox
from deepwell.models.text.shipped import shipped

__all__ = ["Analysis", "Analyst", "Writer"]

Writer = Callable[[Sequence[Mapping[str, Any]]], Awaitable[str]]
"""Returns a model's answer to messages."""

SYSTEM: Final = shipped(
    "You write SQL for SQLite. Answer with one SELECT statement and nothing else. Use only the tables and columns shown. "
    "Select only the columns that the question asks for."
)
_CORRECT: Final = shipped("{problem} Write the corrected SELECT statement.")
_HINTS: Final = shipped("\n-- Values in the question: {hints}")
_QUESTION: Final = shipped("{schema}{hints}\n\n-- Question: {question}")
_NOTHING: Final = shipped(
    "The query returns nothing. Compare its conditions with the values that the comments show."
)


@dataclass(frozen=True, slots=True)
class Analysis:
    """The answer to a question.

    Attributes:
        sql: the last statement, as it ran or was refused; empty: none was written.
        rows: its rows; None: no statement could be run, and `problem` says why.
        tables: names of the tables that the model saw.
        attempts: statements that it wrote.
    """

    question: str
    sql: str
    rows: Rows | None
    problem: str
    tables: tuple[str, ...]
    attempts: int


class Analyst:
    """Answers questions about tables.

    Args:
        write: the model.
        embed: for the choice of tables; None: the model sees all tables with their values.
        repairs: further statements that the model may write after an error, or a result that is empty.
        plain: the model sees all tables without values, as a baseline.
    """

    def __init__(
        self,
        tables: Tables,
        write: Writer,
        *,
        embed: Embedder | None = None,
        repairs: int = 2,
        plain: bool = False,
        sandbox: Sandbox | None = None,
    ) -> None:
        self._tables, self._write = tables, write
        self._index = SchemaIndex(tables, embed)
        self._mender = Mender(tables, embed) if embed else None
        self._repairs, self._plain = repairs, plain
        self._sandbox = sandbox or Sandbox(ANALYSIS_LIMITS)

    async def ask(self, question: str) -> Analysis:
        """Returns the statement and its rows, or why there are none.

        Raises:
            SandboxUnavailable: no sandbox can be had here.
        """
        messages, shown = await self._messages(question)
        best: tuple[CheckedQuery, Rows] | None = None
        sql, problem, attempts = "", "", 0
        while attempts <= self._repairs:
            attempts += 1
            written = await self._write(messages)
            try:
                query = await self._query(written)
                sql = query.sql
                rows = await run_query(query, self._tables, self._sandbox)
            except QueryProblem as error:
                problem = str(error)
            else:
                best = best or (query, rows)
                problem = _empty(rows)
                if not problem:
                    best = (query, rows)
                    break
            messages = [
                *messages[:2],
                {"role": "assistant", "content": written[:1000]},
                {"role": "user", "content": _CORRECT.format(problem=problem)},
            ]
        if best is None:
            return Analysis(question, sql, None, problem, shown, attempts)
        return Analysis(question, best[0].sql, best[1], "", shown, attempts)

    async def _query(self, written: str) -> CheckedQuery:
        if self._plain:  # SQLite alone judges the names
            return CheckedQuery(statement_text(written), (), limited=False)
        if self._mender is not None:
            written = await self._mender.mended(written)
        return check_query(written, self._tables)

    async def _messages(self, question: str) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
        if self._plain:
            names = tuple(one.name for one in self._tables.tables)
            schema, hints = "\n".join(ddl(one, values=False) for one in self._tables.tables), ()
        else:
            found = await self._index.retrieve(question)
            schema, names, hints = found.schema, found.tables, found.hints
        told = _HINTS.format(hints="; ".join(hints)) if hints else ""
        text = _QUESTION.format(schema=schema, hints=told, question=question)
        return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}], names


def _empty(rows: Rows) -> str:
    """Returns what is suspicious about a result without values, or nothing."""
    if not rows.rows or all(cell is None for row in rows.rows for cell in row):
        return _NOTHING
    return ""
