"""Tables of a new SQLite database: those that migrations gave the first one of the process, which takes a tenth of the time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from deepwell.storage.backend import Backend
from deepwell.storage.installation import Installation

Migrate = Callable[[Connection, Backend, Installation], None]


def remembered(migrate: Migrate) -> Migrate:
    """Migrates the first empty SQLite database, and makes the same tables, rows and indexes in all others without Alembic.

    Databases that have tables, and PostgreSQL's, are migrated each.
    """
    statements: list[str] = []

    def bring_up_to_date(connection: Connection, backend: Backend, installation: Installation) -> None:
        if connection.dialect.name != "sqlite" or sa.inspect(connection).get_table_names():
            migrate(connection, backend, installation)
            return
        raw: Any = connection.connection.dbapi_connection
        if not statements:
            migrate(connection, backend, installation)
            made = [line for line in raw.iterdump() if line not in ("BEGIN TRANSACTION;", "COMMIT;")]
            statements.extend(made)
            return
        installation.require_tables(backend.shown)
        for statement in statements:
            raw.execute(statement)

    return bring_up_to_date
