"""`job_body`: a job as the API shows it."""

from __future__ import annotations

from typing import Any

import msgspec

from deepwell.server.families.jobs.bodies import Job
from deepwell.storage.jobs import Job as StoredJob

__all__ = ["job_body"]


def job_body(job: StoredJob) -> Job:
    """Returns a job without its payload, which is its worker's own."""
    return Job(
        id=job.id,
        kind=job.kind,
        status=job.status,
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        progress=_progress(_object(job.progress)),
        result=_object(job.result),
        error=job.error,
        attempts=job.attempts,
        cancel_requested=job.cancel_requested,
    )


def _object(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    value: Any = msgspec.json.decode(text)
    return value if isinstance(value, dict) else {"value": value}


def _progress(told: dict[str, Any] | None) -> dict[str, Any] | None:
    """Adds the names that all kinds share to those that batches and ingestion have."""
    if told is None:
        return None
    if "stage" in told:
        told.setdefault("step", told["stage"])
    if "completed" in told and "failed" in told and "total" in told:
        told.setdefault("done", told["completed"] + told["failed"])
        told.setdefault("unit", "requests")
    return told
