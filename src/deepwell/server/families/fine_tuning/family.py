"""The family of fine-tuning jobs."""

from __future__ import annotations

from deepwell.server.families.family import Family
from deepwell.server.families.fine_tuning.bodies import (
    FineTuningCheckpointList,
    FineTuningEventList,
    FineTuningJob,
    FineTuningJobList,
)
from deepwell.server.families.fine_tuning.routes import JOB, JOBS, router
from deepwell.server.families.fine_tuning.schema import FineTuningRequest
from deepwell.server.families.fine_tuning.worker import tuning_worker
from deepwell.server.http.declaration import Declaration, Operation

__all__ = ["FAMILY"]

_PERMISSIONS = "/v1/fine_tuning/checkpoints/{fine_tuned_model_checkpoint}/permissions"
_ALONE = "checkpoints are their tenant's alone: there are no projects to share them with"


FAMILY = Family(
    Declaration(
        (
            Operation("post", JOBS, FineTuningJob, request=FineTuningRequest),
            Operation("get", JOBS, FineTuningJobList),
            Operation("get", JOB, FineTuningJob),
            Operation("post", f"{JOB}/cancel", FineTuningJob),
            Operation("post", f"{JOB}/pause", FineTuningJob),
            Operation("post", f"{JOB}/resume", FineTuningJob),
            Operation("get", f"{JOB}/events", FineTuningEventList),
            Operation("get", f"{JOB}/checkpoints", FineTuningCheckpointList),
        ),
        scope="tuning",
        not_served={
            f"POST {_PERMISSIONS}": _ALONE,
            f"GET {_PERMISSIONS}": _ALONE,
            f"DELETE {_PERMISSIONS}/{{permission_id}}": _ALONE,
        },
    ),
    router,
    worker=tuning_worker,
)
