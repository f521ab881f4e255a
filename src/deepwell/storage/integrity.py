"""Damage in the file of a SQLite database: what SQLite sees in its structure, and rows that differ from their hashes.

PostgreSQL has checksums of its own (`initdb --data-checksums`).
"""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final

from deepwell.errors import StorageDamaged
from deepwell.settings.storage import StorageSettings
from deepwell.storage.keys import seal_of
from deepwell.storage.safety.chain import hash_of, read_link

__all__ = ["AT_ONCE_BYTES", "examine", "find_damage", "noted_damage", "require_sound"]

AT_ONCE_BYTES: Final = 1 << 30
"""Largest file that a start waits for: SQLite reads about 1 GB/s. A larger one is looked at beside the first requests."""

_CONNECT_S: Final = 3.0
_ROWS: Final = 1_000  # hashed at once
_RAW: Final = "surrogateescape"


def require_sound(settings: StorageSettings) -> None:
    """Looks for damage before a server starts.

    Raises:
        StorageDamaged: there is some. The file stays as it is.
    """
    path = settings.data_dir / "deepwell.db"
    if settings.database_url is not None or not path.exists():
        return
    is_large = path.stat().st_size > AT_ONCE_BYTES
    if (reason := noted_damage(path) if is_large else examine(path)) is not None:
        raise StorageDamaged.of("database_damaged", path=path, reason=reason)


def examine(path: Path, *, pause_s: float = 0.0) -> str | None:
    """Does the same as `find_damage`, and notes the result in a file, for the other processes of the server."""
    reason = find_damage(path, pause_s=pause_s)
    with suppress(OSError):
        if reason is None:
            _note(path).unlink(missing_ok=True)
        else:
            _note(path).write_text(reason, encoding="utf-8", errors="replace")
    return reason


def noted_damage(path: Path) -> str | None:
    """Returns the damage that the last examination found, or None."""
    try:
        return _note(path).read_text(encoding="utf-8")
    except OSError:
        return None


def _note(path: Path) -> Path:
    return path.with_name(f"{path.name}-damage")


def find_damage(path: Path, *, pause_s: float = 0.0) -> str | None:
    """Reads the whole file, and returns the first damage that it finds. Blocks; writers go on meanwhile.

    Args:
        pause_s: time to leave to other threads between rows that are hashed.
    """
    uri = f"{path.absolute().as_uri()}?mode=ro"
    try:
        with closing(sqlite3.connect(uri, uri=True, timeout=_CONNECT_S)) as connection:
            connection.row_factory = sqlite3.Row
            connection.text_factory = lambda raw: raw.decode("utf-8", _RAW)
            (said,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if said != "ok":
                return " ".join(said.split())[:200]
            connection.execute("BEGIN")  # one state of all tables
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
            for table, wrong_rows in _CHECKS.items():
                if table in tables and (row := next(wrong_rows(connection, pause_s), None)) is not None:
                    return f"the row {row!r} of the table {table} is not as it was written"
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF in (
            sqlite3.SQLITE_BUSY,
            sqlite3.SQLITE_CANTOPEN,
            sqlite3.SQLITE_ERROR,
        ):
            return None  # another process is making it, or it is of an older Deepwell
        return str(error)
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        return str(error)  # the driver decodes SQLite's messages, which hold damaged names, as UTF-8
    return None


def _rows(connection: sqlite3.Connection, query: str, pause_s: float) -> Iterator[sqlite3.Row]:
    cursor = connection.execute(query)
    while rows := cursor.fetchmany(_ROWS):
        yield from rows
        time.sleep(pause_s)


def _wrong_keys(connection: sqlite3.Connection, pause_s: float) -> Iterator[str]:
    for row in _rows(connection, "SELECT * FROM api_keys", pause_s):
        if "seal" not in row.keys():  # noqa: SIM118 - the table of an older Deepwell
            return
        if _differs(row["seal"], seal_of, dict(row)):
            yield row["id"]


def _wrong_prompts(connection: sqlite3.Connection, pause_s: float) -> Iterator[Any]:
    for row in _rows(connection, "SELECT prompt_id, number, body, sha256 FROM prompt_versions", pause_s):
        if _differs(row["sha256"], lambda body: hashlib.sha256(body.encode()).hexdigest(), row["body"]):
            yield (row["prompt_id"], row["number"])


def _wrong_ledger(connection: sqlite3.Connection, pause_s: float) -> Iterator[Any]:
    query = "SELECT 'models' AS chain, sequence, at_ms, entry, hash FROM model_ledger ORDER BY sequence"
    rows = connection.execute("SELECT 'models', sequence, hash FROM model_ledger_head")
    heads = {row[0]: tuple(row)[1:] for row in rows}
    return _wrong_links(_rows(connection, query, pause_s), heads)


def _wrong_trails(connection: sqlite3.Connection, pause_s: float) -> Iterator[Any]:
    query = "SELECT chain, sequence, at_ms, entry, hash FROM audit_entries ORDER BY chain, sequence"
    heads = {
        row[0]: tuple(row)[1:] for row in connection.execute("SELECT id, sequence, hash FROM audit_chains")
    }
    return _wrong_links(_rows(connection, query, pause_s), heads)


def _wrong_links(rows: Iterator[sqlite3.Row], heads: dict[Any, Any]) -> Iterator[Any]:
    """Yields places of entries that differ from their hashes, or from what they say of their place, and of wrong heads."""
    last: dict[Any, Any] = {}
    for row in rows:
        place = (row["chain"], row["sequence"])
        before = last.get(row["chain"])
        try:
            link = read_link(row["entry"])
            told = (link.chain, link.sequence) == place and link.time == row["at_ms"]
            whole = (
                told
                and hash_of(row["entry"]) == row["hash"]
                and before in (None, (place[1] - 1, link.previous))
            )
        except (ValueError, TypeError, AttributeError):
            whole = False
        if not whole:
            yield place
        last[row["chain"]] = (row["sequence"], row["hash"])
    for chain, head in heads.items():
        if chain in last and last[chain] != head:
            yield (chain, "head")


def _differs(hash: Any, hashed: Any, value: Any) -> bool:
    try:
        return hashed(value) != hash
    except (ValueError, TypeError, AttributeError):  # another type of value, or text that is no UTF-8
        return True


_CHECKS: Final = {
    "api_keys": _wrong_keys,
    "prompt_versions": _wrong_prompts,
    "model_ledger": _wrong_ledger,
    "audit_entries": _wrong_trails,
}
