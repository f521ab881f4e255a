"""Reads SQL that a model wrote, and lets one read-only statement through."""

from __future__ import annotations

import logging
import re
from typing import Final

from deepwell.errors import MissingDependency

__all__ = ["StatementProblem", "checked_statement", "require_sqlglot"]

_MOST_CHARACTERS: Final = 10_000
_FENCE: Final = re.compile(r"^\s*```(?:sql|sqlite)?\s*\n(.*?)\n?```\s*$", re.DOTALL | re.IGNORECASE)


class StatementProblem(Exception):
    """Raised for SQL that will not be run, in words that let a model mend it."""


def require_sqlglot() -> None:
    """Looks for the parser.

    Raises:
        MissingDependency: the extra `agents` is not installed.
    """
    try:
        import sqlglot  # noqa: F401
    except ImportError:
        raise MissingDependency(
            "reading SQL needs the sqlglot package", fix="python -m pip install 'deepwell[agents]'"
        ) from None
    logging.getLogger("sqlglot").setLevel(logging.ERROR)  # its warnings quote what a model wrote


def checked_statement(text: str) -> str:
    """Returns one SELECT statement, without a code fence and a last semicolon.

    The database is opened read-only and its authorizer refuses everything else as well; this check comes first because it says
    in words what to write instead.

    Raises:
        StatementProblem: it is no SQL, several statements, or one that does not only read.
    """
    from sqlglot import ErrorLevel, exp, parse
    from sqlglot.errors import SqlglotError

    if len(text) > _MOST_CHARACTERS:
        raise StatementProblem(f"The query is longer than {_MOST_CHARACTERS:,} characters.")
    if "\0" in text:
        raise StatementProblem("The query has a NUL character.")
    fenced = _FENCE.match(text)
    text = (fenced.group(1) if fenced else text).strip().rstrip(";").strip()
    if not text:
        raise StatementProblem("The query is empty. Send one SELECT statement.")
    try:
        found = [one for one in parse(text, read="sqlite", error_level=ErrorLevel.IMMEDIATE) if one]
    except SqlglotError as error:
        raise StatementProblem(f"The query is no valid SQL: {_first_line(str(error))}") from None
    except RecursionError:
        raise StatementProblem("The query is nested too deep.") from None
    if len(found) != 1:
        raise StatementProblem("Send exactly one SELECT statement.")
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
    if found[0].find(*changes) or not isinstance(found[0], exp.Query):
        raise StatementProblem("Only reading is allowed. Send one SELECT statement.")
    return text


def _first_line(text: str) -> str:
    """Returns the first line of an error, without the colours of a terminal."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text).strip().split("\n", 1)[0][:200]
