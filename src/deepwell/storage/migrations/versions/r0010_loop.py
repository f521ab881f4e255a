"""The loop: what feedback says beyond a thumb, and the registry of models with its roll-outs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Creates the tables and columns."""
    _feedback()
    _registry()


def _feedback() -> None:
    """Columns of feedback."""


def _registry() -> None:
    """Tables of the registry, and the candidates of aliases."""
    op.create_table(
        "model_ledger",
        sa.Column("sequence", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("at_ms", sa.BigInteger, nullable=False),
        sa.Column("alias", sa.String(128), nullable=False),
        sa.Column("entry", sa.Text, nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("sequence", name="pk_model_ledger"),
    )
    op.create_index("ix_model_ledger_alias_sequence", "model_ledger", ["alias", "sequence"])
    op.create_table(
        "model_ledger_head",
        sa.Column("id", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_model_ledger_head"),
    )
    op.add_column("model_aliases", sa.Column("candidate", sa.String(256)))
    op.add_column("model_aliases", sa.Column("share", sa.Float(53)))
    op.add_column("model_aliases", sa.Column("rollout", sa.String(64)))
    op.add_column("model_alias_changes", sa.Column("candidate", sa.String(256)))
    op.add_column("model_alias_changes", sa.Column("share", sa.Float(53)))


def downgrade() -> None:
    """Drops them."""
    for table, column in (
        ("model_alias_changes", "share"),
        ("model_alias_changes", "candidate"),
        ("model_aliases", "rollout"),
        ("model_aliases", "share"),
        ("model_aliases", "candidate"),
    ):
        op.drop_column(table, column)
    for table in ("model_ledger_head", "model_ledger"):
        op.drop_table(table)
