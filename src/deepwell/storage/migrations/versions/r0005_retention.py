"""The identity of an installation, and what retention looks rows up by."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_INDEXES = {
    "responses": ["created_at"],
    "completions": ["created_at"],
    "conversations": ["updated_at"],
    "files": ["created_at"],
    "uploads": ["expires_at"],
    "batches": ["created_at"],
    "jobs": ["finished_at"],
}


def upgrade() -> None:
    """Creates the table and the indexes. A conversation of before counts as used when it was made."""
    op.create_table(
        "installation",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("generation", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_installation"),
    )
    op.add_column("conversations", sa.Column("updated_at", sa.BigInteger, nullable=False, server_default="0"))
    op.execute("UPDATE conversations SET updated_at = created_at")
    for table, columns in _INDEXES.items():
        op.create_index(f"ix_{table}_{'_'.join(columns)}", table, columns)
    op.create_index(
        "ix_responses_tenant_previous_id",
        "responses",
        ["tenant", "previous_id"],
        sqlite_where=sa.text("previous_id IS NOT NULL"),
        postgresql_where=sa.text("previous_id IS NOT NULL"),
    )


def downgrade() -> None:
    """Drops them."""
    op.drop_index("ix_responses_tenant_previous_id", "responses")
    for table, columns in _INDEXES.items():
        op.drop_index(f"ix_{table}_{'_'.join(columns)}", table)
    with op.batch_alter_table("conversations") as conversations:
        conversations.drop_column("updated_at")
    op.drop_table("installation")
