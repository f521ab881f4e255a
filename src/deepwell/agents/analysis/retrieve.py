"""`retrieve`: the tables that a question needs, with the values that may be meant."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from deepwell.agents.analysis.tables import Column, Table, Tables

__all__ = ["Embedder", "Retrieved", "SchemaIndex", "ddl"]

Embedder = Callable[[Sequence[str]], Awaitable[Sequence[Sequence[float]]]]
"""Returns a vector of length 1 for each text."""

_MOST_TABLES: Final = 3
_MARGIN: Final = 0.02  # of cosines below the best table
_FEW_VALUES: Final = 8
_HINTED_VALUES: Final = 4


class _Sized(Protocol):
    def __len__(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Retrieved:
    """The part of the tables that a model sees.

    Attributes:
        schema: the chosen tables as CREATE TABLE statements, with values in comments.
        tables: their names.
        hints: conditions whose values stand in the question, such as `products.supplier = 'Suhe'`.
    """

    schema: str
    tables: tuple[str, ...]
    hints: tuple[str, ...]


class SchemaIndex:
    """Finds tables by the meaning of their columns and values, in both languages, and by values that a question names.

    Args:
        embed: a multilingual model, such as e5-small; None: all tables are shown, with their values.
    """

    def __init__(self, tables: Tables, embed: Embedder | None = None) -> None:
        self._tables = tables
        self._embed = embed
        self._vectors: list[tuple[Table, Sequence[float]]] = []

    async def retrieve(self, question: str) -> Retrieved:
        """Returns the tables for a question."""
        named = _named_values(question, self._tables)
        chosen = await self._chosen(question, named)
        hints = tuple(
            f"{table.name}.{column.name} = '{value}'" for table, column, value in named if table in chosen
        )
        schema = "\n".join(ddl(one, values=True) for one in chosen)
        return Retrieved(schema, tuple(one.name for one in chosen), hints[:_HINTED_VALUES])

    async def _chosen(self, question: str, named: Sequence[tuple[Table, Column, str]]) -> list[Table]:
        if self._embed is None or len(self._tables.tables) <= 2:
            return list(self._tables.tables)
        if not self._vectors:
            pieces = [(table, text) for table in self._tables.tables for text in _texts(table)]
            vectors = await self._embed([f"passage: {text}" for _, text in pieces])
            self._vectors = [(table, vector) for (table, _), vector in zip(pieces, vectors, strict=True)]
        (asked,) = await self._embed([f"query: {question}"])
        scores: dict[str, float] = {}
        for table, vector in self._vectors:
            cosine = sum(a * b for a, b in zip(asked, vector, strict=True))
            scores[table.name] = max(scores.get(table.name, 0.0), cosine)
        for table in {one.name for one, _, _ in named}:
            scores[table] += _MARGIN
        best = max(scores.values())
        kept = sorted(
            (name for name in scores if scores[name] >= best - _MARGIN), key=lambda name: -scores[name]
        )
        return [one for one in self._tables.tables if one.name in kept[:_MOST_TABLES]]


def ddl(table: Table, *, values: bool) -> str:
    """Returns a table as a CREATE TABLE statement, with the values of columns that have few, or an example."""
    lines: list[str] = []
    for place, column in enumerate(table.columns):
        comma = "," if place + 1 < len(table.columns) else ""
        refers = f" REFERENCES {column.refers[0]}({column.refers[1]})" if column.refers else ""
        lines.append(f"  {column.name} {column.type}{refers}{comma}{_comment(column) if values else ''}")
    return f"CREATE TABLE {table.name} (\n" + "\n".join(lines) + "\n);"


def _comment(column: Column) -> str:
    if not column.values:
        return ""
    shown = [one if column.type in ("INTEGER", "REAL") else f"'{one}'" for one in column.values]
    if (
        column.complete
        and len(column.values) <= _FEW_VALUES
        and not (column.type == "INTEGER" and len(shown) < 2)
    ):
        return f" -- one of {', '.join(shown)}"
    return f" -- such as {shown[0]}"


def _texts(table: Table) -> list[str]:
    """Returns what is known of a table, in pieces: its name with each column and its values."""
    whole = f"{table.name}: {', '.join(column.name for column in table.columns)}"
    return [
        whole,
        *(
            f"{table.name} {column.name} {' '.join(column.values[:_FEW_VALUES]) if len(column.values) <= _FEW_VALUES else ''}"
            for column in table.columns
        ),
    ]


def _named_values(question: str, tables: Tables) -> list[tuple[Table, Column, str]]:
    """Returns the text values that stand in the question, longest first."""
    asked = question.lower()
    found: list[tuple[Table, Column, str]] = []
    for table in tables.tables:
        for column in table.columns:
            if column.type in ("INTEGER", "REAL"):
                continue
            found += [(table, column, value) for value in column.values if _stands(value.lower(), asked)]
    return sorted(found, key=lambda one: -len(one[2]))


def _stands(value: str, asked: str) -> bool:
    if len(value) < 2 or value.isdigit():
        return False
    if value.isascii():
        return re.search(rf"(?<![a-z0-9]){re.escape(value)}s?(?![a-z0-9])", asked) is not None
    return value in asked
