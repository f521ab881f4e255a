"""Responses, conversations and their items, stored completions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_Sequence = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Creates the tables."""
    op.create_table(
        "responses",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("previous_id", sa.String(64)),
        sa.Column("owner", sa.String(64)),
        sa.Column("input", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("events", sa.Text),
        sa.PrimaryKeyConstraint("tenant", "id", name="pk_responses"),
    )
    op.create_index("ix_responses_owner", "responses", ["owner"])
    op.create_table(
        "conversations",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("metadata", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "id", name="pk_conversations"),
    )
    op.create_table(
        "conversation_items",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("conversation_id", sa.String(64), nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "conversation_id", "position", name="pk_conversation_items"),
        sa.UniqueConstraint(
            "tenant", "conversation_id", "id", name="uq_conversation_items_tenant_conversation_id_id"
        ),
        sa.ForeignKeyConstraint(
            ["tenant", "conversation_id"],
            ["conversations.tenant", "conversations.id"],
            name="fk_conversation_items_tenant_conversation_id",
            ondelete="CASCADE",
        ),
    )
    op.create_table(
        "completions",
        sa.Column("seq", _Sequence, autoincrement=True, nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("model", sa.String(256), nullable=False),
        sa.Column("metadata", sa.Text, nullable=False),
        sa.Column("messages", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_completions"),
        sa.UniqueConstraint("tenant", "id", name="uq_completions_tenant_id"),
    )
    op.create_index("ix_completions_tenant_seq", "completions", ["tenant", "seq"])
    op.create_table(
        "completion_metadata",
        sa.Column("seq", _Sequence, nullable=False),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("value", sa.String(512), nullable=False),
        sa.PrimaryKeyConstraint("seq", "key", name="pk_completion_metadata"),
        sa.ForeignKeyConstraint(
            ["seq"], ["completions.seq"], name="fk_completion_metadata_seq", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_completion_metadata_key_value", "completion_metadata", ["key", "value"])


def downgrade() -> None:
    """Drops the tables."""
    for table in ("completion_metadata", "completions", "conversation_items", "conversations", "responses"):
        op.drop_table(table)
