"""Runs one statement on one SQLite file, in a process of its own, and prints the outcome as JSON.

It is run by its path, without the package, confined by `deepwell.process.confinement`. A request is one JSON object on standard
input.
"""

from __future__ import annotations

import json
import os
import sqlite3
import sys
import time
from typing import Any

_ALLOWED = {20, 21, 31, 33}  # SQLITE_READ, SQLITE_SELECT, SQLITE_FUNCTION, SQLITE_RECURSIVE
_REFUSED_FUNCTIONS = {"load_extension", "readfile", "writefile", "edit", "fts3_tokenizer", "sqlite_log"}
_STEPS = 10_000  # of the virtual machine between two looks at the time
_SAMPLE_CHARACTERS = 30
_SAMPLED_ROWS = 1000
_MOST_TABLES = 50
_NO_TEXT = (
    "INT",
    "BIGINT",
    "SMALLINT",
    "TINYINT",
    "REAL",
    "FLOAT",
    "DOUBLE",
    "NUMERIC",
    "DECIMAL",
    "BOOL",
    "BLOB",
)
"""Beginnings of types whose columns hold no texts that a query could name."""


def _connection(path: str) -> sqlite3.Connection:
    """Opens a file to read. A file in WAL mode without a log could not be opened by one who may write nothing."""
    with open(path, "rb") as file:  # noqa: PTH123  (pathlib takes time to import)
        header = file.read(20)
    # Bytes 18 and 19 of the header are 2 in WAL mode (sqlite.org/fileformat2.html, 1.3.3).
    logged = header[18:20] == b"\2\2" and not os.path.exists(f"{path}-wal")  # noqa: PTH110
    quoted = path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    found = sqlite3.connect(f"file:{quoted}?mode=ro{'&immutable=1' if logged else ''}", uri=True)
    found.execute("PRAGMA temp_store=MEMORY")
    found.execute("PRAGMA trusted_schema=OFF")
    found.execute("PRAGMA cell_size_check=ON")
    found.execute("PRAGMA query_only=ON")
    return found


def _guarded(connection: sqlite3.Connection, seconds: float, most_bytes: int) -> None:
    """Lets the connection read alone, for a time, and bounds its values and statements."""

    def allowed(action: int, _first: str | None, second: str | None, *_: Any) -> int:
        if action not in _ALLOWED or (action == 31 and str(second).lower() in _REFUSED_FUNCTIONS):
            return sqlite3.SQLITE_DENY
        return sqlite3.SQLITE_OK

    until = time.monotonic() + seconds
    connection.set_progress_handler(lambda: time.monotonic() > until, _STEPS)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, most_bytes)
    connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    connection.setlimit(sqlite3.SQLITE_LIMIT_EXPR_DEPTH, 200)
    connection.setlimit(sqlite3.SQLITE_LIMIT_COMPOUND_SELECT, 50)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 1000)
    connection.set_authorizer(allowed)


def _query(connection: sqlite3.Connection, request: dict[str, Any]) -> dict[str, Any]:
    cursor = connection.execute(request["sql"])
    columns = [one[0] for one in cursor.description or ()]
    rows, read_bytes, more = [], 0, False
    for row in cursor:
        cells = [_cell(one) for one in row]
        read_bytes += sum(len(str(one)) for one in cells)
        if len(rows) == request["most_rows"] or (rows and read_bytes > request["most_bytes"]):
            more = True
            break
        rows.append(cells)
    return {"columns": columns, "rows": rows, "more": more}


def _cell(value: Any) -> Any:
    return f"<{len(value)} bytes>" if isinstance(value, bytes) else value


def _schema(connection: sqlite3.Connection, most_samples: int) -> dict[str, Any]:
    """Returns tables and views with their columns, references, and some values of text columns."""
    names = connection.execute(
        "SELECT name, type FROM sqlite_master WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
        " ORDER BY name"
    ).fetchall()
    tables, whole = [], len(names) <= _MOST_TABLES
    for name, kind in names[:_MOST_TABLES]:
        quoted = '"' + name.replace('"', '""') + '"'
        references = {
            one[3]: f"{one[2]}.{one[4] or 'id'}"
            for one in connection.execute(f"PRAGMA foreign_key_list({quoted})")
        }
        columns = []
        for one in connection.execute(f"PRAGMA table_info({quoted})").fetchall():
            column = {"name": one[1], "type": one[2], "references": references.get(one[1], "")}
            if kind == "table" and one[2].upper().startswith(("TEXT", "VARCHAR", "CHAR", "DATE")):
                column["samples"], has_all = _samples(connection, quoted, one[1], most_samples)
                whole = whole and has_all
            elif kind == "table":
                whole = whole and one[2].upper().startswith(_NO_TEXT)
            columns.append(column)
        tables.append({"name": name, "columns": columns})
    return {"tables": tables, "more": len(names) > _MOST_TABLES, "whole": whole}


def _samples(connection: sqlite3.Connection, table: str, column: str, most: int) -> tuple[list[str], bool]:
    """Returns some values of a column, and whether they are all that it has."""
    quoted = '"' + column.replace('"', '""') + '"'
    found = connection.execute(
        f"SELECT DISTINCT {quoted} FROM (SELECT {quoted} FROM {table} LIMIT {_SAMPLED_ROWS})"  # noqa: S608
        f" WHERE {quoted} IS NOT NULL LIMIT {most + 1:d}"
    )
    values = [str(one[0]) for one in found]
    rows = connection.execute(f"SELECT count(*) FROM (SELECT 1 FROM {table} LIMIT {_SAMPLED_ROWS + 1})")  # noqa: S608
    has_all = len(values) <= most and rows.fetchone()[0] <= _SAMPLED_ROWS
    cut = [one[:_SAMPLE_CHARACTERS] for one in values[:most]]
    return cut, has_all and cut == values


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    connection = _connection(request["path"])
    if request["sql"] is None:
        connection.set_progress_handler(_until(request["seconds"]), _STEPS)
        return _schema(connection, request["most_samples"])
    _guarded(connection, request["seconds"], request["most_bytes"])
    return _query(connection, request)


def _until(seconds: float) -> Any:
    until = time.monotonic() + seconds
    return lambda: time.monotonic() > until


def main() -> None:
    """Answers the request on standard input."""
    try:
        answer = _answer(json.load(sys.stdin))
    except (sqlite3.Error, sqlite3.Warning) as error:
        answer = {"error": str(error)}
    except OSError as error:
        answer = {"error": f"unable to open database file: {error.strerror}"}
    except (MemoryError, OverflowError, UnicodeError) as error:
        answer = {"error": f"the result cannot be held ({type(error).__name__})"}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()
