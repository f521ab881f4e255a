"""Hostile documents of every format; see `documents`."""

from deepwell_bench.workloads.knowledge.hostile_documents.documents import (
    HostileDocument,
    write_hostile_documents,
)

__all__ = ["HostileDocument", "write_hostile_documents"]
