"""Searches for prompts as the API shows them."""

from __future__ import annotations

from typing import Any

import msgspec

from deepwell.server.families.fine_tuning.bodies import FineTuningError
from deepwell.server.families.fine_tuning.works.following import WorkProgress
from deepwell.server.families.optimisations.bodies import Optimisation, StartedWith
from deepwell.storage.jobs import Job
from deepwell.storage.tuning.works import WorkPayload

__all__ = ["optimisation_body"]

_decode = msgspec.json.decode


def optimisation_body(job: Job) -> Optimisation:
    """Returns a search."""
    asked = _decode(job.payload, type=WorkPayload).asked
    told = WorkProgress.of(job.progress)
    progress: dict[str, Any] = {"done": told.done, "total": told.total, "unit": told.unit, "step": told.step}
    return Optimisation(
        id=job.id,
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        status=job.status,
        prompt=StartedWith(**asked["prompt"]),
        model=asked["model"],
        data_file=asked["data_file"],
        held_out_file=asked["held_out_file"],
        metric=asked["metric"],
        calls=asked["calls"],
        seed=asked["seed"],
        current=asked["current"],
        progress=None if job.progress is None else progress,
        result=None if job.result is None else _decode(job.result),
        error=None if job.error is None else FineTuningError(told.code or "failed", job.error, None),
        metadata=asked["metadata"],
    )
