"""Traces of a person in fine-tuning and evaluations: rows made from a file, and the folders of runs on this host."""

from __future__ import annotations

import shutil
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import Connection

from deepwell.storage.database import Tenant
from deepwell.storage.tables import (
    eval_output_items,
    eval_runs,
    fine_tuned_models,
    fine_tuning_checkpoints,
    fine_tuning_events,
    fine_tuning_jobs,
    jobs,
)

__all__ = ["RUNS", "drop_runs", "erase_trained", "runs_of_files", "trained_on"]

RUNS = ("ftjob-*", "session-*")
"""Patterns of the folders of runs: of fine-tuning jobs, and of adapters that were trained on conversations."""


def trained_on(tenant: Tenant, file_ids: list[str]) -> sa.ColumnElement[bool]:
    """Returns the condition of fine-tuning jobs that were made with one of some files."""
    columns = fine_tuning_jobs.c
    named = columns.training_file.in_(file_ids) | columns.validation_file.in_(file_ids)
    return (columns.tenant == tenant) & named


def runs_of_files(tenant: Tenant, file_ids: list[str]) -> sa.ColumnElement[bool]:
    """Returns the condition of evaluation runs whose data name one of some files."""
    # Ids are random, so none is a part of anything else
    named = [eval_runs.c.data_source.contains(id, autoescape=True) for id in file_ids]
    return (eval_runs.c.tenant == tenant) & sa.or_(sa.false(), *named)


def erase_trained(connection: Connection, tenant: Tenant, file_id: str) -> tuple[dict[str, int], list[str]]:
    """Deletes the jobs, models and runs that were made from a file. Returns rows by table, and hashes that they kept.

    The adapters leave the engines, and their folders the disk, with the next sweep of a server.
    """
    counts: dict[str, int] = {}
    made = trained_on(tenant, [file_id])
    ids = list(connection.scalars(sa.select(fine_tuning_jobs.c.id).where(made)))
    for table in (fine_tuning_events, fine_tuning_checkpoints, fine_tuned_models):
        mine = (table.c.tenant == tenant) & table.c.job_id.in_(ids)
        counts[table.name] = connection.execute(sa.delete(table).where(mine)).rowcount
    hashes = list(
        connection.execute(
            sa.delete(fine_tuning_jobs)
            .where(made)
            .returning(fine_tuning_jobs.c.training_sha256, fine_tuning_jobs.c.validation_sha256)
        )
    )
    counts["fine_tuning_jobs"] = len(ids)
    judged = runs_of_files(tenant, [file_id])
    runs = list(connection.scalars(sa.select(eval_runs.c.id).where(judged)))
    inside = (eval_output_items.c.tenant == tenant) & eval_output_items.c.run_id.in_(runs)
    counts["eval_output_items"] = connection.execute(sa.delete(eval_output_items).where(inside)).rowcount
    kept = list(connection.scalars(sa.delete(eval_runs).where(judged).returning(eval_runs.c.source_sha256)))
    counts["eval_runs"] = len(kept)
    connection.execute(sa.delete(jobs).where(jobs.c.tenant == tenant, jobs.c.id.in_([*ids, *runs])))
    return counts, [one for one in (*(sha for row in hashes for sha in row), *kept) if one is not None]


def drop_runs(folder: Path | None, known: set[str]) -> int:
    """Deletes the folders of runs whose jobs are gone."""
    count = 0
    if folder is not None and folder.is_dir():
        for path in (path for pattern in RUNS for path in folder.glob(pattern)):
            if path.name not in known:
                shutil.rmtree(path, ignore_errors=True)
                count += 1
    return count
