"""Compressions and their events as the API shows them."""

from __future__ import annotations

from typing import Any

import msgspec

from deepwell.errors import InvalidRequest
from deepwell.server.families.compression.bodies import CompressionEvent, CompressionEventList, CompressionJob
from deepwell.server.families.fine_tuning.bodies import FineTuningError
from deepwell.server.families.fine_tuning.works.compressing import options_of
from deepwell.server.families.fine_tuning.works.following import WorkProgress
from deepwell.server.families.pages import ends_of
from deepwell.storage.jobs import Job
from deepwell.storage.tuning.works import WorkPayload

__all__ = ["compression_body", "events_page"]

_decode = msgspec.json.decode


def compression_body(job: Job) -> CompressionJob:
    """Returns a compression."""
    asked = _decode(job.payload, type=WorkPayload).asked
    options: dict[str, Any] = msgspec.to_builtins(options_of(asked))
    del options["method"]
    told = WorkProgress.of(job.progress)
    progress: dict[str, Any] = {"done": told.done, "total": told.total, "unit": told.unit, "step": told.step}
    result: dict[str, Any] | None = None if job.result is None else _decode(job.result)
    return CompressionJob(
        id=job.id,
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        status=job.status,
        method=asked["method"],
        options=options,
        model=asked["model"],
        compressed_model=None if result is None else result["compressed_model"],
        text_file=asked["text_file"],
        held_out_file=asked["held_out_file"],
        progress=None if job.progress is None else progress,
        result=result,
        error=None if job.error is None else FineTuningError(told.code or "failed", job.error, None),
        metadata=asked["metadata"],
    )


def events_page(job: Job, after: str | None, limit: int) -> CompressionEventList:
    """Returns a page of a job's events, the newest first.

    Raises:
        InvalidRequest: `after` is none of them.
    """
    found = [
        CompressionEvent(f"cmpevent-{one['number']}", one["created_at"], one["level"], one["message"])
        for one in reversed(WorkProgress.of(job.progress).events)
    ]
    if after is not None:
        place = next((number for number, one in enumerate(found) if one.id == after), None)
        if place is None:
            raise InvalidRequest(
                f"'after' names {after!r}, which is not in this list",
                fix="use the last id of the page before",
                param="after",
            )
        found = found[place + 1 :]
    data = found[:limit]
    return CompressionEventList(data, *ends_of(data), len(found) > limit)
