"""Tables of the registry of models: its ledger, which is one chain of hashes, and the newest entry of that."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, String, Table, Text

from deepwell.storage.tables.base import metadata

__all__ = ["model_ledger", "model_ledger_head"]

model_ledger = Table(
    "model_ledger",
    metadata,
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("alias", String(128), nullable=False),  # as the entry has it, to find the entries of one
    Column("entry", Text, nullable=False),  # JSON, as it was hashed
    Column("hash", String(64), nullable=False),
    Index("ix_model_ledger_alias_sequence", "alias", "sequence"),
)

model_ledger_head = Table(
    "model_ledger_head",
    metadata,
    # One row, which writers lock: two servers continue one chain
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("sequence", BigInteger, nullable=False),
    Column("hash", String(64), nullable=False),
)
