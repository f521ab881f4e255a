"""Texts of audit entries, apart from the entries, so that they can be erased."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Creates the table."""
    op.create_table(
        "audit_texts",
        sa.Column("chain", sa.String(32), nullable=False),
        sa.Column("sequence", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("salt", sa.String(32), nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("person", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("chain", "sequence", name="pk_audit_texts"),
        sa.ForeignKeyConstraint(["chain"], ["audit_chains.id"], name="fk_audit_texts_chain"),
    )
    op.create_index("ix_audit_texts_chain_person", "audit_texts", ["chain", "person"])


def downgrade() -> None:
    """Drops it."""
    op.drop_table("audit_texts")
