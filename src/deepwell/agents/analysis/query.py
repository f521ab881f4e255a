"""`check_query`: one read-only statement over known tables and columns, with a limit, or words that let a model mend it."""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from deepwell.agents.analysis.tables import Column, Tables
from deepwell.errors import MissingDependency

if TYPE_CHECKING:
    from sqlglot.expressions.core import Expression

__all__ = ["CheckedQuery", "QueryProblem", "check_query", "parsed_statement", "statement_text"]

_MOST_CHARACTERS: Final = 10_000
_MOST_NODES: Final = 2_000
_FENCE: Final = re.compile(r"```(?:\w+)?\s*\n(.*?)(?:```|$)", re.DOTALL)
_REFUSED_FUNCTIONS: Final = frozenset(
    {
        "load_extension",
        "readfile",
        "writefile",
        "edit",
        "fts3_tokenizer",
        "sqlite_log",
        "zeroblob",
        "randomblob",
    }
)


class QueryProblem(Exception):
    """Raised for a statement that will not be run, in words that let a model mend it."""


@dataclass(frozen=True, slots=True)
class CheckedQuery:
    """A statement that may be run.

    Attributes:
        sql: its text, with a LIMIT.
        tables: names of the tables that it reads.
        limited: whether the limit was added.
    """

    sql: str
    tables: tuple[str, ...]
    limited: bool


def check_query(text: str, tables: Tables, most_rows: int = 1000) -> CheckedQuery:
    """Returns the one statement of a text: it only reads, names known tables and columns, and has a limit of rows.

    Raises:
        QueryProblem: it is anything else.
        MissingDependency: the extra `agents` is not installed.
    """
    statement = statement_text(text)
    expression = parsed_statement(statement)
    from sqlglot import exp

    _check_kind(expression)
    _check_functions(expression)
    common = {one.alias_or_name.lower() for one in expression.find_all(exp.CTE)}
    used = _check_tables(expression, tables, common)
    _check_columns(expression, tables, used, common)
    limited = expression.args.get("limit") is None
    sql = f"{statement}\nLIMIT {most_rows + 1}" if limited else statement
    return CheckedQuery(sql, tuple(used), limited)


def statement_text(text: str) -> str:
    """Returns the statement of an answer, without code fence and last semicolon.

    Raises:
        QueryProblem: there is none.
    """
    if len(text) > _MOST_CHARACTERS:
        raise QueryProblem(f"The query is longer than {_MOST_CHARACTERS:,} characters.")
    if "\0" in text:
        raise QueryProblem("The query has a NUL character.")
    fenced = _FENCE.search(text)
    statement = (fenced[1] if fenced else text).strip().rstrip("; \n\t")
    if not statement:
        raise QueryProblem("The query is empty. Write one SELECT statement.")
    return statement


def parsed_statement(statement: str) -> Expression:
    """Returns one statement of SQLite as sqlglot reads it.

    Raises:
        QueryProblem: it is not valid, or several.
        MissingDependency: the extra `agents` is not installed.
    """
    try:
        from sqlglot import ErrorLevel, parse
        from sqlglot.errors import SqlglotError
    except ImportError:
        raise MissingDependency(
            "checking SQL needs the sqlglot package", fix="python -m pip install 'deepwell[agents]'"
        ) from None
    logging.getLogger("sqlglot").setLevel(logging.ERROR)  # its warnings quote what a model wrote
    try:
        found = [one for one in parse(statement, read="sqlite", error_level=ErrorLevel.IMMEDIATE) if one]
    except SqlglotError as error:
        plain = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip().split("\n", 1)[0][:200]
        raise QueryProblem(f"The query is not valid SQL: {plain}") from None
    except RecursionError:
        raise QueryProblem("The query is nested too deep.") from None
    if len(found) != 1:
        raise QueryProblem("Write exactly one SELECT statement.")
    return found[0]  # type: ignore[return-value]


def _check_kind(expression: Expression) -> None:
    from sqlglot import exp

    changes = (
        exp.Insert,
        exp.Update,
        exp.Delete,
        exp.Merge,
        exp.Create,
        exp.Drop,
        exp.Alter,
        exp.Command,
        exp.Into,
    )
    others = (exp.Pragma, exp.Attach, exp.Detach, exp.Transaction, exp.Parameter, exp.Placeholder)
    if not isinstance(expression, exp.Query) or expression.find(*changes, *others):
        raise QueryProblem("Only reading is allowed. Write one SELECT statement with all values written out.")
    if sum(1 for _ in expression.walk()) > _MOST_NODES:
        raise QueryProblem("The query is too large.")


def _check_functions(expression: Expression) -> None:
    from sqlglot import exp

    for call in expression.find_all(exp.Func):
        name = (call.name if isinstance(call, exp.Anonymous) else call.sql_name()).lower()
        if name in _REFUSED_FUNCTIONS or name.startswith("pragma_"):
            raise QueryProblem(f"The function {name} is not allowed.")


def _check_tables(expression: Expression, tables: Tables, common: set[str]) -> dict[str, None]:
    """Returns the names of the tables that are read."""
    from sqlglot import exp

    used: dict[str, None] = {}
    for one in expression.find_all(exp.Table):
        if isinstance(one.this, exp.Func) or one.args.get("db") or one.args.get("catalog"):
            raise QueryProblem(
                f"Read tables alone, by their plain names: {_listed(table.name for table in tables.tables)}."
            )
        if one.name.lower() in common:
            continue
        table = tables.named(one.name)
        if table is None:
            raise QueryProblem(
                f"There is no table {one.name[:80]}.{_near(one.name, [table.name for table in tables.tables])}"
                f" The tables are: {_listed(table.name for table in tables.tables)}."
            )
        used[table.name] = None
    return used


def _check_columns(expression: Expression, tables: Tables, used: dict[str, None], common: set[str]) -> None:
    """Looks for columns that no table of the statement has. SQLite checks the rest, as which alias has which column."""
    from sqlglot import exp

    aliases = {one.alias.lower(): one.name.lower() for one in expression.find_all(exp.Table) if one.alias}
    subqueries = {one.alias.lower() for one in expression.find_all(exp.Subquery) if one.alias}
    made = {one.alias.lower() for one in expression.find_all(exp.Alias)} | _made_by_lists(expression)
    known = {column.name.lower(): column.name for name in used for column in _of(tables, name)}
    for one in expression.find_all(exp.Column):
        name, where = one.name.lower(), one.table.lower()
        if isinstance(one.this, exp.Star):
            continue
        if where and where not in aliases | {table.lower(): None for table in used} | dict.fromkeys(
            common | subqueries
        ):
            raise QueryProblem(f"{one.table[:80]} is no table or alias of the query.")
        own = tables.named(aliases.get(where, where)) if where else None
        names = {column.name.lower(): column.name for column in own.columns} if own else known
        if name in names or (own is None and name in made) or name in ("rowid", "_rowid_", "oid"):
            continue
        if one.this.args.get("quoted") and not where:
            raise QueryProblem(
                f"There is no column {one.name[:80]}. Write texts in single quotes: '{one.name[:80]}'."
            )
        place = f" in {own.name}" if own else ""
        raise QueryProblem(
            f"There is no column {one.name[:80]}{place}.{_near(one.name, names.values())}"
            f" The columns are: {_listed(names.values())}."
        )


def _made_by_lists(expression: Expression) -> set[str]:
    """Returns the names that lists behind an alias give, as in `WITH a(x, y) AS`."""
    from sqlglot import exp

    return {one.name.lower() for alias in expression.find_all(exp.TableAlias) for one in alias.columns}


def _of(tables: Tables, name: str) -> Iterable[Column]:
    table = tables.named(name)
    return table.columns if table else ()


def _listed(names: Iterable[str]) -> str:
    return ", ".join(list(names)[:60])


def _near(name: str, names: Iterable[str]) -> str:
    found = difflib.get_close_matches(name.lower(), [one.lower() for one in names], n=1)
    match = next((one for one in names if found and one.lower() == found[0]), None)
    return f" Did you mean {match}?" if match else ""
