"""Tables of what the API keeps: responses, conversations, completions, files, uploads, batches, jobs, keys."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from deepwell.storage.tables.base import Sequence, metadata

__all__ = [
    "WITH_PREVIOUS",
    "api_keys",
    "batch_lines",
    "batches",
    "completion_metadata",
    "completions",
    "conversation_items",
    "conversations",
    "files",
    "installation",
    "jobs",
    "responses",
    "upload_parts",
    "uploads",
]

WITH_PREVIOUS = text("previous_id IS NOT NULL")

responses = Table(
    "responses",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("id", String(64), primary_key=True),
    Column("created_at", BigInteger, nullable=False),
    Column("status", String(16), nullable=False),
    Column("previous_id", String(64)),
    Column("owner", String(64)),  # the process that works on it, until it is finished
    Column("input", Text, nullable=False),  # JSON: its own input items
    Column("body", Text, nullable=False),  # JSON: the response object
    Column("events", Text),  # JSON: the events that a background response streamed
    Index("ix_responses_owner", "owner"),
    Index("ix_responses_created_at", "created_at"),
    Index(
        "ix_responses_tenant_previous_id",
        "tenant",
        "previous_id",
        sqlite_where=WITH_PREVIOUS,  # `postgres` adds its own: naming it here would import the dialect
    ),
)

conversations = Table(
    "conversations",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("id", String(64), primary_key=True),
    Column("created_at", BigInteger, nullable=False),
    Column("metadata", Text, nullable=False),  # JSON
    # Time of the last change of it or its items; the default is of rows that an older version writes
    Column("updated_at", BigInteger, nullable=False, server_default="0"),
    Index("ix_conversations_updated_at", "updated_at"),
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
    Column("seq", Sequence, primary_key=True, autoincrement=True),
    Column("tenant", String(64), nullable=False),
    Column("id", String(64), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("model", String(256), nullable=False),
    Column("metadata", Text, nullable=False),  # JSON
    Column("messages", Text, nullable=False),  # JSON: the conversation it answers, every message with an id
    Column("body", Text, nullable=False),  # JSON: the completion object
    Column("end_user", Text),  # `safety_identifier` or `user` of the request
    UniqueConstraint("tenant", "id"),
    Index("ix_completions_tenant_seq", "tenant", "seq"),
    Index("ix_completions_created_at", "created_at"),
)

completion_metadata = Table(
    "completion_metadata",
    metadata,
    Column(
        "seq",
        Sequence,
        ForeignKey("completions.seq", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
    ),
    Column("key", String(64), primary_key=True),
    Column("value", String(512), nullable=False),
    Index("ix_completion_metadata_key_value", "key", "value"),
)

jobs = Table(
    "jobs",
    metadata,
    Column("seq", Sequence, primary_key=True, autoincrement=True),
    Column("tenant", String(64), nullable=False),
    Column("id", String(64), nullable=False),
    Column("kind", String(32), nullable=False),
    Column("status", String(16), nullable=False),
    Column("payload", Text, nullable=False),  # JSON
    Column("progress", Text),  # JSON
    Column("result", Text),  # JSON
    Column("error", Text),
    Column("attempts", Integer, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("started_at", BigInteger),
    Column("finished_at", BigInteger),
    Column("owner", String(128)),
    Column("lease_s", Double),  # how long `beat` may stay unchanged
    Column("lease_until", Double),  # by the owner's wall clock, for display only
    Column("beat", BigInteger, nullable=False),  # counts claims and heartbeats
    Column("cancel_requested", Boolean, nullable=False),
    UniqueConstraint("tenant", "id"),
    Index("ix_jobs_tenant_kind_seq", "tenant", "kind", "seq"),
    Index("ix_jobs_tenant_seq", "tenant", "seq"),
    Index("ix_jobs_finished_at", "finished_at"),
)
Index("ix_jobs_status_priority_seq", jobs.c.status, jobs.c.priority.desc(), jobs.c.seq)

files = Table(
    "files",
    metadata,
    Column("seq", Sequence, primary_key=True, autoincrement=True),
    Column("tenant", String(64), nullable=False),
    Column("id", String(64), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("filename", String(256), nullable=False),
    Column("purpose", String(32), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),  # names the blob that holds the bytes
    UniqueConstraint("tenant", "id"),
    Index("ix_files_tenant_seq", "tenant", "seq"),
    Index("ix_files_sha256", "sha256"),
    Index("ix_files_expires_at", "expires_at"),
    Index("ix_files_created_at", "created_at"),
)

uploads = Table(
    "uploads",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("id", String(64), primary_key=True),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("status", String(16), nullable=False),
    Column("filename", String(256), nullable=False),
    Column("purpose", String(32), nullable=False),
    Column("mime_type", String(256), nullable=False),
    Column("bytes", BigInteger, nullable=False),  # announced size
    Column("file_expires_after", BigInteger),  # seconds
    Column("file_id", String(64)),
    Index("ix_uploads_expires_at", "expires_at"),
)

upload_parts = Table(
    "upload_parts",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("upload_id", String(64), primary_key=True),
    Column("id", String(64), primary_key=True),
    Column("created_at", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    ForeignKeyConstraint(["tenant", "upload_id"], ["uploads.tenant", "uploads.id"], ondelete="CASCADE"),
    Index("ix_upload_parts_sha256", "sha256"),
)

batches = Table(
    "batches",
    metadata,
    Column("seq", Sequence, primary_key=True, autoincrement=True),
    Column("tenant", String(64), nullable=False),
    Column("id", String(64), nullable=False),
    Column("status", String(16), nullable=False),
    Column("endpoint", String(64), nullable=False),
    Column("input_file_id", String(64), nullable=False),
    Column("input_sha256", String(64)),  # keeps the input while it is needed, even if the file is deleted
    Column("completion_window", String(16), nullable=False),
    Column("metadata", Text),  # JSON
    Column("output_expires_after", BigInteger),  # seconds
    Column("model", String(256)),
    Column("errors", Text),  # JSON: errors found by validation
    Column("output_file_id", String(64)),
    Column("error_file_id", String(64)),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("in_progress_at", BigInteger),
    Column("finalizing_at", BigInteger),
    Column("completed_at", BigInteger),
    Column("failed_at", BigInteger),
    Column("expired_at", BigInteger),
    Column("cancelling_at", BigInteger),
    Column("cancelled_at", BigInteger),
    Column("total", BigInteger, nullable=False),
    Column("completed", BigInteger, nullable=False),
    Column("failed", BigInteger, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    UniqueConstraint("tenant", "id"),
    Index("ix_batches_tenant_seq", "tenant", "seq"),
    Index("ix_batches_status", "status"),
    Index("ix_batches_created_at", "created_at"),
    Index("ix_batches_input_sha256", "input_sha256"),
)

batch_lines = Table(
    "batch_lines",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("batch_id", String(64), primary_key=True),
    Column("line", BigInteger, primary_key=True, autoincrement=False),  # line number in the input, from 1
    Column("failed", Integer, nullable=False),  # 1: it belongs to the error file
    Column("body", Text, nullable=False),  # JSON: the line of the output
    Column("end_user", Text),  # as the line's request names one, so that the result can be erased
    ForeignKeyConstraint(["tenant", "batch_id"], ["batches.tenant", "batches.id"], ondelete="CASCADE"),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("name", String(256), nullable=False),
    # SHA-256 of the key, in hexadecimal; the key itself is not stored
    Column("digest", String(64), nullable=False),
    Column("hint", String(16), nullable=False),  # the first and last characters of the key
    Column("scopes", String(256), nullable=False),  # separated by blanks
    Column("requests_per_minute", BigInteger),  # limit of this key; NULL: the tenant's limit
    Column("tokens_per_minute", BigInteger),
    Column("audio_seconds_per_minute", BigInteger),
    Column("images_per_minute", BigInteger),
    Column("created_at", BigInteger, nullable=False),
    Column("last_used_at", BigInteger),
    Column("expires_at", BigInteger),
    Column("revoked_at", BigInteger),
    Column(
        "seal", String(64), nullable=False, server_default=""
    ),  # SHA-256 of the columns but `last_used_at`
    UniqueConstraint("digest"),
    Index("ix_api_keys_tenant", "tenant"),
)

installation = Table(
    "installation",
    metadata,
    # One row, which tells this database from every other, and its states from earlier ones
    Column("id", String(64), primary_key=True),
    Column("generation", BigInteger, nullable=False),
)
