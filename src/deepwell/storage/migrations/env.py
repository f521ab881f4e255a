"""Alembic's environment, which runs the revisions on the connection that `Database` passes in."""

from __future__ import annotations

from alembic import context

from deepwell.storage.tables import metadata

context.configure(
    connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True
)
with context.begin_transaction():
    context.run_migrations()
