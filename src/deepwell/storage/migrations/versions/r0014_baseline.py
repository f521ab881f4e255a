"""Baseline: every table of the first release. Databases of its revision are older than the release, and equal to it."""

from __future__ import annotations

import re

from alembic import op

revision = "0014"
down_revision = None
branch_labels = None
depends_on = None

# Columns stand in the order in which they were added before there was a baseline. What the two databases write
# differently stands in braces.
_SCHEMA = """
CREATE TABLE responses (
    tenant VARCHAR(64) NOT NULL, id VARCHAR(64) NOT NULL, created_at BIGINT NOT NULL,
    status VARCHAR(16) NOT NULL, previous_id VARCHAR(64), owner VARCHAR(64), input TEXT NOT NULL,
    body TEXT NOT NULL, events TEXT,
    CONSTRAINT pk_responses PRIMARY KEY (tenant, id)
);
CREATE INDEX ix_responses_owner ON responses (owner);
CREATE INDEX ix_responses_created_at ON responses (created_at);
CREATE INDEX ix_responses_tenant_previous_id ON responses (tenant, previous_id) WHERE previous_id IS NOT NULL;
CREATE TABLE conversations (
    tenant VARCHAR(64) NOT NULL, id VARCHAR(64) NOT NULL, created_at BIGINT NOT NULL, metadata TEXT NOT NULL,
    updated_at BIGINT NOT NULL DEFAULT '0',
    CONSTRAINT pk_conversations PRIMARY KEY (tenant, id)
);
CREATE INDEX ix_conversations_updated_at ON conversations (updated_at);
CREATE TABLE conversation_items (
    tenant VARCHAR(64) NOT NULL, conversation_id VARCHAR(64) NOT NULL, position BIGINT NOT NULL,
    id VARCHAR(64) NOT NULL, body TEXT NOT NULL,
    CONSTRAINT pk_conversation_items PRIMARY KEY (tenant, conversation_id, position),
    CONSTRAINT uq_conversation_items_tenant_conversation_id_id UNIQUE (tenant, conversation_id, id),
    CONSTRAINT fk_conversation_items_tenant_conversation_id FOREIGN KEY (tenant, conversation_id)
        REFERENCES conversations (tenant, id) ON DELETE CASCADE
);
CREATE TABLE completions (
    seq {sequence} NOT NULL, tenant VARCHAR(64) NOT NULL, id VARCHAR(64) NOT NULL, created_at BIGINT NOT NULL,
    model VARCHAR(256) NOT NULL, metadata TEXT NOT NULL, messages TEXT NOT NULL, body TEXT NOT NULL,
    end_user TEXT,
    CONSTRAINT pk_completions PRIMARY KEY (seq),
    CONSTRAINT uq_completions_tenant_id UNIQUE (tenant, id)
);
CREATE INDEX ix_completions_tenant_seq ON completions (tenant, seq);
CREATE INDEX ix_completions_created_at ON completions (created_at);
CREATE TABLE completion_metadata (
    seq {bigint} NOT NULL, key VARCHAR(64) NOT NULL, value VARCHAR(512) NOT NULL,
    CONSTRAINT pk_completion_metadata PRIMARY KEY (seq, key),
    CONSTRAINT fk_completion_metadata_seq FOREIGN KEY (seq) REFERENCES completions (seq) ON DELETE CASCADE
);
CREATE INDEX ix_completion_metadata_key_value ON completion_metadata (key, value);
CREATE TABLE jobs (
    seq {sequence} NOT NULL, tenant VARCHAR(64) NOT NULL, id VARCHAR(64) NOT NULL, kind VARCHAR(32) NOT NULL,
    status VARCHAR(16) NOT NULL, payload TEXT NOT NULL, progress TEXT, result TEXT, error TEXT,
    attempts INTEGER NOT NULL, priority INTEGER NOT NULL, created_at BIGINT NOT NULL, started_at BIGINT,
    finished_at BIGINT, owner VARCHAR(128), lease_s {double}, lease_until {double}, beat BIGINT NOT NULL,
    cancel_requested BOOLEAN NOT NULL,
    CONSTRAINT pk_jobs PRIMARY KEY (seq),
    CONSTRAINT uq_jobs_tenant_id UNIQUE (tenant, id)
);
CREATE INDEX ix_jobs_tenant_kind_seq ON jobs (tenant, kind, seq);
CREATE INDEX ix_jobs_status_priority_seq ON jobs (status, priority DESC, seq);
CREATE INDEX ix_jobs_finished_at ON jobs (finished_at);
CREATE INDEX ix_jobs_tenant_seq ON jobs (tenant, seq);
CREATE TABLE files (
    seq {sequence} NOT NULL, tenant VARCHAR(64) NOT NULL, id VARCHAR(64) NOT NULL, created_at BIGINT NOT NULL,
    expires_at BIGINT, filename VARCHAR(256) NOT NULL, purpose VARCHAR(32) NOT NULL, bytes BIGINT NOT NULL,
    sha256 VARCHAR(64) NOT NULL,
    CONSTRAINT pk_files PRIMARY KEY (seq),
    CONSTRAINT uq_files_tenant_id UNIQUE (tenant, id)
);
CREATE INDEX ix_files_tenant_seq ON files (tenant, seq);
CREATE INDEX ix_files_sha256 ON files (sha256);
CREATE INDEX ix_files_expires_at ON files (expires_at);
CREATE INDEX ix_files_created_at ON files (created_at);
CREATE TABLE uploads (
    tenant VARCHAR(64) NOT NULL, id VARCHAR(64) NOT NULL, created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL, status VARCHAR(16) NOT NULL, filename VARCHAR(256) NOT NULL,
    purpose VARCHAR(32) NOT NULL, mime_type VARCHAR(256) NOT NULL, bytes BIGINT NOT NULL,
    file_expires_after BIGINT, file_id VARCHAR(64),
    CONSTRAINT pk_uploads PRIMARY KEY (tenant, id)
);
CREATE INDEX ix_uploads_expires_at ON uploads (expires_at);
CREATE TABLE upload_parts (
    tenant VARCHAR(64) NOT NULL, upload_id VARCHAR(64) NOT NULL, id VARCHAR(64) NOT NULL,
    created_at BIGINT NOT NULL, bytes BIGINT NOT NULL, sha256 VARCHAR(64) NOT NULL,
    CONSTRAINT pk_upload_parts PRIMARY KEY (tenant, upload_id, id),
    CONSTRAINT fk_upload_parts_tenant_upload_id FOREIGN KEY (tenant, upload_id)
        REFERENCES uploads (tenant, id) ON DELETE CASCADE
);
CREATE INDEX ix_upload_parts_sha256 ON upload_parts (sha256);
CREATE TABLE batches (
    seq {sequence} NOT NULL, tenant VARCHAR(64) NOT NULL, id VARCHAR(64) NOT NULL,
    status VARCHAR(16) NOT NULL, endpoint VARCHAR(64) NOT NULL, input_file_id VARCHAR(64) NOT NULL,
    input_sha256 VARCHAR(64), completion_window VARCHAR(16) NOT NULL, metadata TEXT,
    output_expires_after BIGINT, model VARCHAR(256), errors TEXT, output_file_id VARCHAR(64),
    error_file_id VARCHAR(64), created_at BIGINT NOT NULL, expires_at BIGINT NOT NULL, in_progress_at BIGINT,
    finalizing_at BIGINT, completed_at BIGINT, failed_at BIGINT, expired_at BIGINT, cancelling_at BIGINT,
    cancelled_at BIGINT, total BIGINT NOT NULL, completed BIGINT NOT NULL, failed BIGINT NOT NULL,
    input_tokens BIGINT NOT NULL, cached_tokens BIGINT NOT NULL, output_tokens BIGINT NOT NULL,
    CONSTRAINT pk_batches PRIMARY KEY (seq),
    CONSTRAINT uq_batches_tenant_id UNIQUE (tenant, id)
);
CREATE INDEX ix_batches_tenant_seq ON batches (tenant, seq);
CREATE INDEX ix_batches_status ON batches (status);
CREATE INDEX ix_batches_input_sha256 ON batches (input_sha256);
CREATE INDEX ix_batches_created_at ON batches (created_at);
CREATE TABLE batch_lines (
    tenant VARCHAR(64) NOT NULL, batch_id VARCHAR(64) NOT NULL, line BIGINT NOT NULL, failed INTEGER NOT NULL,
    body TEXT NOT NULL, end_user TEXT,
    CONSTRAINT pk_batch_lines PRIMARY KEY (tenant, batch_id, line),
    CONSTRAINT fk_batch_lines_tenant_batch_id FOREIGN KEY (tenant, batch_id)
        REFERENCES batches (tenant, id) ON DELETE CASCADE
);
CREATE TABLE api_keys (
    id VARCHAR(64) NOT NULL, tenant VARCHAR(64) NOT NULL, name VARCHAR(256) NOT NULL,
    digest VARCHAR(64) NOT NULL, hint VARCHAR(16) NOT NULL, scopes VARCHAR(256) NOT NULL,
    requests_per_minute BIGINT, tokens_per_minute BIGINT, created_at BIGINT NOT NULL, last_used_at BIGINT,
    expires_at BIGINT, revoked_at BIGINT, audio_seconds_per_minute BIGINT, images_per_minute BIGINT,
    seal VARCHAR(64) NOT NULL DEFAULT '',
    CONSTRAINT pk_api_keys PRIMARY KEY (id),
    CONSTRAINT uq_api_keys_digest UNIQUE (digest)
);
CREATE INDEX ix_api_keys_tenant ON api_keys (tenant);
CREATE TABLE installation (
    id VARCHAR(64) NOT NULL, generation BIGINT NOT NULL,
    CONSTRAINT pk_installation PRIMARY KEY (id)
);
CREATE TABLE vector_stores (
    seq {sequence} NOT NULL, tenant VARCHAR(64) NOT NULL, id VARCHAR(64) NOT NULL, created_at BIGINT NOT NULL,
    name VARCHAR(256) NOT NULL, description TEXT, metadata TEXT NOT NULL, embedder VARCHAR(256) NOT NULL,
    embedder_hash VARCHAR(64) NOT NULL, dimensions INTEGER NOT NULL, chunking TEXT,
    expires_after_days INTEGER, last_active_at BIGINT NOT NULL, expires_at BIGINT, generation BIGINT NOT NULL,
    removals_from BIGINT NOT NULL,
    CONSTRAINT pk_vector_stores PRIMARY KEY (seq),
    CONSTRAINT uq_vector_stores_tenant_id UNIQUE (tenant, id)
);
CREATE INDEX ix_vector_stores_tenant_seq ON vector_stores (tenant, seq);
CREATE INDEX ix_vector_stores_expires_at ON vector_stores (expires_at);
CREATE TABLE vector_store_files (
    seq {sequence} NOT NULL, tenant VARCHAR(64) NOT NULL, store_id VARCHAR(64) NOT NULL,
    file_id VARCHAR(64) NOT NULL, created_at BIGINT NOT NULL, status VARCHAR(16) NOT NULL,
    error_code VARCHAR(32), error TEXT, usage_bytes BIGINT NOT NULL, attributes TEXT NOT NULL, chunking TEXT,
    batch_id VARCHAR(64), job_id VARCHAR(64), source_id VARCHAR(64), uri TEXT, version VARCHAR(256),
    digest VARCHAR(64),
    CONSTRAINT pk_vector_store_files PRIMARY KEY (seq),
    CONSTRAINT uq_vector_store_files_tenant_store_id_file_id UNIQUE (tenant, store_id, file_id),
    CONSTRAINT fk_vector_store_files_tenant_store_id FOREIGN KEY (tenant, store_id)
        REFERENCES vector_stores (tenant, id) ON DELETE CASCADE
);
CREATE INDEX ix_vector_store_files_tenant_store_id_seq ON vector_store_files (tenant, store_id, seq);
CREATE INDEX ix_vector_store_files_tenant_file_id ON vector_store_files (tenant, file_id);
CREATE INDEX ix_vector_store_files_batch_id ON vector_store_files (batch_id);
CREATE TABLE vector_store_batches (
    tenant VARCHAR(64) NOT NULL, id VARCHAR(64) NOT NULL, store_id VARCHAR(64) NOT NULL,
    created_at BIGINT NOT NULL, cancelled_at BIGINT,
    CONSTRAINT pk_vector_store_batches PRIMARY KEY (tenant, id),
    CONSTRAINT fk_vector_store_batches_tenant_store_id FOREIGN KEY (tenant, store_id)
        REFERENCES vector_stores (tenant, id) ON DELETE CASCADE
);
CREATE TABLE vector_store_sources (
    seq {sequence} NOT NULL, tenant VARCHAR(64) NOT NULL, store_id VARCHAR(64) NOT NULL,
    id VARCHAR(64) NOT NULL, created_at BIGINT NOT NULL, spec TEXT NOT NULL, checked_at BIGINT, error TEXT,
    CONSTRAINT pk_vector_store_sources PRIMARY KEY (seq),
    CONSTRAINT uq_vector_store_sources_tenant_id UNIQUE (tenant, id),
    CONSTRAINT fk_vector_store_sources_tenant_store_id FOREIGN KEY (tenant, store_id)
        REFERENCES vector_stores (tenant, id) ON DELETE CASCADE
);
CREATE INDEX ix_vector_store_sources_tenant_store_id_seq ON vector_store_sources (tenant, store_id, seq);
CREATE TABLE documents (
    tenant VARCHAR(64) NOT NULL, digest VARCHAR(64) NOT NULL, created_at BIGINT NOT NULL, body TEXT NOT NULL,
    CONSTRAINT pk_documents PRIMARY KEY (tenant, digest)
);
CREATE TABLE chunks (
    key {sequence} NOT NULL CONSTRAINT pk_chunks PRIMARY KEY{autoincrement}, tenant VARCHAR(64) NOT NULL,
    store_id VARCHAR(64) NOT NULL, file_id VARCHAR(64) NOT NULL, generation BIGINT NOT NULL,
    position INTEGER NOT NULL, digest VARCHAR(64) NOT NULL, text TEXT NOT NULL, start BIGINT NOT NULL,
    "end" BIGINT NOT NULL, place TEXT NOT NULL, tokens INTEGER NOT NULL,
    CONSTRAINT fk_chunks_tenant_store_id FOREIGN KEY (tenant, store_id)
        REFERENCES vector_stores (tenant, id) ON DELETE CASCADE
);
CREATE INDEX ix_chunks_tenant_store_id_generation ON chunks (tenant, store_id, generation, key);
CREATE INDEX ix_chunks_tenant_store_id_file_id ON chunks (tenant, store_id, file_id);
CREATE INDEX ix_chunks_tenant_digest ON chunks (tenant, digest);
CREATE TABLE embeddings (
    tenant VARCHAR(64) NOT NULL, embedder_hash VARCHAR(64) NOT NULL, digest VARCHAR(64) NOT NULL,
    vector {blob} NOT NULL, created_at BIGINT NOT NULL,
    CONSTRAINT pk_embeddings PRIMARY KEY (tenant, embedder_hash, digest)
);
CREATE TABLE chunk_removals (
    seq {sequence} NOT NULL, tenant VARCHAR(64) NOT NULL, store_id VARCHAR(64) NOT NULL,
    generation BIGINT NOT NULL, created_at BIGINT NOT NULL, keys TEXT NOT NULL,
    CONSTRAINT pk_chunk_removals PRIMARY KEY (seq),
    CONSTRAINT fk_chunk_removals_tenant_store_id FOREIGN KEY (tenant, store_id)
        REFERENCES vector_stores (tenant, id) ON DELETE CASCADE
);
CREATE INDEX ix_chunk_removals_tenant_store_id_generation ON chunk_removals (tenant, store_id, generation);
CREATE INDEX ix_chunk_removals_created_at ON chunk_removals (created_at);
CREATE TABLE audit_chains (
    id VARCHAR(32) NOT NULL, tenant VARCHAR(64), salt VARCHAR(64), created_at BIGINT NOT NULL,
    sequence BIGINT NOT NULL, hash VARCHAR(64) NOT NULL, pruned_sequence BIGINT NOT NULL,
    pruned_hash VARCHAR(64) NOT NULL,
    CONSTRAINT pk_audit_chains PRIMARY KEY (id),
    CONSTRAINT uq_audit_chains_tenant UNIQUE (tenant)
);
CREATE TABLE audit_entries (
    chain VARCHAR(32) NOT NULL, sequence BIGINT NOT NULL, at_ms BIGINT NOT NULL, entry TEXT NOT NULL,
    hash VARCHAR(64) NOT NULL,
    CONSTRAINT pk_audit_entries PRIMARY KEY (chain, sequence),
    CONSTRAINT fk_audit_entries_chain FOREIGN KEY (chain) REFERENCES audit_chains (id)
){without_rowid};
CREATE TABLE audit_persons (
    chain VARCHAR(32) NOT NULL, digest VARCHAR(64) NOT NULL, pseudonym VARCHAR(32) NOT NULL,
    created_at BIGINT NOT NULL,
    CONSTRAINT pk_audit_persons PRIMARY KEY (chain, digest),
    CONSTRAINT fk_audit_persons_chain FOREIGN KEY (chain) REFERENCES audit_chains (id)
);
CREATE TABLE audit_texts (
    chain VARCHAR(32) NOT NULL, sequence BIGINT NOT NULL, salt VARCHAR(32) NOT NULL, text TEXT NOT NULL,
    person VARCHAR(32) NOT NULL,
    CONSTRAINT pk_audit_texts PRIMARY KEY (chain, sequence),
    CONSTRAINT fk_audit_texts_chain FOREIGN KEY (chain) REFERENCES audit_chains (id)
);
CREATE INDEX ix_audit_texts_chain_person ON audit_texts (chain, person);
CREATE TABLE compliance_answers (
    seq {sequence} NOT NULL, tenant VARCHAR(64) NOT NULL, pack VARCHAR(32) NOT NULL,
    question VARCHAR(128) NOT NULL, answer TEXT NOT NULL, evidence TEXT NOT NULL,
    answered_by VARCHAR(256) NOT NULL, answered_at BIGINT NOT NULL,
    CONSTRAINT pk_compliance_answers PRIMARY KEY (seq)
);
CREATE INDEX ix_compliance_answers_tenant_pack_question ON compliance_answers (tenant, pack, question, seq);
CREATE TABLE erasures (
    seq {sequence} NOT NULL, id VARCHAR(64) NOT NULL, scope VARCHAR(16) NOT NULL,
    requested_at BIGINT NOT NULL, finished_at BIGINT NOT NULL, counts TEXT NOT NULL,
    CONSTRAINT pk_erasures PRIMARY KEY (seq),
    CONSTRAINT uq_erasures_id UNIQUE (id)
);
CREATE TABLE model_aliases (
    seq {sequence} NOT NULL, name VARCHAR(128) NOT NULL, model VARCHAR(256) NOT NULL,
    changed_at BIGINT NOT NULL, changed_by VARCHAR(64) NOT NULL, candidate VARCHAR(256), share {float},
    rollout VARCHAR(64),
    CONSTRAINT pk_model_aliases PRIMARY KEY (seq),
    CONSTRAINT uq_model_aliases_name UNIQUE (name)
);
CREATE TABLE model_alias_changes (
    seq {sequence} NOT NULL CONSTRAINT pk_model_alias_changes PRIMARY KEY{autoincrement},
    id VARCHAR(64) NOT NULL, name VARCHAR(128) NOT NULL, model VARCHAR(256), changed_at BIGINT NOT NULL,
    changed_by VARCHAR(64) NOT NULL, candidate VARCHAR(256), share {float},
    CONSTRAINT uq_model_alias_changes_id UNIQUE (id)
);
CREATE INDEX ix_model_alias_changes_name_seq ON model_alias_changes (name, seq);
CREATE TABLE usage (
    tenant VARCHAR(64) NOT NULL, hour BIGINT NOT NULL, key_id VARCHAR(64) NOT NULL,
    model VARCHAR(256) NOT NULL, requests BIGINT NOT NULL, input_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL, cached_tokens BIGINT NOT NULL,
    CONSTRAINT pk_usage PRIMARY KEY (tenant, hour, key_id, model)
);
CREATE TABLE feedback (
    seq {sequence} NOT NULL, tenant VARCHAR(64) NOT NULL, id VARCHAR(64) NOT NULL,
    target_id VARCHAR(128) NOT NULL, rating VARCHAR(8) NOT NULL, reason TEXT, model VARCHAR(256),
    messages TEXT, end_user TEXT, created_at BIGINT NOT NULL, correction TEXT,
    consent BOOLEAN NOT NULL DEFAULT {false}, verified BOOLEAN NOT NULL DEFAULT {false},
    voter VARCHAR(64) NOT NULL DEFAULT '', source VARCHAR(16) NOT NULL DEFAULT 'api',
    key_id VARCHAR(64) NOT NULL DEFAULT '',
    CONSTRAINT pk_feedback PRIMARY KEY (seq),
    CONSTRAINT uq_feedback_tenant_id UNIQUE (tenant, id)
);
CREATE INDEX ix_feedback_tenant_rating_seq ON feedback (tenant, rating, seq);
CREATE UNIQUE INDEX uq_feedback_tenant_target_id_voter ON feedback (tenant, target_id, voter);
CREATE INDEX ix_feedback_tenant_voter_created_at ON feedback (tenant, voter, created_at);
CREATE INDEX ix_feedback_tenant_created_at ON feedback (tenant, created_at);
CREATE TABLE fine_tuning_jobs (
    seq {sequence} NOT NULL, tenant VARCHAR(64) NOT NULL, id VARCHAR(64) NOT NULL,
    status VARCHAR(16) NOT NULL, model VARCHAR(256) NOT NULL, training_file VARCHAR(64) NOT NULL,
    training_sha256 VARCHAR(64), validation_file VARCHAR(64), validation_sha256 VARCHAR(64),
    suffix VARCHAR(64) NOT NULL, seed BIGINT NOT NULL, hyperparameters TEXT NOT NULL, options TEXT NOT NULL,
    metadata TEXT, fine_tuned_model VARCHAR(256), result_file VARCHAR(64), trained_tokens BIGINT, error TEXT,
    created_at BIGINT NOT NULL, finished_at BIGINT, estimated_finish BIGINT, starts INTEGER NOT NULL,
    step BIGINT NOT NULL,
    CONSTRAINT pk_fine_tuning_jobs PRIMARY KEY (seq),
    CONSTRAINT uq_fine_tuning_jobs_tenant_id UNIQUE (tenant, id)
);
CREATE INDEX ix_fine_tuning_jobs_tenant_seq ON fine_tuning_jobs (tenant, seq);
CREATE INDEX ix_fine_tuning_jobs_status ON fine_tuning_jobs (status);
CREATE INDEX ix_fine_tuning_jobs_training_sha256 ON fine_tuning_jobs (training_sha256);
CREATE INDEX ix_fine_tuning_jobs_validation_sha256 ON fine_tuning_jobs (validation_sha256);
CREATE TABLE fine_tuning_events (
    seq {sequence} NOT NULL, tenant VARCHAR(64) NOT NULL, job_id VARCHAR(64) NOT NULL,
    id VARCHAR(64) NOT NULL, created_at BIGINT NOT NULL, level VARCHAR(8) NOT NULL, type VARCHAR(16) NOT NULL,
    message TEXT NOT NULL, data TEXT,
    CONSTRAINT pk_fine_tuning_events PRIMARY KEY (seq),
    CONSTRAINT uq_fine_tuning_events_tenant_id UNIQUE (tenant, id)
);
CREATE INDEX ix_fine_tuning_events_tenant_job_id_seq ON fine_tuning_events (tenant, job_id, seq);
CREATE TABLE fine_tuning_checkpoints (
    seq {sequence} NOT NULL, tenant VARCHAR(64) NOT NULL, job_id VARCHAR(64) NOT NULL,
    id VARCHAR(64) NOT NULL, step BIGINT NOT NULL, folder VARCHAR(256) NOT NULL, metrics TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    CONSTRAINT pk_fine_tuning_checkpoints PRIMARY KEY (seq),
    CONSTRAINT uq_fine_tuning_checkpoints_tenant_id UNIQUE (tenant, id)
);
CREATE UNIQUE INDEX ix_fine_tuning_checkpoints_tenant_job_id_step
    ON fine_tuning_checkpoints (tenant, job_id, step);
CREATE TABLE fine_tuned_models (
    seq {sequence} NOT NULL, tenant VARCHAR(64) NOT NULL, name VARCHAR(256) NOT NULL,
    base VARCHAR(256) NOT NULL, job_id VARCHAR(64) NOT NULL, step BIGINT, folder VARCHAR(256) NOT NULL,
    created_at BIGINT NOT NULL,
    CONSTRAINT pk_fine_tuned_models PRIMARY KEY (seq),
    CONSTRAINT uq_fine_tuned_models_tenant_name UNIQUE (tenant, name)
);
CREATE INDEX ix_fine_tuned_models_tenant_job_id ON fine_tuned_models (tenant, job_id);
CREATE TABLE evals (
    seq {sequence} NOT NULL, tenant VARCHAR(64) NOT NULL, id VARCHAR(64) NOT NULL, name VARCHAR(512) NOT NULL,
    data_source_config TEXT NOT NULL, testing_criteria TEXT NOT NULL, metadata TEXT,
    created_at BIGINT NOT NULL, updated BIGINT NOT NULL,
    CONSTRAINT pk_evals PRIMARY KEY (seq),
    CONSTRAINT uq_evals_tenant_id UNIQUE (tenant, id)
);
CREATE INDEX ix_evals_tenant_seq ON evals (tenant, seq);
CREATE TABLE eval_runs (
    seq {sequence} NOT NULL, tenant VARCHAR(64) NOT NULL, id VARCHAR(64) NOT NULL,
    eval_id VARCHAR(64) NOT NULL, name VARCHAR(512) NOT NULL, status VARCHAR(16) NOT NULL,
    model VARCHAR(256) NOT NULL, data_source TEXT NOT NULL, source_sha256 VARCHAR(64), metadata TEXT,
    error TEXT, summary TEXT, created_at BIGINT NOT NULL, total BIGINT NOT NULL,
    CONSTRAINT pk_eval_runs PRIMARY KEY (seq),
    CONSTRAINT uq_eval_runs_tenant_id UNIQUE (tenant, id)
);
CREATE INDEX ix_eval_runs_tenant_eval_id_seq ON eval_runs (tenant, eval_id, seq);
CREATE INDEX ix_eval_runs_status ON eval_runs (status);
CREATE INDEX ix_eval_runs_source_sha256 ON eval_runs (source_sha256);
CREATE TABLE eval_output_items (
    tenant VARCHAR(64) NOT NULL, run_id VARCHAR(64) NOT NULL, number BIGINT NOT NULL,
    status VARCHAR(8) NOT NULL, body TEXT NOT NULL, created_at BIGINT NOT NULL,
    CONSTRAINT pk_eval_output_items PRIMARY KEY (tenant, run_id, number)
);
CREATE INDEX ix_eval_output_items_tenant_run_id_status ON eval_output_items (tenant, run_id, status, number);
CREATE TABLE labelling_projects (
    seq {sequence} NOT NULL, tenant VARCHAR(64) NOT NULL, id VARCHAR(64) NOT NULL, name TEXT NOT NULL,
    file_id VARCHAR(64) NOT NULL, classes TEXT NOT NULL, strategy VARCHAR(16) NOT NULL, items BIGINT NOT NULL,
    unreadable BIGINT NOT NULL, actions BIGINT NOT NULL, created_at BIGINT NOT NULL,
    CONSTRAINT pk_labelling_projects PRIMARY KEY (seq),
    CONSTRAINT uq_labelling_projects_tenant_id UNIQUE (tenant, id)
);
CREATE TABLE labelling_items (
    tenant VARCHAR(64) NOT NULL, project_id VARCHAR(64) NOT NULL, position BIGINT NOT NULL,
    text TEXT NOT NULL, record TEXT, label VARCHAR(128), skipped BIGINT NOT NULL, action BIGINT,
    CONSTRAINT pk_labelling_items PRIMARY KEY (tenant, project_id, position)
);
CREATE INDEX ix_labelling_items_action ON labelling_items (tenant, project_id, action);
CREATE TABLE rating_studies (
    seq {sequence} NOT NULL, tenant VARCHAR(64) NOT NULL, id VARCHAR(64) NOT NULL, name TEXT NOT NULL,
    file_id VARCHAR(64) NOT NULL, first TEXT NOT NULL, second TEXT NOT NULL, pairs BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    CONSTRAINT pk_rating_studies PRIMARY KEY (seq),
    CONSTRAINT uq_rating_studies_tenant_id UNIQUE (tenant, id)
);
CREATE TABLE rating_pairs (
    tenant VARCHAR(64) NOT NULL, study_id VARCHAR(64) NOT NULL, position BIGINT NOT NULL,
    prompt TEXT NOT NULL, first TEXT NOT NULL, second TEXT NOT NULL,
    CONSTRAINT pk_rating_pairs PRIMARY KEY (tenant, study_id, position)
);
CREATE TABLE rating_votes (
    seq {sequence} NOT NULL, tenant VARCHAR(64) NOT NULL, study_id VARCHAR(64) NOT NULL,
    position BIGINT NOT NULL, rater VARCHAR(64) NOT NULL, choice VARCHAR(8) NOT NULL,
    created_at BIGINT NOT NULL,
    CONSTRAINT pk_rating_votes PRIMARY KEY (seq),
    CONSTRAINT uq_rating_votes_tenant_study_id_rater_position UNIQUE (tenant, study_id, rater, position)
);
CREATE TABLE model_ledger (
    sequence BIGINT NOT NULL, at_ms BIGINT NOT NULL, alias VARCHAR(128) NOT NULL, entry TEXT NOT NULL,
    hash VARCHAR(64) NOT NULL,
    CONSTRAINT pk_model_ledger PRIMARY KEY (sequence)
);
CREATE INDEX ix_model_ledger_alias_sequence ON model_ledger (alias, sequence);
CREATE TABLE model_ledger_head (
    id INTEGER NOT NULL, sequence BIGINT NOT NULL, hash VARCHAR(64) NOT NULL,
    CONSTRAINT pk_model_ledger_head PRIMARY KEY (id)
);
CREATE TABLE media_usage (
    tenant VARCHAR(64) NOT NULL, hour BIGINT NOT NULL, key_id VARCHAR(64) NOT NULL,
    model VARCHAR(256) NOT NULL, source VARCHAR(32) NOT NULL, size VARCHAR(16) NOT NULL,
    requests BIGINT NOT NULL, characters BIGINT NOT NULL, milliseconds BIGINT NOT NULL,
    images BIGINT NOT NULL,
    CONSTRAINT pk_media_usage PRIMARY KEY (tenant, hour, key_id, model, source, size)
);
CREATE TABLE agent_runs (
    seq {sequence} NOT NULL, tenant VARCHAR(64) NOT NULL, id VARCHAR(64) NOT NULL,
    status VARCHAR(16) NOT NULL, model VARCHAR(256) NOT NULL, task TEXT NOT NULL, request TEXT NOT NULL,
    text TEXT NOT NULL, reason TEXT NOT NULL, reached VARCHAR(16), pending TEXT NOT NULL,
    turns BIGINT NOT NULL, calls BIGINT NOT NULL, prompt_tokens BIGINT NOT NULL,
    completion_tokens BIGINT NOT NULL, seconds {float} NOT NULL, created_at BIGINT NOT NULL,
    finished_at BIGINT,
    CONSTRAINT pk_agent_runs PRIMARY KEY (seq),
    CONSTRAINT uq_agent_runs_tenant_id UNIQUE (tenant, id)
);
CREATE INDEX ix_agent_runs_tenant_seq ON agent_runs (tenant, seq);
CREATE INDEX ix_agent_runs_finished_at ON agent_runs (finished_at);
CREATE TABLE agent_steps (
    tenant VARCHAR(64) NOT NULL, run_id VARCHAR(64) NOT NULL, number BIGINT NOT NULL,
    kind VARCHAR(16) NOT NULL, body TEXT NOT NULL,
    CONSTRAINT pk_agent_steps PRIMARY KEY (tenant, run_id, number)
);
CREATE TABLE prompts (
    seq {sequence} NOT NULL, tenant VARCHAR(64) NOT NULL, id VARCHAR(64) NOT NULL, current BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    CONSTRAINT pk_prompts PRIMARY KEY (seq),
    CONSTRAINT uq_prompts_tenant_id UNIQUE (tenant, id)
);
CREATE INDEX ix_prompts_tenant_seq ON prompts (tenant, seq);
CREATE TABLE prompt_versions (
    tenant VARCHAR(64) NOT NULL, prompt_id VARCHAR(64) NOT NULL, number BIGINT NOT NULL, body TEXT NOT NULL,
    sha256 VARCHAR(64) NOT NULL, created_at BIGINT NOT NULL,
    CONSTRAINT pk_prompt_versions PRIMARY KEY (tenant, prompt_id, number)
);
"""

_WORDS = {
    "sqlite": {
        "sequence": "INTEGER",
        "bigint": "INTEGER",
        "double": "DOUBLE",
        "float": "FLOAT",
        "blob": "BLOB",
        "false": "0",
        "autoincrement": " AUTOINCREMENT",
        "without_rowid": " WITHOUT ROWID",
    },
    "postgresql": {
        "sequence": "BIGSERIAL",
        "bigint": "BIGINT",
        "double": "DOUBLE PRECISION",
        "float": "DOUBLE PRECISION",
        "blob": "BYTEA",
        "false": "false",
        "autoincrement": "",
        "without_rowid": "",
    },
}


def upgrade() -> None:
    """Creates the tables and their indexes."""
    connection = op.get_bind()
    for statement in _SCHEMA.format_map(_WORDS[connection.dialect.name]).split(";"):
        if statement.strip():
            connection.exec_driver_sql(statement.strip())


def downgrade() -> None:
    """Drops the tables, those that refer to others first."""
    for table in reversed(re.findall(r"CREATE TABLE (\w+)", _SCHEMA)):
        op.drop_table(table)
