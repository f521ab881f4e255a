"""The bodies of `/v1/fine_tuning/jobs`."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

__all__ = [
    "CheckpointMetrics",
    "FineTuningCheckpoint",
    "FineTuningCheckpointList",
    "FineTuningDpo",
    "FineTuningDpoHyperparameters",
    "FineTuningError",
    "FineTuningEvent",
    "FineTuningEventList",
    "FineTuningHyperparameters",
    "FineTuningJob",
    "FineTuningJobList",
    "FineTuningMethod",
    "FineTuningReinforcement",
    "FineTuningReinforcementHyperparameters",
    "FineTuningSupervised",
]


class FineTuningHyperparameters(Struct):
    """Hyperparameters: numbers, or "auto"."""

    batch_size: int | Literal["auto"]
    learning_rate_multiplier: float | Literal["auto"]
    n_epochs: int | Literal["auto"]


class FineTuningSupervised(Struct):
    """The configuration of a supervised fine-tuning."""

    hyperparameters: FineTuningHyperparameters


class FineTuningDpoHyperparameters(Struct):
    """Hyperparameters of direct preference optimisation: numbers, or "auto"."""

    batch_size: int | Literal["auto"]
    learning_rate_multiplier: float | Literal["auto"]
    n_epochs: int | Literal["auto"]
    beta: float | Literal["auto"] = "auto"


class FineTuningDpo(Struct):
    """The configuration of a direct preference optimisation."""

    hyperparameters: FineTuningDpoHyperparameters


class FineTuningReinforcementHyperparameters(Struct):
    """Hyperparameters of reinforcement: numbers, or "auto"."""

    batch_size: int | Literal["auto"]
    learning_rate_multiplier: float | Literal["auto"]
    n_epochs: int | Literal["auto"]
    compute_multiplier: float | Literal["auto"] = "auto"
    eval_interval: int | Literal["auto"] = "auto"
    eval_samples: int | Literal["auto"] = "auto"
    reasoning_effort: Literal["default"] = "default"


class FineTuningReinforcement(Struct):
    """The configuration of a reinforcement."""

    grader: dict[str, Any]
    hyperparameters: FineTuningReinforcementHyperparameters


class FineTuningMethod(Struct):
    """The method, with the configuration of its type."""

    type: Literal["supervised", "dpo", "reinforcement"]
    supervised: FineTuningSupervised | UnsetType = UNSET
    dpo: FineTuningDpo | UnsetType = UNSET
    reinforcement: FineTuningReinforcement | UnsetType = UNSET


class FineTuningError(Struct):
    """The cause of a failure."""

    code: str
    message: str
    param: str | None


class FineTuningJob(Struct, tag_field="object", tag="fine_tuning.job"):
    """A fine-tuning job. One that a client has paused is queued, and `paused` is true."""

    id: str
    created_at: int
    error: FineTuningError | None
    fine_tuned_model: str | None
    finished_at: int | None
    hyperparameters: FineTuningHyperparameters
    model: str
    organization_id: str
    result_files: list[str]
    seed: int
    status: Literal["validating_files", "queued", "running", "succeeded", "failed", "cancelled"]
    trained_tokens: int | None
    training_file: str
    validation_file: str | None
    estimated_finish: int | None
    integrations: list[Any]
    metadata: dict[str, str] | None
    method: FineTuningMethod
    paused: bool
    suffix: str
    deepwell: dict[str, Any] | UnsetType = UNSET  # the sections of the configuration that the client gave


class FineTuningJobList(Struct, tag_field="object", tag="list"):
    """A page of jobs."""

    data: list[FineTuningJob]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FineTuningEvent(Struct, tag_field="object", tag="fine_tuning.job.event"):
    """An event of a job."""

    id: str
    created_at: int
    level: Literal["info", "warn", "error"]
    message: str
    type: Literal["message", "metrics"]
    data: dict[str, Any] | None


class FineTuningEventList(Struct, tag_field="object", tag="list"):
    """A page of events."""

    data: list[FineTuningEvent]
    first_id: str | None
    last_id: str | None
    has_more: bool


class CheckpointMetrics(Struct, omit_defaults=True):
    """Metrics at a step."""

    step: float
    train_loss: float | None = None
    train_mean_token_accuracy: float | None = None
    valid_loss: float | None = None
    valid_mean_token_accuracy: float | None = None
    full_valid_loss: float | None = None
    full_valid_mean_token_accuracy: float | None = None
    train_mean_reward: float | None = None
    valid_mean_reward: float | None = None
    kl: float | None = None


class FineTuningCheckpoint(Struct, tag_field="object", tag="fine_tuning.job.checkpoint"):
    """A checkpoint. The model of its name can be used once the job has succeeded."""

    id: str
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    metrics: CheckpointMetrics
    step_number: int


class FineTuningCheckpointList(Struct, tag_field="object", tag="list"):
    """A page of checkpoints."""

    data: list[FineTuningCheckpoint]
    first_id: str | None
    last_id: str | None
    has_more: bool
