"""Runs the statement of `query.sql` on `tables.db`, and writes its rows to `rows.json`. It runs in the sandbox."""

from __future__ import annotations

import json
import sqlite3
import time
from pathlib import Path
from typing import Any

ORDER = json.loads(Path("order.json").read_text(encoding="utf-8"))
ALLOWED = {20, 21, 31, 33}  # SQLITE_READ, SQLITE_SELECT, SQLITE_FUNCTION, SQLITE_RECURSIVE
REFUSED = {"load_extension", "readfile", "writefile", "edit", "fts3_tokenizer", "sqlite_log"}
HIDDEN = {"sqlite_master", "sqlite_schema", "sqlite_temp_master", "sqlite_temp_schema"}


def allowed(action: int, first: str | None, second: str | None, *_: Any) -> int:
    """Lets a statement read tables and call functions that reach nothing else."""
    if action not in ALLOWED or (action == 31 and str(second).lower() in REFUSED):
        return sqlite3.SQLITE_DENY
    if action == 20 and (str(first).lower() in HIDDEN or str(first).lower().startswith("pragma_")):
        return sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK


def cell(value: Any) -> Any:
    """Returns a value that JSON has."""
    return f"<{len(value)} bytes>" if isinstance(value, bytes) else value


def answer() -> dict[str, Any]:
    """Returns columns and rows, or the error of SQLite."""
    try:
        connection = sqlite3.connect("file:tables.db?mode=ro&immutable=1", uri=True)
        connection.execute("PRAGMA temp_store=MEMORY")
        connection.execute("PRAGMA trusted_schema=OFF")
        connection.execute("PRAGMA query_only=ON")
        until = time.monotonic() + ORDER["seconds"]
        connection.set_progress_handler(lambda: time.monotonic() > until, 10_000)
        connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, ORDER["most_bytes"])
        connection.setlimit(sqlite3.SQLITE_LIMIT_EXPR_DEPTH, 200)
        connection.set_authorizer(allowed)
        cursor = connection.execute(Path("query.sql").read_text(encoding="utf-8"))
        columns = [one[0] for one in cursor.description or ()]
        rows: list[list[Any]] = []
        size, more = 0, False
        for row in cursor:
            size += sum(len(str(one)) for one in row)
            if len(rows) == ORDER["most_rows"] or size > ORDER["most_bytes"]:
                more = True
                break
            rows.append([cell(one) for one in row])
    except (sqlite3.Error, sqlite3.Warning, MemoryError, OverflowError, UnicodeError) as error:
        return {"error": str(error) or type(error).__name__}
    return {"columns": columns, "rows": rows, "more": more}


Path("rows.json").write_text(json.dumps(answer()), encoding="utf-8")
