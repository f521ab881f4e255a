"""Tables of tuning: fine-tuning jobs with their events and checkpoints, tuned models, and evaluations with their runs."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, String, Table, Text, UniqueConstraint

from deepwell.storage.tables.base import Sequence, metadata

__all__ = [
    "eval_output_items",
    "eval_runs",
    "evals",
    "fine_tuned_models",
    "fine_tuning_checkpoints",
    "fine_tuning_events",
    "fine_tuning_jobs",
]

fine_tuning_jobs = Table(
    "fine_tuning_jobs",
    metadata,
    Column("seq", Sequence, primary_key=True, autoincrement=True),
    Column("tenant", String(64), nullable=False),
    Column("id", String(64), nullable=False),
    Column("status", String(16), nullable=False),
    Column("model", String(256), nullable=False),  # the base
    Column("training_file", String(64), nullable=False),
    Column("training_sha256", String(64)),  # keeps the bytes while the job needs them
    Column("validation_file", String(64)),
    Column("validation_sha256", String(64)),
    Column("suffix", String(64), nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("hyperparameters", Text, nullable=False),  # JSON, as the client asked
    Column("options", Text, nullable=False),  # JSON: sections of the run's configuration
    Column("metadata", Text),  # JSON
    Column("fine_tuned_model", String(256)),
    Column("result_file", String(64)),
    Column("trained_tokens", BigInteger),
    Column("error", Text),  # JSON
    Column("created_at", BigInteger, nullable=False),
    Column("finished_at", BigInteger),
    Column("estimated_finish", BigInteger),
    Column("starts", Integer, nullable=False),  # of the training process since the last checkpoint
    Column("step", BigInteger, nullable=False),  # place of the last event of a step or a validation
    UniqueConstraint("tenant", "id"),
    Index("ix_fine_tuning_jobs_tenant_seq", "tenant", "seq"),
    Index("ix_fine_tuning_jobs_status", "status"),
    Index("ix_fine_tuning_jobs_training_sha256", "training_sha256"),
    Index("ix_fine_tuning_jobs_validation_sha256", "validation_sha256"),
)

fine_tuning_events = Table(
    "fine_tuning_events",
    metadata,
    Column("seq", Sequence, primary_key=True, autoincrement=True),
    Column("tenant", String(64), nullable=False),
    Column("job_id", String(64), nullable=False),
    Column("id", String(64), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("level", String(8), nullable=False),
    Column("type", String(16), nullable=False),
    Column("message", Text, nullable=False),
    Column("data", Text),  # JSON
    UniqueConstraint("tenant", "id"),
    Index("ix_fine_tuning_events_tenant_job_id_seq", "tenant", "job_id", "seq"),
)

fine_tuning_checkpoints = Table(
    "fine_tuning_checkpoints",
    metadata,
    Column("seq", Sequence, primary_key=True, autoincrement=True),
    Column("tenant", String(64), nullable=False),
    Column("job_id", String(64), nullable=False),
    Column("id", String(64), nullable=False),
    Column("step", BigInteger, nullable=False),
    Column("folder", String(256), nullable=False),  # of its adapter, within the run's
    Column("metrics", Text, nullable=False),  # JSON
    Column("created_at", BigInteger, nullable=False),
    UniqueConstraint("tenant", "id"),
    Index("ix_fine_tuning_checkpoints_tenant_job_id_step", "tenant", "job_id", "step", unique=True),
)

fine_tuned_models = Table(
    "fine_tuned_models",
    metadata,
    Column("seq", Sequence, primary_key=True, autoincrement=True),
    Column("tenant", String(64), nullable=False),
    Column("name", String(256), nullable=False),
    Column("base", String(256), nullable=False),
    Column("job_id", String(64), nullable=False),
    Column("step", BigInteger),  # of a checkpoint; NULL: the end of the training
    Column("folder", String(256), nullable=False),  # of the adapter, within the run's
    Column("created_at", BigInteger, nullable=False),
    UniqueConstraint("tenant", "name"),
    Index("ix_fine_tuned_models_tenant_job_id", "tenant", "job_id"),
)

evals = Table(
    "evals",
    metadata,
    Column("seq", Sequence, primary_key=True, autoincrement=True),
    Column("tenant", String(64), nullable=False),
    Column("id", String(64), nullable=False),
    Column("name", String(512), nullable=False),
    Column("data_source_config", Text, nullable=False),  # JSON
    Column("testing_criteria", Text, nullable=False),  # JSON
    Column("metadata", Text),  # JSON
    Column("created_at", BigInteger, nullable=False),
    Column("updated", BigInteger, nullable=False),  # rises with every change of any eval; orders a list
    UniqueConstraint("tenant", "id"),
    Index("ix_evals_tenant_seq", "tenant", "seq"),
)

eval_runs = Table(
    "eval_runs",
    metadata,
    Column("seq", Sequence, primary_key=True, autoincrement=True),
    Column("tenant", String(64), nullable=False),
    Column("id", String(64), nullable=False),
    Column("eval_id", String(64), nullable=False),
    Column("name", String(512), nullable=False),
    Column("status", String(16), nullable=False),
    Column("model", String(256), nullable=False),  # empty: the samples came with the data
    Column("data_source", Text, nullable=False),  # JSON
    Column("source_sha256", String(64)),  # keeps the bytes of the file while the run needs them
    Column("metadata", Text),  # JSON
    Column("error", Text),  # JSON
    Column("summary", Text),  # JSON: results by criterion and usage by model, once the run has ended
    Column("created_at", BigInteger, nullable=False),
    Column("total", BigInteger, nullable=False),
    UniqueConstraint("tenant", "id"),
    Index("ix_eval_runs_tenant_eval_id_seq", "tenant", "eval_id", "seq"),
    Index("ix_eval_runs_status", "status"),
    Index("ix_eval_runs_source_sha256", "source_sha256"),
)

eval_output_items = Table(
    "eval_output_items",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("run_id", String(64), primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),  # of the row in the data, from 0
    Column("status", String(8), nullable=False),  # pass, fail or error
    Column("body", Text, nullable=False),  # JSON: the row, the sample and the results of the graders
    Column("created_at", BigInteger, nullable=False),
    Index("ix_eval_output_items_tenant_run_id_status", "tenant", "run_id", "status", "number"),
)
