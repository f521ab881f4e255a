"""Serving: further names of models with their changes, the jobs of a tenant in their order, usage and feedback."""

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
    _create_usage_and_feedback()
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


def _create_usage_and_feedback() -> None:
    op.create_table(
        "usage",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("hour", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("key_id", sa.String(64), nullable=False),
        sa.Column("model", sa.String(256), nullable=False),
        sa.Column("requests", sa.BigInteger, nullable=False),
        sa.Column("input_tokens", sa.BigInteger, nullable=False),
        sa.Column("output_tokens", sa.BigInteger, nullable=False),
        sa.Column("cached_tokens", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "hour", "key_id", "model", name="pk_usage"),
    )
    op.create_table(
        "feedback",
        sa.Column("seq", _Sequence, autoincrement=True, nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("target_id", sa.String(128), nullable=False),
        sa.Column("rating", sa.String(8), nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("model", sa.String(256)),
        sa.Column("messages", sa.Text),
        sa.Column("end_user", sa.Text),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_feedback"),
        sa.UniqueConstraint("tenant", "id", name="uq_feedback_tenant_id"),
    )
    op.create_index("ix_feedback_tenant_rating_seq", "feedback", ["tenant", "rating", "seq"])
    op.create_index("ix_feedback_tenant_target_id", "feedback", ["tenant", "target_id"])


def downgrade() -> None:
    """Drops them."""
    op.drop_index("ix_jobs_tenant_seq", "jobs")
    for table in ("feedback", "usage", "model_alias_changes", "model_aliases"):
        op.drop_table(table)
