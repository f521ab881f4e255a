"""Tuning: fine-tuning jobs and evaluations, labelling projects, and ratings of pairs of answers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_Sequence = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Creates the tables."""
    _create_fine_tuning()
    _create_labelling()
    _create_ratings()


def _create_fine_tuning() -> None:
    pass


def _create_labelling() -> None:
    op.create_table(
        "labelling_projects",
        sa.Column("seq", _Sequence, autoincrement=True, nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("file_id", sa.String(64), nullable=False),
        sa.Column("classes", sa.Text, nullable=False),
        sa.Column("strategy", sa.String(16), nullable=False),
        sa.Column("items", sa.BigInteger, nullable=False),
        sa.Column("unreadable", sa.BigInteger, nullable=False),
        sa.Column("actions", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_labelling_projects"),
        sa.UniqueConstraint("tenant", "id", name="uq_labelling_projects_tenant_id"),
    )
    op.create_table(
        "labelling_items",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("project_id", sa.String(64), nullable=False),
        sa.Column("position", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("record", sa.Text),
        sa.Column("label", sa.String(128)),
        sa.Column("skipped", sa.BigInteger, nullable=False),
        sa.Column("action", sa.BigInteger),
        sa.PrimaryKeyConstraint("tenant", "project_id", "position", name="pk_labelling_items"),
    )
    op.create_index("ix_labelling_items_action", "labelling_items", ["tenant", "project_id", "action"])


def _create_ratings() -> None:
    pass


_TABLES: tuple[str, ...] = ("labelling_items", "labelling_projects")  # the last made first


def downgrade() -> None:
    """Drops them."""
    for table in _TABLES:
        op.drop_table(table)
