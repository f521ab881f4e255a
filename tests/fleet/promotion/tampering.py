"""Changes that somebody who can write to the database may make in the ledger of models."""

from __future__ import annotations

import hashlib

import sqlalchemy as sa
from sqlalchemy import Connection

from deepwell.storage.database import Database

__all__ = ["TAMPERINGS", "tamper"]

_PASSED = """replace(entry, '"passed":false', '"passed":true')"""
_OTHER = "FROM model_ledger AS other WHERE other.sequence = 5 - model_ledger.sequence"
_SWAPPED = ", ".join(f"{name} = (SELECT {name} {_OTHER})" for name in ("entry", "hash", "at_ms"))
_HEAD = "(sequence, hash) = (SELECT sequence, hash FROM model_ledger ORDER BY sequence DESC LIMIT 1)"
TAMPERINGS = {
    "altered": (f"UPDATE model_ledger SET entry = {_PASSED} WHERE sequence = 3",),
    "sealed anew": (f"UPDATE model_ledger SET entry = {_PASSED} WHERE sequence = 3", "seal 3"),
    "truncated": ("DELETE FROM model_ledger WHERE sequence = (SELECT max(sequence) FROM model_ledger)",),
    "truncated with its head": (
        "DELETE FROM model_ledger WHERE sequence = (SELECT max(sequence) FROM model_ledger)",
        f"UPDATE model_ledger_head SET {_HEAD}",
    ),
    "a hole": ("DELETE FROM model_ledger WHERE sequence = 3",),
    "reordered": (f"UPDATE model_ledger SET {_SWAPPED} WHERE sequence IN (2, 3)",),
    "missing": ("DELETE FROM model_ledger",),
    "missing with its head": ("DELETE FROM model_ledger", "DELETE FROM model_ledger_head"),
    "filed elsewhere": ("UPDATE model_ledger SET alias = 'another' WHERE sequence = 3",),
    "no text": ("UPDATE model_ledger SET entry = CAST(x'7bff' AS TEXT) WHERE sequence = 3",),
    "another alias": ("UPDATE model_aliases SET model = 'v9'",),
}
"""Statements, by name. Entries 2 and 3 are a version and the report of its gates, which refused it."""


def tamper(database: Database, how: str) -> None:
    """Changes the ledger in one of the ways."""

    def work(connection: Connection) -> None:
        for statement in TAMPERINGS[how]:
            if statement.startswith("seal "):
                _seal(connection, int(statement.removeprefix("seal ")))
            else:
                connection.exec_driver_sql(statement)

    database.write_now(work)


def _seal(connection: Connection, sequence: int) -> None:
    """Gives an entry the hash of its text, as somebody would who knows how entries are made."""
    read = sa.text("SELECT entry FROM model_ledger WHERE sequence = :sequence")
    text = connection.execute(read, {"sequence": sequence}).scalar_one()
    values = {"sequence": sequence, "hash": hashlib.sha256(text.encode()).hexdigest()}
    connection.execute(sa.text("UPDATE model_ledger SET hash = :hash WHERE sequence = :sequence"), values)
