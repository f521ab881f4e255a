"""Every table, in SQLAlchemy Core. A change here comes with a revision in `migrations/versions`."""

from __future__ import annotations

from deepwell.storage.tables.agents import agent_runs, agent_steps
from deepwell.storage.tables.api import (
    WITH_PREVIOUS,
    api_keys,
    batch_lines,
    batches,
    completion_metadata,
    completions,
    conversation_items,
    conversations,
    files,
    installation,
    jobs,
    responses,
    upload_parts,
    uploads,
)
from deepwell.storage.tables.base import HEAD, metadata
from deepwell.storage.tables.knowledge import (
    chunk_removals,
    chunks,
    documents,
    embeddings,
    vector_store_batches,
    vector_store_files,
    vector_store_sources,
    vector_stores,
)
from deepwell.storage.tables.labelling import labelling_items, labelling_projects
from deepwell.storage.tables.prompts import prompt_versions, prompts
from deepwell.storage.tables.ratings import rating_pairs, rating_studies, rating_votes
from deepwell.storage.tables.registry import model_ledger, model_ledger_head
from deepwell.storage.tables.safety import (
    audit_chains,
    audit_entries,
    audit_persons,
    audit_texts,
    compliance_answers,
    erasures,
)
from deepwell.storage.tables.serving import model_alias_changes, model_aliases
from deepwell.storage.tables.tuning import (
    eval_output_items,
    eval_runs,
    evals,
    fine_tuned_models,
    fine_tuning_checkpoints,
    fine_tuning_events,
    fine_tuning_jobs,
)
from deepwell.storage.tables.usage import feedback, media_usage, usage

__all__ = [
    "HEAD",
    "WITH_PREVIOUS",
    "agent_runs",
    "agent_steps",
    "api_keys",
    "audit_chains",
    "audit_entries",
    "audit_persons",
    "audit_texts",
    "batch_lines",
    "batches",
    "chunk_removals",
    "chunks",
    "completion_metadata",
    "completions",
    "compliance_answers",
    "conversation_items",
    "conversations",
    "documents",
    "embeddings",
    "erasures",
    "eval_output_items",
    "eval_runs",
    "evals",
    "feedback",
    "files",
    "fine_tuned_models",
    "fine_tuning_checkpoints",
    "fine_tuning_events",
    "fine_tuning_jobs",
    "installation",
    "jobs",
    "labelling_items",
    "labelling_projects",
    "media_usage",
    "metadata",
    "model_alias_changes",
    "model_aliases",
    "model_ledger",
    "model_ledger_head",
    "prompt_versions",
    "prompts",
    "rating_pairs",
    "rating_studies",
    "rating_votes",
    "responses",
    "upload_parts",
    "uploads",
    "usage",
    "vector_store_batches",
    "vector_store_files",
    "vector_store_sources",
    "vector_stores",
]
