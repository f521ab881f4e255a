"""Every table, in SQLAlchemy Core. A change here comes with a revision in `migrations/versions`."""

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
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

__all__ = [
    "HEAD",
    "WITH_PREVIOUS",
    "api_keys",
    "batch_lines",
    "batches",
    "chunk_removals",
    "chunks",
    "completion_metadata",
    "completions",
    "conversation_items",
    "conversations",
    "documents",
    "embeddings",
    "files",
    "installation",
    "jobs",
    "metadata",
    "responses",
    "upload_parts",
    "uploads",
    "vector_store_batches",
    "vector_store_files",
    "vector_store_sources",
    "vector_stores",
]

HEAD = "0006"  # the newest revision

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_N_label)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite numbers rows by itself only in a column declared exactly INTEGER PRIMARY KEY.
_Sequence = BigInteger().with_variant(Integer, "sqlite")

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
    Index("ix_completions_created_at", "created_at"),
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

jobs = Table(
    "jobs",
    metadata,
    Column("seq", _Sequence, primary_key=True, autoincrement=True),
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
    Index("ix_jobs_finished_at", "finished_at"),
)
Index("ix_jobs_status_priority_seq", jobs.c.status, jobs.c.priority.desc(), jobs.c.seq)

files = Table(
    "files",
    metadata,
    Column("seq", _Sequence, primary_key=True, autoincrement=True),
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
    Column("seq", _Sequence, primary_key=True, autoincrement=True),
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
    ForeignKeyConstraint(["tenant", "batch_id"], ["batches.tenant", "batches.id"], ondelete="CASCADE"),
)

vector_stores = Table(
    "vector_stores",
    metadata,
    Column("seq", _Sequence, primary_key=True, autoincrement=True),
    Column("tenant", String(64), nullable=False),
    Column("id", String(64), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("name", String(256), nullable=False),
    Column("description", Text),
    Column("metadata", Text, nullable=False),  # JSON
    Column("embedder", String(256), nullable=False),  # name of the model whose vectors it holds
    Column("embedder_hash", String(64), nullable=False),  # empty until the first file is embedded
    Column("dimensions", Integer, nullable=False),
    Column("chunking", Text),  # JSON: the strategy of files that name none
    Column("expires_after_days", Integer),
    Column("last_active_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("generation", BigInteger, nullable=False),  # counts the changes of its chunks
    # Removals of earlier generations are forgotten: an index that is older is built anew
    Column("removals_from", BigInteger, nullable=False),
    UniqueConstraint("tenant", "id"),
    Index("ix_vector_stores_tenant_seq", "tenant", "seq"),
    Index("ix_vector_stores_expires_at", "expires_at"),
)


def _of_store() -> ForeignKeyConstraint:
    return ForeignKeyConstraint(
        ["tenant", "store_id"], ["vector_stores.tenant", "vector_stores.id"], ondelete="CASCADE"
    )


vector_store_files = Table(
    "vector_store_files",
    metadata,
    Column("seq", _Sequence, primary_key=True, autoincrement=True),
    Column("tenant", String(64), nullable=False),
    Column("store_id", String(64), nullable=False),
    Column("file_id", String(64), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("status", String(16), nullable=False),
    Column("error_code", String(32)),
    Column("error", Text),
    Column("usage_bytes", BigInteger, nullable=False),
    Column("attributes", Text, nullable=False),  # JSON
    Column("chunking", Text),  # JSON: the strategy it was asked to be cut by
    Column("batch_id", String(64)),
    Column("job_id", String(64)),  # the job that ingests it
    Column("source_id", String(64)),  # the source that brought it
    Column("uri", Text),  # its address in that source
    Column("version", String(256)),  # what the source said of its state: an ETag, or time and size
    Column("digest", String(64)),  # names its parsed document
    UniqueConstraint("tenant", "store_id", "file_id"),
    Index("ix_vector_store_files_tenant_store_id_seq", "tenant", "store_id", "seq"),
    Index("ix_vector_store_files_tenant_file_id", "tenant", "file_id"),
    Index("ix_vector_store_files_batch_id", "batch_id"),
    _of_store(),
)

vector_store_batches = Table(
    "vector_store_batches",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("id", String(64), primary_key=True),
    Column("store_id", String(64), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("cancelled_at", BigInteger),
    _of_store(),
)

vector_store_sources = Table(
    "vector_store_sources",
    metadata,
    Column("seq", _Sequence, primary_key=True, autoincrement=True),
    Column("tenant", String(64), nullable=False),
    Column("store_id", String(64), nullable=False),
    Column("id", String(64), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("spec", Text, nullable=False),  # JSON
    Column("checked_at", BigInteger),
    Column("error", Text),  # of the last look
    UniqueConstraint("tenant", "id"),
    Index("ix_vector_store_sources_tenant_store_id_seq", "tenant", "store_id", "seq"),
    _of_store(),
)

documents = Table(
    "documents",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("digest", String(64), primary_key=True),  # of the file's bytes, its name's suffix and the parser
    Column("created_at", BigInteger, nullable=False),
    Column("body", Text, nullable=False),  # JSON: text and sections
)

chunks = Table(
    "chunks",
    metadata,
    Column("key", _Sequence, primary_key=True, autoincrement=True),
    Column("tenant", String(64), nullable=False),
    Column("store_id", String(64), nullable=False),
    Column("file_id", String(64), nullable=False),
    Column("generation", BigInteger, nullable=False),  # of the store when it became visible
    Column("position", Integer, nullable=False),  # number in its file, from 0
    Column("digest", String(64), nullable=False),  # of the text, names its vector
    Column("text", Text, nullable=False),
    Column("start", BigInteger, nullable=False),  # offsets in the document's text
    Column("end", BigInteger, nullable=False),
    Column("place", Text, nullable=False),  # JSON
    Column("tokens", Integer, nullable=False),
    Index("ix_chunks_tenant_store_id_generation", "tenant", "store_id", "generation", "key"),
    Index("ix_chunks_tenant_store_id_file_id", "tenant", "store_id", "file_id"),
    Index("ix_chunks_tenant_digest", "tenant", "digest"),
    _of_store(),
    sqlite_autoincrement=True,  # a key that was removed never names another chunk
)

embeddings = Table(
    "embeddings",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("embedder_hash", String(64), primary_key=True),
    Column("digest", String(64), primary_key=True),  # of the text
    Column("vector", LargeBinary, nullable=False),  # float32, little endian
    Column("created_at", BigInteger, nullable=False),
)

chunk_removals = Table(
    "chunk_removals",
    metadata,
    Column("seq", _Sequence, primary_key=True, autoincrement=True),
    Column("tenant", String(64), nullable=False),
    Column("store_id", String(64), nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("keys", Text, nullable=False),  # JSON
    Index("ix_chunk_removals_tenant_store_id_generation", "tenant", "store_id", "generation"),
    Index("ix_chunk_removals_created_at", "created_at"),
    _of_store(),
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
    Column("created_at", BigInteger, nullable=False),
    Column("last_used_at", BigInteger),
    Column("expires_at", BigInteger),
    Column("revoked_at", BigInteger),
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
