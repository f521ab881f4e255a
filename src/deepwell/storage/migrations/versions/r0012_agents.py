"""Agents: runs and their steps."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Creates the tables."""
    op.create_table(
        "agent_runs",
        sa.Column(
            "seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True
        ),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("model", sa.String(256), nullable=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("task", "request", "text", "reason")),
        sa.Column("reached", sa.String(16)),
        sa.Column("pending", sa.Text, nullable=False),
        *(
            sa.Column(name, sa.BigInteger, nullable=False)
            for name in ("turns", "calls", "prompt_tokens", "completion_tokens")
        ),
        sa.Column("seconds", sa.Float(53), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("finished_at", sa.BigInteger),
        sa.UniqueConstraint("tenant", "id", name="uq_agent_runs_tenant_id"),
    )
    op.create_index("ix_agent_runs_tenant_seq", "agent_runs", ["tenant", "seq"])
    op.create_index("ix_agent_runs_finished_at", "agent_runs", ["finished_at"])
    op.create_table(
        "agent_steps",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("run_id", sa.String(64), nullable=False),
        sa.Column("number", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "run_id", "number", name="pk_agent_steps"),
    )


def downgrade() -> None:
    """Drops them."""
    for table in ("agent_steps", "agent_runs"):
        op.drop_table(table)
