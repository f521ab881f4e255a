"""The family of jobs."""

from __future__ import annotations

from deepwell.server.families.family import Family
from deepwell.server.families.jobs.bodies import Job, JobList
from deepwell.server.families.jobs.routes import router
from deepwell.server.http.declaration import Declaration, Operation

__all__ = ["FAMILY"]

_JOB = "/v1/jobs/{job_id}"

FAMILY = Family(
    Declaration(
        (
            Operation("get", "/v1/jobs", JobList),
            Operation("get", _JOB, Job),
            Operation("post", f"{_JOB}/cancel", Job),
        ),
        api="deepwell",
    ),
    router,
)
