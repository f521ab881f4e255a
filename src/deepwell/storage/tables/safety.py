"""Tables of safety: the audit trail, policies of tenants, answers of people to compliance questions, erasures."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, ForeignKey, Index, String, Table, Text, UniqueConstraint

from deepwell.storage.tables.base import Sequence, metadata

__all__ = [
    "audit_chains",
    "audit_entries",
    "audit_persons",
    "audit_texts",
    "compliance_answers",
    "erasures",
]

audit_chains = Table(
    "audit_chains",
    metadata,
    Column("id", String(32), primary_key=True),  # random: entries name it, and not the tenant
    Column("tenant", String(64)),  # NULL once the tenant was erased
    Column("salt", String(64)),  # of the digests of persons; NULL once the tenant was erased
    Column("created_at", BigInteger, nullable=False),
    Column("sequence", BigInteger, nullable=False),  # of the newest entry; 0: none
    Column("hash", String(64), nullable=False),  # of the newest entry
    Column("pruned_sequence", BigInteger, nullable=False),  # of the newest pruned entry; 0: none
    Column("pruned_hash", String(64), nullable=False),
    UniqueConstraint("tenant"),
)

audit_entries = Table(
    "audit_entries",
    metadata,
    Column("chain", String(32), ForeignKey("audit_chains.id"), primary_key=True),
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),  # from 1, without gaps
    Column("at_ms", BigInteger, nullable=False),
    Column("entry", Text, nullable=False),  # JSON: all of it, as it was hashed
    Column("hash", String(64), nullable=False),  # SHA-256 of `entry`
    sqlite_with_rowid=False,  # rows lie in the order in which they are verified
)

audit_persons = Table(
    "audit_persons",
    metadata,
    Column("chain", String(32), ForeignKey("audit_chains.id"), primary_key=True),
    Column(
        "digest", String(64), primary_key=True
    ),  # SHA-256 of the chain's salt and the end user's identifier
    Column("pseudonym", String(32), nullable=False),  # random: entries name the end user by it
    Column("created_at", BigInteger, nullable=False),
)

audit_texts = Table(
    "audit_texts",
    metadata,
    # Apart from the entries, which hold a hash of each: a text can be erased, and its entry still verifies
    Column("chain", String(32), ForeignKey("audit_chains.id"), primary_key=True),
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("salt", String(32), nullable=False),  # random, so that nobody finds an erased text by guessing
    Column("text", Text, nullable=False),
    Column("person", String(32), nullable=False),  # pseudonym; empty: the request named nobody
    Index("ix_audit_texts_chain_person", "chain", "person"),
)

compliance_answers = Table(
    "compliance_answers",
    metadata,
    Column("seq", Sequence, primary_key=True, autoincrement=True),
    Column("tenant", String(64), nullable=False),
    Column("pack", String(32), nullable=False),
    Column("question", String(128), nullable=False),
    Column("answer", Text, nullable=False),
    Column("evidence", Text, nullable=False),
    Column("answered_by", String(256), nullable=False),
    Column("answered_at", BigInteger, nullable=False),
    Index("ix_compliance_answers_tenant_pack_question", "tenant", "pack", "question", "seq"),
)

erasures = Table(
    "erasures",
    metadata,
    # Rows name no person: each is the proof that something was erased, and tells servers to empty their caches
    Column("seq", Sequence, primary_key=True, autoincrement=True),
    Column("id", String(64), nullable=False),
    Column("scope", String(16), nullable=False),  # tenant or person
    Column("requested_at", BigInteger, nullable=False),
    Column("finished_at", BigInteger, nullable=False),
    Column("counts", Text, nullable=False),  # JSON: what was removed, by place
    UniqueConstraint("id"),
)
