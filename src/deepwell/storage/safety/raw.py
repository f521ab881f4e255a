"""Rows as their bytes are, for whoever looks for damage: SQLite raises an error for text that is no UTF-8."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

__all__ = ["RAW", "as_text", "is_undecodable", "raw_rows"]

RAW: Final = "surrogateescape"
"""The error handler that such text was decoded with, and that gives its bytes again."""


def raw_rows(
    connection: Connection, query: sa.Select[*tuple[Any, ...]], values: Mapping[str, Any] | None = None
) -> list[Any]:
    """Returns the rows of a query, as tuples. Bytes that are no UTF-8 come as half surrogate pairs, as no stored text has."""
    try:
        return [tuple(row) for row in connection.execute(query, values or {})]
    except OperationalError as error:
        if not is_undecodable(error):
            raise
    columns = [
        sa.cast(one, sa.LargeBinary) if isinstance(one.type, sa.String) else one
        for one in query.selected_columns
    ]
    rows = connection.execute(query.with_only_columns(*columns), values or {})
    return [tuple(one.decode("utf-8", RAW) if isinstance(one, bytes) else one for one in row) for row in rows]


def as_text(column: sa.ColumnElement[str]) -> sa.ColumnElement[str]:
    """Returns a column of texts as text, whatever somebody put there: SQLite keeps values of any type in any column."""
    return sa.func.coalesce(sa.cast(column, sa.Text), "")


def is_undecodable(error: OperationalError) -> bool:
    """Returns whether a query failed because a text is no UTF-8."""
    return "decode" in str(error.orig)
