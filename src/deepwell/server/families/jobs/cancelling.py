"""`cancel_job`: ends a job of any kind, with what belongs to it."""

from __future__ import annotations

from dataclasses import replace

from deepwell.errors import InvalidRequest
from deepwell.safety.privacy.rows import ERASE_JOB
from deepwell.server.context import ServerContext
from deepwell.server.families.batches.routes import cancel_batch
from deepwell.server.families.responses.stored import cancel_response
from deepwell.storage.batches import BATCH_JOB
from deepwell.storage.database import Tenant
from deepwell.storage.jobs import Job
from deepwell.storage.knowledge.files import INGEST_JOB
from deepwell.storage.knowledge.sources import FOLLOW_JOB
from deepwell.storage.responses import RESPONSE_JOB

__all__ = ["HIDDEN_KINDS", "cancel_job"]

HIDDEN_KINDS = (ERASE_JOB,)
"""Kinds of jobs that are the operator's, although their rows name a tenant: it must not stop its own erasure."""


async def cancel_job(context: ServerContext, tenant: Tenant, job: Job) -> Job:
    """Ends a queued job, or asks the worker of a running one to stop. A job that has ended stays unchanged.

    Raises:
        InvalidRequest: it follows a source, which is removed instead; or it is a batch that is being finalized.
    """
    state = context.state
    if job.status not in ("queued", "running"):
        return job
    if job.kind == RESPONSE_JOB:  # its row goes with its end
        await cancel_response(context, tenant, job.id)
        return replace(job, status="cancelled", cancel_requested=True)
    if job.kind == FOLLOW_JOB:
        raise InvalidRequest(
            f"the job {job.id!r} follows a source as long as the source is there",
            fix="remove the source instead: deepwell knowledge remove",
        )
    if job.kind == BATCH_JOB:
        batch = await state.batches.get(tenant, job.id)
        await cancel_batch(context, tenant, job.id, without_files=batch.without_files)
    elif job.kind == INGEST_JOB:
        await state.knowledge.files.cancel_job(tenant, job.id)
    else:
        return await state.jobs.cancel(tenant, job.id)
    return await state.jobs.get(tenant, job.id)
