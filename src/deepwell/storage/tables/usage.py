"""Tables of usage and feedback: the tokens, sounds and images of each hour, and what people say of answers."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Index, String, Table, Text, UniqueConstraint

from deepwell.storage.tables.base import Sequence, metadata

__all__ = ["feedback", "media_usage", "usage"]

usage = Table(
    "usage",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("hour", BigInteger, primary_key=True, autoincrement=False),  # its first second, UTC
    Column("key_id", String(64), primary_key=True),  # empty: the server has no keys
    Column("model", String(256), primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),  # part of the input
)

media_usage = Table(
    "media_usage",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("hour", BigInteger, primary_key=True, autoincrement=False),  # its first second, UTC
    Column("key_id", String(64), primary_key=True),  # empty: the server has no keys
    Column("model", String(256), primary_key=True),
    Column("source", String(32), primary_key=True),  # audio.speech, image.edit
    Column("size", String(16), primary_key=True),  # of images; empty: there are none
    Column("requests", BigInteger, nullable=False),
    Column("characters", BigInteger, nullable=False),  # of text that was read aloud
    Column("milliseconds", BigInteger, nullable=False),  # of sound that was recognised or made
    Column("images", BigInteger, nullable=False),
)

feedback = Table(
    "feedback",
    metadata,
    Column("seq", Sequence, primary_key=True, autoincrement=True),
    Column("tenant", String(64), nullable=False),
    Column("id", String(64), nullable=False),
    Column("target_id", String(128), nullable=False),  # of the answer, which need not be kept
    Column("rating", String(8), nullable=False),  # up or down
    Column("reason", Text),
    Column("model", String(256)),
    Column("messages", Text),  # JSON: the conversation, if the client sent it
    Column("end_user", Text),  # as the request names one, so that it can be erased
    Column(
        "created_at", BigInteger, nullable=False
    ),  # of the newest vote: a later one replaces an earlier one
    Column("correction", Text),
    Column("consent", Boolean, nullable=False),  # may be used to improve models
    Column("verified", Boolean, nullable=False),  # model and messages are those of the kept answer
    Column("voter", String(64), nullable=False),  # hash of who voted; of rows before there were any: their id
    Column("source", String(16), nullable=False),  # api or import
    # of whoever voted; empty: the server has no keys, or it was imported
    Column("key_id", String(64), nullable=False, server_default=""),
    UniqueConstraint("tenant", "id"),
    Index("ix_feedback_tenant_rating_seq", "tenant", "rating", "seq"),
    Index("uq_feedback_tenant_target_id_voter", "tenant", "target_id", "voter", unique=True),
    Index("ix_feedback_tenant_voter_created_at", "tenant", "voter", "created_at"),
    Index("ix_feedback_tenant_created_at", "tenant", "created_at"),
)
