"""The family of batches."""

from __future__ import annotations

from deepwell.server.families.batches.bodies import Batch, BatchList
from deepwell.server.families.batches.routes import router
from deepwell.server.families.batches.schema import BatchRequest
from deepwell.server.families.batches.worker import batch_worker
from deepwell.server.families.family import Family
from deepwell.server.http.declaration import Declaration, Operation

__all__ = ["FAMILY"]

_BATCHES = "/v1/batches"
_BATCH = "/v1/batches/{batch_id}"

FAMILY = Family(
    Declaration(
        (
            Operation("post", _BATCHES, Batch, request=BatchRequest),
            Operation("get", _BATCHES, BatchList),
            Operation("get", _BATCH, Batch),
            Operation("post", f"{_BATCH}/cancel", Batch),
        )
    ),
    router,
    worker=batch_worker,
)
