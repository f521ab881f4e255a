"""Tables of labelling: projects of a tenant, and their texts with the labels that people gave."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, String, Table, Text, UniqueConstraint

from deepwell.storage.tables.base import Sequence, metadata

__all__ = ["labelling_items", "labelling_projects"]

labelling_projects = Table(
    "labelling_projects",
    metadata,
    Column("seq", Sequence, primary_key=True, autoincrement=True),
    Column("tenant", String(64), nullable=False),
    Column("id", String(64), nullable=False),
    Column("name", Text, nullable=False),
    Column("file_id", String(64), nullable=False),  # the file need not be there any more
    Column("classes", Text, nullable=False),  # JSON: their names, in the order of their keys
    Column("strategy", String(16), nullable=False),
    Column("items", BigInteger, nullable=False),
    Column("unreadable", BigInteger, nullable=False),  # records of the file that are no items
    Column("actions", BigInteger, nullable=False),  # of people, for the order in which they are undone
    Column("created_at", BigInteger, nullable=False),
    UniqueConstraint("tenant", "id"),
)

labelling_items = Table(
    "labelling_items",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("project_id", String(64), primary_key=True),
    Column("position", BigInteger, primary_key=True, autoincrement=False),  # from 0
    Column("text", Text, nullable=False),
    Column("record", Text),  # JSON of a record that is more than its text
    Column("label", String(128)),
    Column("skipped", BigInteger, nullable=False),  # 1: people put it behind the others
    Column("action", BigInteger),  # number of the action that labelled or skipped it; NULL: none did
    Index("ix_labelling_items_action", "tenant", "project_id", "action"),
)
