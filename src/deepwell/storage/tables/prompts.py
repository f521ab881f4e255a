"""Tables of prompts: a tenant's prompts, and their versions, which are written once."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, String, Table, Text, UniqueConstraint

from deepwell.storage.tables.base import Sequence, metadata

__all__ = ["prompt_versions", "prompts"]

prompts = Table(
    "prompts",
    metadata,
    Column("seq", Sequence, primary_key=True, autoincrement=True),
    Column("tenant", String(64), nullable=False),
    Column("id", String(64), nullable=False),
    Column("current", BigInteger, nullable=False),  # number of the version that requests without one get
    Column("created_at", BigInteger, nullable=False),
    UniqueConstraint("tenant", "id"),
    Index("ix_prompts_tenant_seq", "tenant", "seq"),
)

prompt_versions = Table(
    "prompt_versions",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("prompt_id", String(64), primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),  # from 1
    Column("body", Text, nullable=False),  # JSON
    Column("sha256", String(64), nullable=False),  # of the body
    Column("created_at", BigInteger, nullable=False),
)
