"""The rows of fine-tuning as they are read: jobs, events, checkpoints, tuned models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from deepwell.storage.tables import (
    fine_tuned_models,
    fine_tuning_checkpoints,
    fine_tuning_events,
    fine_tuning_jobs,
)

__all__ = [
    "CHECKPOINT_COLUMNS",
    "EVENT_COLUMNS",
    "JOB_COLUMNS",
    "MODEL_COLUMNS",
    "OPEN",
    "EventLevel",
    "FineTuningStatus",
    "StoredCheckpoint",
    "StoredEvent",
    "StoredFineTuning",
    "TunedModel",
]

FineTuningStatus = Literal["queued", "running", "paused", "succeeded", "failed", "cancelled"]
EventLevel = Literal["info", "warn", "error"]

OPEN: Final[tuple[FineTuningStatus, ...]] = ("queued", "running", "paused")
"""States of a job that has not ended."""


@dataclass(frozen=True, slots=True)
class StoredFineTuning:
    """One fine-tuning job.

    Attributes:
        training_sha256: bytes of the training file, kept while the job needs them; None: it has ended.
        hyperparameters, options, metadata, error: JSON.
        starts: times that the training process was started since the last checkpoint.
        step: place of the last event of a step or a validation.
    """

    id: str
    status: FineTuningStatus
    model: str
    training_file: str
    training_sha256: str | None
    validation_file: str | None
    validation_sha256: str | None
    suffix: str
    seed: int
    hyperparameters: str
    options: str
    metadata: str | None
    created_at: int
    fine_tuned_model: str | None = None
    result_file: str | None = None
    trained_tokens: int | None = None
    error: str | None = None
    finished_at: int | None = None
    estimated_finish: int | None = None
    starts: int = 0
    step: int = 0

    @property
    def ended(self) -> bool:
        """True if the job no longer changes."""
        return self.status not in OPEN


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """One event of a job. `data` is JSON."""

    id: str
    created_at: int
    level: EventLevel
    type: Literal["message", "metrics"]
    message: str
    data: str | None = None


@dataclass(frozen=True, slots=True)
class StoredCheckpoint:
    """One checkpoint of a job. `folder` is that of its adapter within the run's; `metrics` is JSON."""

    id: str
    job_id: str
    step: int
    folder: str
    metrics: str
    created_at: int


@dataclass(frozen=True, slots=True)
class TunedModel:
    """A model that a job made.

    Attributes:
        step: of the checkpoint that it is; None: the end of the training.
        folder: that of its adapter, within the run's.
    """

    tenant: str
    name: str
    base: str
    job_id: str
    step: int | None
    folder: str
    created_at: int


JOB_COLUMNS: Final = [fine_tuning_jobs.c[name] for name in StoredFineTuning.__dataclass_fields__]
EVENT_COLUMNS: Final = [fine_tuning_events.c[name] for name in StoredEvent.__dataclass_fields__]
CHECKPOINT_COLUMNS: Final = [
    fine_tuning_checkpoints.c[name] for name in StoredCheckpoint.__dataclass_fields__
]
MODEL_COLUMNS: Final = [fine_tuned_models.c[name] for name in TunedModel.__dataclass_fields__]
