"""Knowledge: vector stores, their files and sources, parsed documents, chunks and vectors."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_Sequence = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def _of_store(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["tenant", "store_id"],
        ["vector_stores.tenant", "vector_stores.id"],
        ondelete="CASCADE",
        name=f"fk_{table}_tenant_store_id",
    )


def upgrade() -> None:
    """Creates the tables."""
    _create_stores()
    _create_batches_and_sources()
    _create_contents()


def _create_stores() -> None:
    op.create_table(
        "vector_stores",
        sa.Column("seq", _Sequence, autoincrement=True, nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("name", sa.String(256), nullable=False),
        sa.Column("description", sa.Text),
        sa.Column("metadata", sa.Text, nullable=False),
        sa.Column("embedder", sa.String(256), nullable=False),
        sa.Column("embedder_hash", sa.String(64), nullable=False),
        sa.Column("dimensions", sa.Integer, nullable=False),
        sa.Column("chunking", sa.Text),
        sa.Column("expires_after_days", sa.Integer),
        sa.Column("last_active_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger),
        sa.Column("generation", sa.BigInteger, nullable=False),
        sa.Column("removals_from", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_vector_stores"),
        sa.UniqueConstraint("tenant", "id", name="uq_vector_stores_tenant_id"),
    )
    op.create_index("ix_vector_stores_tenant_seq", "vector_stores", ["tenant", "seq"])
    op.create_index("ix_vector_stores_expires_at", "vector_stores", ["expires_at"])
    op.create_table(
        "vector_store_files",
        sa.Column("seq", _Sequence, autoincrement=True, nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("store_id", sa.String(64), nullable=False),
        sa.Column("file_id", sa.String(64), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("error_code", sa.String(32)),
        sa.Column("error", sa.Text),
        sa.Column("usage_bytes", sa.BigInteger, nullable=False),
        sa.Column("attributes", sa.Text, nullable=False),
        sa.Column("chunking", sa.Text),
        sa.Column("batch_id", sa.String(64)),
        sa.Column("job_id", sa.String(64)),
        sa.Column("source_id", sa.String(64)),
        sa.Column("uri", sa.Text),
        sa.Column("version", sa.String(256)),
        sa.Column("digest", sa.String(64)),
        sa.PrimaryKeyConstraint("seq", name="pk_vector_store_files"),
        sa.UniqueConstraint(
            "tenant", "store_id", "file_id", name="uq_vector_store_files_tenant_store_id_file_id"
        ),
        _of_store("vector_store_files"),
    )
    op.create_index(
        "ix_vector_store_files_tenant_store_id_seq", "vector_store_files", ["tenant", "store_id", "seq"]
    )
    op.create_index("ix_vector_store_files_tenant_file_id", "vector_store_files", ["tenant", "file_id"])
    op.create_index("ix_vector_store_files_batch_id", "vector_store_files", ["batch_id"])


def _create_batches_and_sources() -> None:
    op.create_table(
        "vector_store_batches",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("store_id", sa.String(64), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("cancelled_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("tenant", "id", name="pk_vector_store_batches"),
        _of_store("vector_store_batches"),
    )
    op.create_table(
        "vector_store_sources",
        sa.Column("seq", _Sequence, autoincrement=True, nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("store_id", sa.String(64), nullable=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("spec", sa.Text, nullable=False),
        sa.Column("checked_at", sa.BigInteger),
        sa.Column("error", sa.Text),
        sa.PrimaryKeyConstraint("seq", name="pk_vector_store_sources"),
        sa.UniqueConstraint("tenant", "id", name="uq_vector_store_sources_tenant_id"),
        _of_store("vector_store_sources"),
    )
    op.create_index(
        "ix_vector_store_sources_tenant_store_id_seq", "vector_store_sources", ["tenant", "store_id", "seq"]
    )


def _create_contents() -> None:
    op.create_table(
        "documents",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "digest", name="pk_documents"),
    )
    op.create_table(
        "chunks",
        sa.Column("key", _Sequence, autoincrement=True, nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("store_id", sa.String(64), nullable=False),
        sa.Column("file_id", sa.String(64), nullable=False),
        sa.Column("generation", sa.BigInteger, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("start", sa.BigInteger, nullable=False),
        sa.Column("end", sa.BigInteger, nullable=False),
        sa.Column("place", sa.Text, nullable=False),
        sa.Column("tokens", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_chunks"),
        _of_store("chunks"),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_chunks_tenant_store_id_generation", "chunks", ["tenant", "store_id", "generation", "key"]
    )
    op.create_index("ix_chunks_tenant_store_id_file_id", "chunks", ["tenant", "store_id", "file_id"])
    op.create_index("ix_chunks_tenant_digest", "chunks", ["tenant", "digest"])
    op.create_table(
        "embeddings",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("embedder_hash", sa.String(64), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("vector", sa.LargeBinary, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "embedder_hash", "digest", name="pk_embeddings"),
    )
    op.create_table(
        "chunk_removals",
        sa.Column("seq", _Sequence, autoincrement=True, nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("store_id", sa.String(64), nullable=False),
        sa.Column("generation", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("keys", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_chunk_removals"),
        _of_store("chunk_removals"),
    )
    op.create_index(
        "ix_chunk_removals_tenant_store_id_generation", "chunk_removals", ["tenant", "store_id", "generation"]
    )
    op.create_index("ix_chunk_removals_created_at", "chunk_removals", ["created_at"])


def downgrade() -> None:
    """Drops them."""
    for table in (
        "chunk_removals",
        "embeddings",
        "chunks",
        "documents",
        "vector_store_sources",
        "vector_store_batches",
        "vector_store_files",
        "vector_stores",
    ):
        op.drop_table(table)
