"""The family of compressions. Their results are models of the store, which all tenants share: keys need the scope admin."""

from __future__ import annotations

from deepwell.server.families.compression.bodies import (
    CompressionEventList,
    CompressionJob,
    CompressionJobList,
)
from deepwell.server.families.compression.routes import JOB, JOBS, router
from deepwell.server.families.compression.schema import CompressionRequest
from deepwell.server.families.family import Family
from deepwell.server.http.declaration import Declaration, Operation

__all__ = ["FAMILY"]

FAMILY = Family(
    Declaration(
        (
            Operation("post", JOBS, CompressionJob, request=CompressionRequest),
            Operation("get", JOBS, CompressionJobList),
            Operation("get", JOB, CompressionJob),
            Operation("post", f"{JOB}/cancel", CompressionJob),
            Operation("get", f"{JOB}/events", CompressionEventList),
        ),
        api="deepwell",
        scope="admin",
    ),
    router,
)
