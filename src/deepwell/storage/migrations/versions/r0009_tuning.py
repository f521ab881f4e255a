"""Tuning: fine-tuning jobs and evaluations, labelling projects, and ratings of pairs of answers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_Sequence = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Creates the tables."""
    _create_fine_tuning()
    _create_labelling()
    _create_ratings()


def _create_fine_tuning() -> None:
    _create_fine_tuning_jobs()
    _create_fine_tuned()
    _create_evals()


def _create_fine_tuning_jobs() -> None:
    op.create_table(
        "fine_tuning_jobs",
        sa.Column("seq", _Sequence, autoincrement=True, nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("model", sa.String(256), nullable=False),
        sa.Column("training_file", sa.String(64), nullable=False),
        sa.Column("training_sha256", sa.String(64)),
        sa.Column("validation_file", sa.String(64)),
        sa.Column("validation_sha256", sa.String(64)),
        sa.Column("suffix", sa.String(64), nullable=False),
        sa.Column("seed", sa.BigInteger, nullable=False),
        sa.Column("hyperparameters", sa.Text, nullable=False),
        sa.Column("options", sa.Text, nullable=False),
        sa.Column("metadata", sa.Text),
        sa.Column("fine_tuned_model", sa.String(256)),
        sa.Column("result_file", sa.String(64)),
        sa.Column("trained_tokens", sa.BigInteger),
        sa.Column("error", sa.Text),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("finished_at", sa.BigInteger),
        sa.Column("estimated_finish", sa.BigInteger),
        sa.Column("starts", sa.Integer, nullable=False),
        sa.Column("step", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("tenant", "id", name="uq_fine_tuning_jobs_tenant_id"),
        sa.PrimaryKeyConstraint("seq", name="pk_fine_tuning_jobs"),
    )
    op.create_index("ix_fine_tuning_jobs_tenant_seq", "fine_tuning_jobs", ["tenant", "seq"])
    op.create_index("ix_fine_tuning_jobs_status", "fine_tuning_jobs", ["status"])
    op.create_index("ix_fine_tuning_jobs_training_sha256", "fine_tuning_jobs", ["training_sha256"])
    op.create_index("ix_fine_tuning_jobs_validation_sha256", "fine_tuning_jobs", ["validation_sha256"])
    op.create_table(
        "fine_tuning_events",
        sa.Column("seq", _Sequence, autoincrement=True, nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("job_id", sa.String(64), nullable=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("level", sa.String(8), nullable=False),
        sa.Column("type", sa.String(16), nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("data", sa.Text),
        sa.UniqueConstraint("tenant", "id", name="uq_fine_tuning_events_tenant_id"),
        sa.PrimaryKeyConstraint("seq", name="pk_fine_tuning_events"),
    )
    op.create_index(
        "ix_fine_tuning_events_tenant_job_id_seq", "fine_tuning_events", ["tenant", "job_id", "seq"]
    )


def _create_fine_tuned() -> None:
    op.create_table(
        "fine_tuning_checkpoints",
        sa.Column("seq", _Sequence, autoincrement=True, nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("job_id", sa.String(64), nullable=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("step", sa.BigInteger, nullable=False),
        sa.Column("folder", sa.String(256), nullable=False),
        sa.Column("metrics", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("tenant", "id", name="uq_fine_tuning_checkpoints_tenant_id"),
        sa.PrimaryKeyConstraint("seq", name="pk_fine_tuning_checkpoints"),
    )
    op.create_index(
        "ix_fine_tuning_checkpoints_tenant_job_id_step",
        "fine_tuning_checkpoints",
        ["tenant", "job_id", "step"],
        unique=True,
    )
    op.create_table(
        "fine_tuned_models",
        sa.Column("seq", _Sequence, autoincrement=True, nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("name", sa.String(256), nullable=False),
        sa.Column("base", sa.String(256), nullable=False),
        sa.Column("job_id", sa.String(64), nullable=False),
        sa.Column("step", sa.BigInteger),
        sa.Column("folder", sa.String(256), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("tenant", "name", name="uq_fine_tuned_models_tenant_name"),
        sa.PrimaryKeyConstraint("seq", name="pk_fine_tuned_models"),
    )
    op.create_index("ix_fine_tuned_models_tenant_job_id", "fine_tuned_models", ["tenant", "job_id"])


def _create_evals() -> None:
    op.create_table(
        "evals",
        sa.Column("seq", _Sequence, autoincrement=True, nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("name", sa.String(512), nullable=False),
        sa.Column("data_source_config", sa.Text, nullable=False),
        sa.Column("testing_criteria", sa.Text, nullable=False),
        sa.Column("metadata", sa.Text),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("tenant", "id", name="uq_evals_tenant_id"),
        sa.PrimaryKeyConstraint("seq", name="pk_evals"),
    )
    op.create_index("ix_evals_tenant_seq", "evals", ["tenant", "seq"])
    op.create_table(
        "eval_runs",
        sa.Column("seq", _Sequence, autoincrement=True, nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("eval_id", sa.String(64), nullable=False),
        sa.Column("name", sa.String(512), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("model", sa.String(256), nullable=False),
        sa.Column("data_source", sa.Text, nullable=False),
        sa.Column("source_sha256", sa.String(64)),
        sa.Column("metadata", sa.Text),
        sa.Column("error", sa.Text),
        sa.Column("summary", sa.Text),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("total", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("tenant", "id", name="uq_eval_runs_tenant_id"),
        sa.PrimaryKeyConstraint("seq", name="pk_eval_runs"),
    )
    op.create_index("ix_eval_runs_tenant_eval_id_seq", "eval_runs", ["tenant", "eval_id", "seq"])
    op.create_index("ix_eval_runs_status", "eval_runs", ["status"])
    op.create_index("ix_eval_runs_source_sha256", "eval_runs", ["source_sha256"])
    op.create_table(
        "eval_output_items",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("run_id", sa.String(64), nullable=False),
        sa.Column("number", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("status", sa.String(8), nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "run_id", "number", name="pk_eval_output_items"),
    )
    op.create_index(
        "ix_eval_output_items_tenant_run_id_status",
        "eval_output_items",
        ["tenant", "run_id", "status", "number"],
    )


def _create_labelling() -> None:
    op.create_table(
        "labelling_projects",
        sa.Column("seq", _Sequence, autoincrement=True, nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("file_id", sa.String(64), nullable=False),
        sa.Column("classes", sa.Text, nullable=False),
        sa.Column("strategy", sa.String(16), nullable=False),
        sa.Column("items", sa.BigInteger, nullable=False),
        sa.Column("unreadable", sa.BigInteger, nullable=False),
        sa.Column("actions", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_labelling_projects"),
        sa.UniqueConstraint("tenant", "id", name="uq_labelling_projects_tenant_id"),
    )
    op.create_table(
        "labelling_items",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("project_id", sa.String(64), nullable=False),
        sa.Column("position", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("record", sa.Text),
        sa.Column("label", sa.String(128)),
        sa.Column("skipped", sa.BigInteger, nullable=False),
        sa.Column("action", sa.BigInteger),
        sa.PrimaryKeyConstraint("tenant", "project_id", "position", name="pk_labelling_items"),
    )
    op.create_index("ix_labelling_items_action", "labelling_items", ["tenant", "project_id", "action"])


def _create_ratings() -> None:
    op.create_table(
        "rating_studies",
        sa.Column("seq", _Sequence, autoincrement=True, nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("file_id", sa.String(64), nullable=False),
        sa.Column("first", sa.Text, nullable=False),
        sa.Column("second", sa.Text, nullable=False),
        sa.Column("pairs", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_rating_studies"),
        sa.UniqueConstraint("tenant", "id", name="uq_rating_studies_tenant_id"),
    )
    op.create_table(
        "rating_pairs",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("study_id", sa.String(64), nullable=False),
        sa.Column("position", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("prompt", sa.Text, nullable=False),
        sa.Column("first", sa.Text, nullable=False),
        sa.Column("second", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "study_id", "position", name="pk_rating_pairs"),
    )
    op.create_table(
        "rating_votes",
        sa.Column("seq", _Sequence, autoincrement=True, nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("study_id", sa.String(64), nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("rater", sa.String(64), nullable=False),
        sa.Column("choice", sa.String(8), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_rating_votes"),
        sa.UniqueConstraint(
            "tenant", "study_id", "rater", "position", name="uq_rating_votes_tenant_study_id_rater_position"
        ),
    )


_TABLES: tuple[str, ...] = (
    "rating_votes",
    "rating_pairs",
    "rating_studies",
    "labelling_items",
    "labelling_projects",
    "eval_output_items",
    "eval_runs",
    "evals",
    "fine_tuned_models",
    "fine_tuning_checkpoints",
    "fine_tuning_events",
    "fine_tuning_jobs",
)  # the last made first


def downgrade() -> None:
    """Drops them."""
    for table in _TABLES:
        op.drop_table(table)
