"""`job_body`: a job as the API shows it."""

from __future__ import annotations

from typing import Any

import msgspec

from deepwell.server.families.jobs.bodies import Job
from deepwell.storage.jobs import Job as StoredJob
from deepwell.storage.tuning.works import WORKS

__all__ = ["job_body"]


class _Asking(msgspec.Struct):
    asked: dict[str, Any] = {}


def job_body(job: StoredJob) -> Job:
    """Returns a job. Its payload is its worker's own: the body names only what it is about."""
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
        subject=_subject(job),
    )


def _subject(job: StoredJob) -> dict[str, str] | None:
    if job.kind not in WORKS:
        return None
    asked = msgspec.json.decode(job.payload, type=_Asking).asked
    told = {name: asked.get(name) for name in ("method", "model", "name")}
    told["prompt"] = (asked.get("prompt") or {}).get("id")
    return {name: value for name, value in told.items() if value}


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
