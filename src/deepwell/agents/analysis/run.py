"""`run_query`: runs a checked statement in the sandbox."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from deepwell.agents.analysis.query import CheckedQuery, QueryProblem
from deepwell.agents.analysis.tables import ANALYSIS_LIMITS, Tables, sandbox_program
from deepwell.agents.sandbox import Sandbox

__all__ = ["Rows", "run_query"]

_SECONDS: Final = 5.0
_MOST_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Rows:
    """The result of a statement.

    Attributes:
        rows: cells as None, int, float or str, a row a tuple.
        more: whether there are rows beyond the limit.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    more: bool


async def run_query(
    query: CheckedQuery, tables: Tables, sandbox: Sandbox | None = None, *, most_rows: int = 1000
) -> Rows:
    """Returns the rows of a statement. SQLite is the second wall: its authorizer lets it read the tables alone.

    Raises:
        QueryProblem: SQLite refuses it, or it takes too much.
        SandboxUnavailable: no sandbox can be had here.
    """
    order = {"seconds": _SECONDS, "most_rows": most_rows, "most_bytes": _MOST_BYTES}
    given = {
        "order.json": json.dumps(order).encode(),
        "query.sql": query.sql.encode(),
        "tables.db": tables.image,
    }
    runs = sandbox or Sandbox(ANALYSIS_LIMITS)
    result = await runs.run(sandbox_program("query"), files=given)
    if "rows.json" not in result.files:
        raise QueryProblem("The query takes more time or memory than it may. Ask for less.")
    told = json.loads(result.files["rows.json"])
    if "error" in told:
        raise QueryProblem(_said(str(told["error"])))
    return Rows(tuple(told["columns"]), tuple(map(tuple, told["rows"])), bool(told["more"]))


def _said(error: str) -> str:
    if error == "interrupted":
        return f"The query takes longer than {_SECONDS:g} s. Ask for less."
    if error == "not authorized" or "prohibited" in error:
        return "Only reading the tables is allowed. Write one SELECT statement."
    return f"SQLite says: {error[:300]}."
