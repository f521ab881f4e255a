"""`Mender`: names and values that a model wrote and the tables do not have become the nearest ones that they have.

A small model writes `city` for a column 城市, or 'refund' for a value 退款. Both are found by meaning, with a multilingual
embedding model; what is spelt right stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from deepwell.agents.analysis.query import QueryProblem, parsed_statement, statement_text
from deepwell.agents.analysis.retrieve import Embedder
from deepwell.agents.analysis.tables import Column, Table, Tables

if TYPE_CHECKING:
    from sqlglot import exp
    from sqlglot.expressions.core import Expression

__all__ = ["Mender"]

_LEAST_COSINE: Final = 0.8  # of e5: below, a name means something else


class Mender:
    """Mends statements over the same tables."""

    def __init__(self, tables: Tables, embed: Embedder) -> None:
        self._tables, self._embed = tables, embed
        self._vectors: dict[str, Sequence[float]] = {}

    async def mended(self, text: str) -> str:
        """Returns a statement with names and values of the tables, or the text as it is if it is no statement."""
        try:
            statement = statement_text(text)
            expression = parsed_statement(statement)
        except QueryProblem:
            return text
        changed = await self._names(expression)
        changed |= await self._values(expression)
        return expression.sql(dialect="sqlite") if changed else statement

    async def _names(self, expression: Expression) -> bool:
        from sqlglot import exp

        aliases, used = self._used(expression)
        made = {one.alias.lower() for one in expression.find_all(exp.Alias, exp.CTE, exp.Subquery)}
        changed = False
        for one in list(expression.find_all(exp.Column)):
            if isinstance(one.this, exp.Star) or one.name.lower() in made:
                continue
            table = aliases.get(one.table.lower()) if one.table else None
            if one.table and table is None and one.table.lower() not in made and used:
                one.set("table", None)
                changed = True
            among = [table] if table else used
            if not among or any(_has(known, one.name) for known in among):
                continue
            elsewhere = [alias for alias, known in aliases.items() if _has(known, one.name)]
            if elsewhere:
                one.set("table", exp.to_identifier(elsewhere[0]))
                changed = True
            elif one.this.args.get("quoted") and not one.table:
                one.replace(exp.Literal.string(one.name))
                changed = True
            elif nearest := await self._nearest(
                one.name, [column.name for known in among for column in known.columns]
            ):
                one.set("this", exp.to_identifier(nearest))
                changed = True
        return changed

    async def _values(self, expression: Expression) -> bool:
        from sqlglot import exp

        aliases, used = self._used(expression)
        changed = False
        for one in list(expression.find_all(exp.EQ, exp.NEQ, exp.In)):
            if not isinstance(one.this, exp.Column):
                continue
            column = _column(one.this, aliases, used)
            if column is None or not column.complete or not column.values:
                continue
            literals = one.expressions if isinstance(one, exp.In) else [one.expression]
            for literal in literals:
                if (
                    not isinstance(literal, exp.Literal)
                    or not literal.is_string
                    or literal.name in column.values
                ):
                    continue
                nearest = _contained(literal.name, column.values) or await self._nearest(
                    literal.name, column.values
                )
                if nearest:
                    literal.replace(exp.Literal.string(nearest))
                    changed = True
        return changed

    def _used(self, expression: Expression) -> tuple[dict[str, Table], list[Table]]:
        """Returns the tables by alias or name, and in their order."""
        from sqlglot import exp

        found: dict[str, Table] = {}
        for one in expression.find_all(exp.Table):
            if table := self._tables.named(one.name):
                found[one.alias_or_name.lower()] = table
        return found, list(dict.fromkeys(found.values()))

    async def _nearest(self, name: str, among: Sequence[str]) -> str | None:
        """Returns the text whose meaning is nearest, if it is near."""
        missing = [one for one in dict.fromkeys([name, *among]) if one not in self._vectors]
        if missing:
            vectors = await self._embed([f"query: {one.replace('_', ' ')}" for one in missing])
            self._vectors |= dict(zip(missing, vectors, strict=True))
        asked = self._vectors[name]
        scores = {one: sum(a * b for a, b in zip(asked, self._vectors[one], strict=True)) for one in among}
        best = max(scores, key=lambda one: scores[one])
        return best if scores[best] >= _LEAST_COSINE else None


def _has(table: Table, name: str) -> bool:
    return any(column.name.lower() == name.lower() for column in table.columns)


def _column(of: exp.Column, aliases: dict[str, Table], used: Sequence[Table]) -> Column | None:
    among = [aliases[of.table.lower()]] if of.table.lower() in aliases else used
    return next(
        (one for table in among for one in table.columns if one.name.lower() == of.name.lower()), None
    )


def _contained(text: str, values: Sequence[str]) -> str | None:
    """Returns the one value that is the text in other case, holds it, or is held by it."""
    lowered = text.lower()
    same = [one for one in values if one.lower() == lowered]
    near = same or [one for one in values if lowered in one.lower() or one.lower() in lowered]
    return near[0] if len(near) == 1 else None
