"""Traces of a person in fine-tuning and evaluations: rows made from a file, and the folders of runs on this host."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection

from deepwell.models.store.store import ModelStore
from deepwell.storage.database import Tenant
from deepwell.storage.tables import (
    eval_output_items,
    eval_runs,
    fine_tuned_models,
    fine_tuning_checkpoints,
    fine_tuning_events,
    fine_tuning_jobs,
    jobs,
    media_usage,
    usage,
)
from deepwell.storage.tuning.works import WORKS, made_of_files

__all__ = [
    "RUNS",
    "MadeBy",
    "drop_results",
    "drop_runs",
    "erase_runs",
    "erase_trained",
    "erase_tunings",
    "made_by",
    "runs_of_files",
    "trained_on",
]

RUNS = ("ftjob-*", "session-*", *(f"{prefix}*" for prefix in WORKS.values()))
"""Patterns of the folders of runs: fine-tuning, adapters that were trained on conversations, searches and compressions."""


_RECORD: Final = "deepwell.json"  # of a model: what it was made of
_MOST_RECORD: Final = 4 << 20


class MadeBy(msgspec.Struct, frozen=True):
    """The compression that a model of the store comes of, as its record says.

    Attributes:
        owner: digest of the tenant, see `storage.tuning.works.owner_of`.
        files: ids of the files that it read.
    """

    job: str = ""
    owner: str = ""
    files: tuple[str, ...] = ()


class _Record(msgspec.Struct, frozen=True):
    made_by: MadeBy | None = None


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
    counts, hashes = erase_tunings(connection, tenant, trained_on(tenant, [file_id]))
    judged, kept = erase_runs(connection, tenant, runs_of_files(tenant, [file_id]))
    works = connection.execute(sa.delete(jobs).where(made_of_files(tenant, [file_id]))).rowcount
    counts |= judged
    if works:
        counts["jobs"] = counts.get("jobs", 0) + works
    return counts, [*hashes, *kept]


def erase_tunings(
    connection: Connection, tenant: Tenant, made: sa.ColumnElement[bool]
) -> tuple[dict[str, int], list[str]]:
    """Deletes fine-tuning jobs with their models. Returns rows by table, and hashes that they kept.

    Where the use of such a model was counted, its name loses what the client called it.
    """
    counts: dict[str, int] = {}
    ids = list(connection.scalars(sa.select(fine_tuning_jobs.c.id).where(made)))
    inside = (fine_tuned_models.c.tenant == tenant) & fine_tuned_models.c.job_id.in_(ids)
    for model in connection.execute(sa.select(fine_tuned_models).where(inside)).all():
        step = "" if model.step is None else f":{model.step}"
        for table in (usage, media_usage):
            mine = (table.c.tenant == tenant) & (table.c.model == model.name)
            connection.execute(sa.update(table).where(mine).values(model=f"ft:{model.job_id}{step}"))
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
    connection.execute(sa.delete(jobs).where(jobs.c.tenant == tenant, jobs.c.id.in_(ids)))
    return counts, [sha for row in hashes for sha in row if sha is not None]


def erase_runs(
    connection: Connection, tenant: Tenant, judged: sa.ColumnElement[bool]
) -> tuple[dict[str, int], list[str]]:
    """Deletes runs of evaluations with their items. Returns rows by table, and hashes that they kept."""
    counts: dict[str, int] = {}
    runs = list(connection.scalars(sa.select(eval_runs.c.id).where(judged)))
    inside = (eval_output_items.c.tenant == tenant) & eval_output_items.c.run_id.in_(runs)
    counts["eval_output_items"] = connection.execute(sa.delete(eval_output_items).where(inside)).rowcount
    kept = list(connection.scalars(sa.delete(eval_runs).where(judged).returning(eval_runs.c.source_sha256)))
    counts["eval_runs"] = len(kept)
    connection.execute(sa.delete(jobs).where(jobs.c.tenant == tenant, jobs.c.id.in_(runs)))
    return counts, [one for one in kept if one is not None]


def drop_results(models: Path | None, is_theirs: Callable[[MadeBy], bool]) -> int:
    """Deletes models of the store that compressions have made, as far as a function says that they are a person's. Blocks."""
    count = 0
    if models is None:
        return 0
    store = ModelStore(models)
    for name in store.names():
        made = made_by(store, name)
        if made is not None and is_theirs(made):
            store.remove(name)
            count += 1
    return count


def made_by(store: ModelStore, name: str) -> MadeBy | None:
    """Returns the compression that a model of a store comes of; None: it comes of none. Blocks."""
    path = store.root / name / _RECORD
    try:
        return msgspec.json.decode(path.read_bytes()[:_MOST_RECORD], type=_Record).made_by
    except (OSError, msgspec.MsgspecError):
        return None


def drop_runs(folder: Path | None, known: set[str]) -> int:
    """Deletes the folders of runs whose jobs are gone."""
    count = 0
    if folder is not None and folder.is_dir():
        for path in (path for pattern in RUNS for path in folder.glob(pattern)):
            if path.name not in known:
                shutil.rmtree(path, ignore_errors=True)
                count += 1
    return count
