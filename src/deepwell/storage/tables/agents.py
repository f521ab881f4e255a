"""Tables of agents: runs of a tenant, and their steps."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, Index, String, Table, Text, UniqueConstraint

from deepwell.storage.tables.base import Sequence, metadata

__all__ = ["agent_runs", "agent_steps"]

agent_runs = Table(
    "agent_runs",
    metadata,
    Column("seq", Sequence, primary_key=True, autoincrement=True),
    Column("tenant", String(64), nullable=False),
    Column("id", String(64), nullable=False),
    Column("status", String(16), nullable=False),
    Column("model", String(256), nullable=False),
    Column("task", Text, nullable=False),  # its first characters, for lists
    Column("request", Text, nullable=False),  # JSON: what makes the agent again
    Column("text", Text, nullable=False),  # the answer
    Column("reason", Text, nullable=False),
    Column("reached", String(16)),  # the limit that ended it
    Column("pending", Text, nullable=False),  # JSON: calls that wait for a person or for the client
    Column("turns", BigInteger, nullable=False),
    Column("calls", BigInteger, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("seconds", Float(53), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("finished_at", BigInteger),
    UniqueConstraint("tenant", "id"),
    Index("ix_agent_runs_tenant_seq", "tenant", "seq"),
    Index("ix_agent_runs_finished_at", "finished_at"),
)

agent_steps = Table(
    "agent_steps",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("run_id", String(64), primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),  # from 0
    Column("kind", String(16), nullable=False),
    Column("body", Text, nullable=False),  # JSON
)
