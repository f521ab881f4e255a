"""Tables of serving: further names of models, which all tenants share."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, Index, String, Table, UniqueConstraint

from deepwell.storage.tables.base import Sequence, metadata

__all__ = ["model_alias_changes", "model_aliases"]

model_aliases = Table(
    "model_aliases",
    metadata,
    Column("seq", Sequence, primary_key=True, autoincrement=True),
    Column("name", String(128), nullable=False),
    Column("model", String(256), nullable=False),
    Column("changed_at", BigInteger, nullable=False),
    Column("changed_by", String(64), nullable=False),  # id of a key, or a word for the way without one
    Column("candidate", String(256)),  # model that some users get; NULL: there is no roll-out
    Column("share", Float(53)),  # of the users that get it, 0 to 1
    Column("rollout", String(64)),  # id of the roll-out, which the split of users is drawn from
    UniqueConstraint("name"),
)

model_alias_changes = Table(
    "model_alias_changes",
    metadata,
    # The newest number tells servers whether the names that they know are current
    Column("seq", Sequence, primary_key=True, autoincrement=True),
    Column("id", String(64), nullable=False),
    Column("name", String(128), nullable=False),
    Column("model", String(256)),  # NULL: the alias was removed
    Column("changed_at", BigInteger, nullable=False),
    Column("changed_by", String(64), nullable=False),
    Column("candidate", String(256)),
    Column("share", Float(53)),
    UniqueConstraint("id"),
    Index("ix_model_alias_changes_name_seq", "name", "seq"),
    sqlite_autoincrement=True,  # numbers only rise
)
