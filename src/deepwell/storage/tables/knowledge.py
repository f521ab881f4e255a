"""Tables of knowledge: vector stores, their files and sources, documents, chunks and vectors."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from deepwell.storage.tables.base import Sequence, metadata

__all__ = [
    "chunk_removals",
    "chunks",
    "documents",
    "embeddings",
    "vector_store_batches",
    "vector_store_files",
    "vector_store_sources",
    "vector_stores",
]

vector_stores = Table(
    "vector_stores",
    metadata,
    Column("seq", Sequence, primary_key=True, autoincrement=True),
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
    Column("seq", Sequence, primary_key=True, autoincrement=True),
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
    Column("seq", Sequence, primary_key=True, autoincrement=True),
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
    Column("key", Sequence, primary_key=True, autoincrement=True),
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
    Column("seq", Sequence, primary_key=True, autoincrement=True),
    Column("tenant", String(64), nullable=False),
    Column("store_id", String(64), nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("keys", Text, nullable=False),  # JSON
    Index("ix_chunk_removals_tenant_store_id_generation", "tenant", "store_id", "generation"),
    Index("ix_chunk_removals_created_at", "created_at"),
    _of_store(),
)
