"""Serving: further names of models with their changes, and the jobs of a tenant in their order."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_Sequence = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Creates the tables, and the index by which the jobs of all kinds are listed."""
    _create_aliases()
    op.create_index("ix_jobs_tenant_seq", "jobs", ["tenant", "seq"])


def _create_aliases() -> None:
    op.create_table(
        "model_aliases",
        sa.Column("seq", _Sequence, autoincrement=True, nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("model", sa.String(256), nullable=False),
        sa.Column("changed_at", sa.BigInteger, nullable=False),
        sa.Column("changed_by", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_model_aliases"),
        sa.UniqueConstraint("name", name="uq_model_aliases_name"),
    )
    op.create_table(
        "model_alias_changes",
        sa.Column("seq", _Sequence, autoincrement=True, nullable=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("model", sa.String(256)),
        sa.Column("changed_at", sa.BigInteger, nullable=False),
        sa.Column("changed_by", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_model_alias_changes"),
        sa.UniqueConstraint("id", name="uq_model_alias_changes_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_model_alias_changes_name_seq", "model_alias_changes", ["name", "seq"])


def downgrade() -> None:
    """Drops them."""
    op.drop_index("ix_jobs_tenant_seq", "jobs")
    for table in ("model_alias_changes", "model_aliases"):
        op.drop_table(table)
