"""Every table, in SQLAlchemy Core. A change here comes with a revision in `migrations/versions`."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

__all__ = [
    "HEAD",
    "completion_metadata",
    "completions",
    "conversation_items",
    "conversations",
    "metadata",
    "responses",
]

HEAD = "0004"  # the newest revision

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_N_label)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite counts by itself only in a column that is exactly INTEGER PRIMARY KEY.
_Sequence = BigInteger().with_variant(Integer, "sqlite")

responses = Table(
    "responses",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("id", String(64), primary_key=True),
    Column("created_at", BigInteger, nullable=False),
    Column("status", String(16), nullable=False),
    Column("previous_id", String(64)),
    Column("owner", String(64)),  # the process that still works on it
    Column("input", Text, nullable=False),  # JSON: the items it was given itself
    Column("body", Text, nullable=False),  # JSON: the response object
    Column("events", Text),  # JSON: what a background response streamed
    Index("ix_responses_owner", "owner"),
)

conversations = Table(
    "conversations",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("id", String(64), primary_key=True),
    Column("created_at", BigInteger, nullable=False),
    Column("metadata", Text, nullable=False),  # JSON
)

conversation_items = Table(
    "conversation_items",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("conversation_id", String(64), primary_key=True),
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("id", String(64), nullable=False),
    Column("body", Text, nullable=False),  # JSON
    UniqueConstraint("tenant", "conversation_id", "id"),
    ForeignKeyConstraint(
        ["tenant", "conversation_id"], ["conversations.tenant", "conversations.id"], ondelete="CASCADE"
    ),
)

completions = Table(
    "completions",
    metadata,
    Column("seq", _Sequence, primary_key=True, autoincrement=True),
    Column("tenant", String(64), nullable=False),
    Column("id", String(64), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("model", String(256), nullable=False),
    Column("metadata", Text, nullable=False),  # JSON
    Column("messages", Text, nullable=False),  # JSON: the conversation it answers, every message with an id
    Column("body", Text, nullable=False),  # JSON: the completion object
    UniqueConstraint("tenant", "id"),
    Index("ix_completions_tenant_seq", "tenant", "seq"),
)

completion_metadata = Table(
    "completion_metadata",
    metadata,
    Column(
        "seq",
        _Sequence,
        ForeignKey("completions.seq", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
    ),
    Column("key", String(64), primary_key=True),
    Column("value", String(512), nullable=False),
    Index("ix_completion_metadata_key_value", "key", "value"),
)
