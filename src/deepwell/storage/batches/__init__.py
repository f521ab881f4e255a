"""Stored batches, and the lines of their output."""

from deepwell.storage.batches.store import (
    BATCH_JOB,
    MOST_OPEN,
    OPEN,
    BatchStatus,
    BatchStore,
    StoredBatch,
    TooManyBatches,
)

__all__ = ["BATCH_JOB", "MOST_OPEN", "OPEN", "BatchStatus", "BatchStore", "StoredBatch", "TooManyBatches"]
