"""`cancel_job`: ends a job of any kind, with what belongs to it."""

from __future__ import annotations

from dataclasses import replace

import msgspec

from deepwell.errors import InvalidRequest
from deepwell.server.context import ServerContext
from deepwell.server.families.agents.answering import cancel_run
from deepwell.server.families.batches.routes import cancel_batch
from deepwell.server.families.responses.stored import cancel_response
from deepwell.storage.agents import AGENT_JOB
from deepwell.storage.batches import BATCH_JOB
from deepwell.storage.database import Tenant
from deepwell.storage.jobs import Job, JobStatus
from deepwell.storage.knowledge.files import INGEST_JOB
from deepwell.storage.knowledge.sources import FOLLOW_JOB
from deepwell.storage.responses import RESPONSE_JOB
from deepwell.storage.tuning.evals import EVAL_JOB
from deepwell.storage.tuning.fine_tuning import PARKED_JOB, TUNE_JOB

__all__ = ["cancel_job"]


async def cancel_job(context: ServerContext, tenant: Tenant, job: Job) -> Job:
    """Ends a queued job, or asks the worker of a running one to stop. A job that has ended stays unchanged.

    Raises:
        InvalidRequest: it follows a source, which is removed instead; or it is a batch that is being finalized.
    """
    state = context.state
    if job.status not in ("queued", "running"):
        return job
    if job.kind == RESPONSE_JOB:  # its row goes with its end
        body = await cancel_response(context, tenant, job.id)
        return replace(job, status=_status_of(body), cancel_requested=True)
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
    elif job.kind in (TUNE_JOB, PARKED_JOB):
        await state.tunings.cancel(tenant, job.id)
    elif job.kind == AGENT_JOB:
        await cancel_run(context, tenant, job.id)
    elif job.kind == EVAL_JOB:
        await state.evals.cancel_run(tenant, job.id)
    else:
        return await state.jobs.cancel(tenant, job.id)
    return await state.jobs.get(tenant, job.id)


class _Response(msgspec.Struct):
    status: str = ""


def _status_of(body: bytes) -> JobStatus:
    """Returns the end of the job of a response, which may have come before the request to end it."""
    status = msgspec.json.decode(body, type=_Response).status
    if status == "failed":
        return "failed"
    return "succeeded" if status in ("completed", "incomplete") else "cancelled"
