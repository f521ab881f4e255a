"""Fine-tuning jobs, events and checkpoints as the API shows them."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from deepwell.server.families.fine_tuning.bodies import (
    CheckpointMetrics,
    FineTuningCheckpoint,
    FineTuningDpo,
    FineTuningDpoHyperparameters,
    FineTuningError,
    FineTuningEvent,
    FineTuningHyperparameters,
    FineTuningJob,
    FineTuningMethod,
    FineTuningReinforcement,
    FineTuningReinforcementHyperparameters,
    FineTuningSupervised,
)
from deepwell.server.families.fine_tuning.data import Algorithm
from deepwell.storage.database import Tenant
from deepwell.storage.tuning.records import StoredCheckpoint, StoredEvent, StoredFineTuning

__all__ = ["algorithm_of", "checkpoint_body", "event_body", "job_body", "model_name"]

_decode = msgspec.json.decode


def algorithm_of(job: StoredFineTuning) -> Algorithm:
    """Returns the type of a job's method."""
    method: Algorithm = _decode(job.hyperparameters).get("method", "supervised")
    return method


def model_name(job: StoredFineTuning, step: int | None = None) -> str:
    """Returns the name of the model that a job makes, or of its checkpoint at a step."""
    base = job.model.replace("::", ":")
    name = f"ft:{base}:{job.suffix}:{job.id.removeprefix('ftjob-')[:10]}"
    return name if step is None else f"{name}:ckpt-step-{step}"


def job_body(tenant: Tenant, job: StoredFineTuning) -> FineTuningJob:
    """Returns a job."""
    chosen = _decode(job.hyperparameters, type=FineTuningHyperparameters)
    status: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    status = "queued" if job.status == "paused" else job.status
    options: dict[str, Any] = _decode(job.options)
    return FineTuningJob(
        id=job.id,
        created_at=job.created_at,
        error=None if job.error is None else _decode(job.error, type=FineTuningError),
        fine_tuned_model=job.fine_tuned_model,
        finished_at=job.finished_at,
        hyperparameters=chosen,
        model=job.model,
        organization_id=tenant,
        result_files=[] if job.result_file is None else [job.result_file],
        seed=job.seed,
        status=status,
        trained_tokens=job.trained_tokens,
        training_file=job.training_file,
        validation_file=job.validation_file,
        estimated_finish=job.estimated_finish,
        integrations=[],
        metadata=None if job.metadata is None else _decode(job.metadata),
        method=_method(job, chosen),
        paused=job.status == "paused",
        suffix=job.suffix,
        deepwell=options or msgspec.UNSET,
    )


def _method(job: StoredFineTuning, chosen: FineTuningHyperparameters) -> FineTuningMethod:
    if algorithm_of(job) == "supervised":
        return FineTuningMethod("supervised", supervised=FineTuningSupervised(chosen))
    if algorithm_of(job) == "reinforcement":
        given = _decode(job.hyperparameters, type=FineTuningReinforcementHyperparameters)
        grader: dict[str, Any] = _decode(job.hyperparameters)["grader"]
        return FineTuningMethod("reinforcement", reinforcement=FineTuningReinforcement(grader, given))
    given = _decode(job.hyperparameters, type=FineTuningDpoHyperparameters)
    return FineTuningMethod("dpo", dpo=FineTuningDpo(given))


def event_body(event: StoredEvent) -> FineTuningEvent:
    """Returns an event."""
    data = None if event.data is None else _decode(event.data)
    return FineTuningEvent(event.id, event.created_at, event.level, event.message, event.type, data)


def checkpoint_body(job: StoredFineTuning, checkpoint: StoredCheckpoint) -> FineTuningCheckpoint:
    """Returns a checkpoint of a job."""
    metrics: dict[str, Any] = {"step": checkpoint.step} | _decode(checkpoint.metrics)
    return FineTuningCheckpoint(
        id=checkpoint.id,
        created_at=checkpoint.created_at,
        fine_tuned_model_checkpoint=model_name(job, checkpoint.step),
        fine_tuning_job_id=checkpoint.job_id,
        metrics=msgspec.convert(metrics, CheckpointMetrics),
        step_number=checkpoint.step,
    )
