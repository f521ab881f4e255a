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
    _drop_registry()
    _drop_feedback()


def _drop_registry() -> None:
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


def _drop_feedback() -> None:
    for name in ("ix_feedback_tenant_created_at", "ix_feedback_tenant_voter_created_at"):
        op.drop_index(name, "feedback")
    op.drop_index("uq_feedback_tenant_target_id_voter", "feedback")
    op.create_index("ix_feedback_tenant_target_id", "feedback", ["tenant", "target_id"])
    with op.batch_alter_table("feedback") as feedback:
        for name in ("correction", "consent", "verified", "voter", "source"):
            feedback.drop_column(name)
