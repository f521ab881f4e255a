"""Tables of ratings: studies of a tenant, their pairs of answers, and what raters say of each."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, String, Table, Text, UniqueConstraint

from deepwell.storage.tables.base import Sequence, metadata

__all__ = ["rating_pairs", "rating_studies", "rating_votes"]

rating_studies = Table(
    "rating_studies",
    metadata,
    Column("seq", Sequence, primary_key=True, autoincrement=True),
    Column("tenant", String(64), nullable=False),
    Column("id", String(64), nullable=False),
    Column("name", Text, nullable=False),
    Column("file_id", String(64), nullable=False),  # the file need not be there any more
    Column("first", Text, nullable=False),  # names of the two models
    Column("second", Text, nullable=False),
    Column("pairs", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    UniqueConstraint("tenant", "id"),
)

rating_pairs = Table(
    "rating_pairs",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("study_id", String(64), primary_key=True),
    Column("position", BigInteger, primary_key=True, autoincrement=False),  # from 0
    Column("prompt", Text, nullable=False),
    Column("first", Text, nullable=False),  # the two answers
    Column("second", Text, nullable=False),
)

rating_votes = Table(
    "rating_votes",
    metadata,
    Column("seq", Sequence, primary_key=True, autoincrement=True),  # the order in which votes are taken back
    Column("tenant", String(64), nullable=False),
    Column("study_id", String(64), nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("rater", String(64), nullable=False),  # the name that a rater gave
    Column("choice", String(8), nullable=False),  # first, second or tie
    Column("created_at", BigInteger, nullable=False),
    UniqueConstraint("tenant", "study_id", "rater", "position"),
)
