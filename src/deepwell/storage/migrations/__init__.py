"""Alembic's revisions of the tables, and the step that brings a database up to the newest."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import Connection

from deepwell.errors import StorageError
from deepwell.storage.backend import Backend
from deepwell.storage.installation import Installation
from deepwell.storage.tables import HEAD, metadata

__all__ = ["bring_up_to_date"]

_BASELINE = "0014"  # the first revision here; the thirteen before it were merged into it


def bring_up_to_date(connection: Connection, backend: Backend, installation: Installation) -> None:
    """Runs the revisions that are missing, inside the caller's transaction.

    Raises:
        StoreLost: a remembered database has no tables.
        StorageError: the tables are of a newer Deepwell, of one from before the baseline, or nothing says of which.
    """
    revision = _revision(connection)
    if revision == HEAD:
        return
    backend.lock_migrations(connection)
    revision = _revision(connection)
    if revision == HEAD:  # another process was first
        return
    if revision is None:
        if found := set(sa.inspect(connection).get_table_names()) & metadata.tables.keys():
            raise StorageError(
                f"the database {backend.shown} has the table {min(found)}, but none that says its revision",
                fix="restore it from a backup",
            )
        installation.require_tables(backend.shown)
    elif revision < _BASELINE:
        raise StorageError.of(
            "database_too_old", database=backend.shown, revision=revision, baseline=_BASELINE
        )
    # Importing Alembic takes longer than the whole start of a server whose tables are up to date.
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise StorageError(
            f"the database {backend.shown} is of revision {_revision(connection)}, which is unknown here: {error}",
            fix="use the Deepwell that made it, or a newer one",
        ) from None


def _revision(connection: Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar_one_or_none()
