"""`create_job`: the checks of a new fine-tuning job, and its rows."""

from __future__ import annotations

import importlib.util
import secrets
from collections.abc import Sequence
from functools import cache
from typing import Any

from deepwell.errors import InvalidRequest, MissingDependency, NotFound
from deepwell.safety.audit.trail import now_ms
from deepwell.server.access.principal import Principal
from deepwell.server.context import ServerContext
from deepwell.server.families.fine_tuning.data import Algorithm, check_file
from deepwell.server.families.fine_tuning.reinforced import check_grader
from deepwell.server.families.fine_tuning.schema import FineTuningRequest
from deepwell.storage.database import Tenant
from deepwell.storage.safety.chain import AuditRecord
from deepwell.storage.tuning.fine_tuning import TUNE_JOB
from deepwell.storage.tuning.records import StoredFineTuning

__all__ = ["NEEDED", "TuningUnavailable", "audited", "create_job", "missing_packages"]

NEEDED = ("torch", "transformers", "peft")
"""Packages of the extra `tune` that training imports."""

_SUFFIX = "tuned"  # where the client gives none


class TuningUnavailable(MissingDependency):
    """Raised where this server cannot train."""

    status = 501
    code = "fine_tuning_unavailable"


@cache
def missing_packages() -> tuple[str, ...]:
    """Returns the packages that training needs and that are not installed."""
    return tuple(name for name in NEEDED if importlib.util.find_spec(name) is None)


async def create_job(
    context: ServerContext, principal: Principal, body: FineTuningRequest
) -> StoredFineTuning:
    """Checks a request and makes the job.

    Raises:
        TuningUnavailable: the packages are not installed, or the server was started to train nothing.
        ModelNotFound, InvalidRequest: the model is not served, is an adapter, or generates no text.
        NotFound, InvalidTrainingFile: a file is not there, or has lines that cannot be trained on.
        TooManyFineTunings: the tenant has too many jobs that have not ended.
    """
    options, state, tenant = context.options.tuning, context.state, principal.tenant
    if not options.jobs:
        raise TuningUnavailable.of("fine_tuning_off")
    if options.command is None and (missing := missing_packages()):
        raise TuningUnavailable.of("fine_tuning_no_torch", packages=", ".join(missing))
    await state.tunings.check_open(tenant)
    answering, adapter = await context.generator(body.model, tenant)
    model = answering.model
    if adapter or all(one.model is not model for one in context.served):
        fix = (
            f"name its base: {model.name!r}" if adapter else "start the server with it: deepwell serve MODEL"
        )
        what = "is an adapter" if adapter else "is loaded on demand, and adapters need a model that stays"
        raise InvalidRequest(f"{body.model!r} {what}", fix=fix, param="model")
    chosen, algorithm = body.chosen, body.algorithm
    fields: Sequence[str] = ()
    if body.grader is not None:
        fields = await check_grader(context, tenant, body)
    await _check(context, tenant, body.training_file, "training_file", algorithm, fields)
    if body.validation_file is not None:
        await _check(context, tenant, body.validation_file, "validation_file", algorithm, fields)
    given: dict[str, Any] = {}
    if body.deepwell is not None:
        given = body.deepwell.model_dump(exclude_none=True, exclude_unset=True)
    job = await state.tunings.create(
        tenant,
        model=model.name,
        training_file=body.training_file,
        validation_file=body.validation_file,
        suffix=body.suffix or _SUFFIX,
        seed=secrets.randbelow(1 << 31) if body.seed is None else body.seed,
        hyperparameters={
            **chosen.model_dump(),
            **({} if algorithm == "supervised" else {"method": algorithm}),
            **({} if body.grader is None else {"grader": body.grader}),
            "n_epochs": 3 if chosen.n_epochs == "auto" else chosen.n_epochs,
        },
        options=given,
        metadata=body.metadata,
    )
    state.wake(TUNE_JOB)
    await audited(context, principal, "create", job)
    return job


async def audited(context: ServerContext, principal: Principal, action: str, job: StoredFineTuning) -> None:
    """Adds what was done with a job to the tenant's audit trail."""
    fields = {
        "action": action,
        "job": job.id,
        "model": job.model,
        "training_file": job.training_file,
        "key_id": principal.key_id,
    }
    record = AuditRecord("fine_tuning", now_ms(), fields)
    await context.audit.record(principal.tenant, record, durable=True)


async def _check(
    context: ServerContext, tenant: Tenant, id: str, param: str, algorithm: Algorithm, fields: Sequence[str]
) -> None:
    try:
        file = await context.state.files.get(tenant, id)
    except NotFound as error:
        error.param = param
        raise
    if file.purpose != "fine-tune":
        return  # refused where the job is made
    path = await context.state.files.local(file.sha256)
    await context.readers.call(tenant, check_file, path, param, algorithm, fields)
