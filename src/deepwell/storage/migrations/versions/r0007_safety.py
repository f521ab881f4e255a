"""Safety: the audit trail, compliance answers, erasures, and the end user of a completion."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_Sequence = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Creates the tables, and the column of the end user. Completions of before name none."""
    _create_audit()
    op.create_table(
        "compliance_answers",
        sa.Column("seq", _Sequence, autoincrement=True, nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("pack", sa.String(32), nullable=False),
        sa.Column("question", sa.String(128), nullable=False),
        sa.Column("answer", sa.Text, nullable=False),
        sa.Column("evidence", sa.Text, nullable=False),
        sa.Column("answered_by", sa.String(256), nullable=False),
        sa.Column("answered_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_compliance_answers"),
    )
    op.create_index(
        "ix_compliance_answers_tenant_pack_question",
        "compliance_answers",
        ["tenant", "pack", "question", "seq"],
    )
    op.create_table(
        "erasures",
        sa.Column("seq", _Sequence, autoincrement=True, nullable=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("scope", sa.String(16), nullable=False),
        sa.Column("requested_at", sa.BigInteger, nullable=False),
        sa.Column("finished_at", sa.BigInteger, nullable=False),
        sa.Column("counts", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_erasures"),
        sa.UniqueConstraint("id", name="uq_erasures_id"),
    )
    op.add_column("completions", sa.Column("end_user", sa.Text))


def _create_audit() -> None:
    op.create_table(
        "audit_chains",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("tenant", sa.String(64)),
        sa.Column("salt", sa.String(64)),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("pruned_sequence", sa.BigInteger, nullable=False),
        sa.Column("pruned_hash", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit_chains"),
        sa.UniqueConstraint("tenant", name="uq_audit_chains_tenant"),
    )
    op.create_table(
        "audit_entries",
        sa.Column("chain", sa.String(32), nullable=False),
        sa.Column("sequence", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("at_ms", sa.BigInteger, nullable=False),
        sa.Column("entry", sa.Text, nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("chain", "sequence", name="pk_audit_entries"),
        sa.ForeignKeyConstraint(["chain"], ["audit_chains.id"], name="fk_audit_entries_chain"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "audit_persons",
        sa.Column("chain", sa.String(32), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("pseudonym", sa.String(32), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("chain", "digest", name="pk_audit_persons"),
        sa.ForeignKeyConstraint(["chain"], ["audit_chains.id"], name="fk_audit_persons_chain"),
    )
    # Apart from the entries, so that they can be erased.
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
    """Drops them."""
    op.drop_column("completions", "end_user")
    for table in (
        "erasures",
        "compliance_answers",
        "audit_texts",
        "audit_persons",
        "audit_entries",
        "audit_chains",
    ):
        op.drop_table(table)
