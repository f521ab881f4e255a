"""The steps of an erasure: each removes some rows inside the caller's transaction, and tells which."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import Connection

from deepwell.safety.privacy.attribution import Subject, parts
from deepwell.safety.privacy.file_lines import names_in_line
from deepwell.safety.privacy.ledger import Change
from deepwell.safety.privacy.trained import erase_trained
from deepwell.storage.agents import delete_runs
from deepwell.storage.batches import BATCH_JOB, OPEN
from deepwell.storage.clock import shared_time
from deepwell.storage.jobs import delete_job, insert_job
from deepwell.storage.keys import seal_keys
from deepwell.storage.knowledge.attached import detach_everywhere
from deepwell.storage.knowledge.stores import next_generation
from deepwell.storage.responses import DELETED, RESPONSE_JOB
from deepwell.storage.safety.audit import forget_person
from deepwell.storage.tables import (
    agent_runs,
    agent_steps,
    api_keys,
    batch_lines,
    batches,
    chunk_removals,
    chunks,
    completions,
    compliance_answers,
    conversation_items,
    conversations,
    documents,
    embeddings,
    eval_output_items,
    eval_runs,
    evals,
    feedback,
    files,
    fine_tuned_models,
    fine_tuning_checkpoints,
    fine_tuning_events,
    fine_tuning_jobs,
    jobs,
    labelling_items,
    labelling_projects,
    media_usage,
    prompt_versions,
    prompts,
    rating_pairs,
    rating_studies,
    rating_votes,
    responses,
    upload_parts,
    uploads,
    usage,
    vector_store_batches,
    vector_store_files,
    vector_store_sources,
    vector_stores,
)

__all__ = [
    "ERASE_JOB",
    "TENANT_TABLES",
    "cut_blob",
    "erase_agents",
    "erase_batch",
    "erase_completions",
    "erase_conversation",
    "erase_eval",
    "erase_extensions",
    "erase_feedback",
    "erase_file",
    "erase_lines",
    "erase_page",
    "erase_person_ties",
    "erase_responses",
    "erase_store",
    "erase_votes",
    "erase_works",
    "is_busy",
    "overwrite_keys",
    "revoke_keys",
]

ERASE_JOB: Final = "erase"
"""Kind of the job of an erasure."""

_ROWS: Final = 200  # removed in one write

TENANT_TABLES: Final = (
    # What belongs to others goes before them, so that every row is counted where it lies.
    batch_lines,
    batches,
    conversation_items,
    conversations,
    completions,
    responses,
    feedback,
    upload_parts,
    uploads,
    chunk_removals,
    chunks,
    embeddings,
    documents,
    vector_store_files,
    vector_store_batches,
    vector_store_sources,
    vector_stores,
    labelling_items,
    labelling_projects,
    rating_votes,
    rating_pairs,
    rating_studies,
    fine_tuning_events,
    fine_tuning_checkpoints,
    fine_tuned_models,
    fine_tuning_jobs,
    eval_output_items,
    eval_runs,
    evals,
    agent_steps,
    agent_runs,
    prompt_versions,
    prompts,
    files,
    jobs,
    compliance_answers,
    usage,
    media_usage,
)
"""Tables whose rows go with their tenant, in this order."""

_HASHES: Final = {
    "files": ("sha256",),
    "upload_parts": ("sha256",),
    "batches": ("input_sha256",),
    "fine_tuning_jobs": ("training_sha256", "validation_sha256"),
    "eval_runs": ("source_sha256",),
}
_EXTENSIONS: Final = ("chunk_vectors", "chunk_vector_states")  # tables that pgvector's index makes by itself


def erase_page(connection: Connection, table: sa.Table, subject: Subject, job_id: str) -> Change:
    """Deletes some rows of the tenant from one of `TENANT_TABLES`. The job `job_id` itself stays."""
    keys = list(table.primary_key.columns)
    chosen = sa.select(*keys).where(table.c.tenant == subject.tenant)
    if table is jobs:
        chosen = chosen.where(jobs.c.id != job_id)
    place = keys[0] if len(keys) == 1 else sa.tuple_(*keys)
    statement = sa.delete(table).where(place.in_(chosen.limit(_ROWS)))
    if table.name not in _HASHES:
        return Change({table.name: connection.execute(statement).rowcount})
    kept = [table.c[name] for name in _HASHES[table.name]]
    found = list(connection.execute(statement.returning(*kept)))
    return Change({table.name: len(found)}, [one for row in found for one in row if one is not None])


def erase_extensions(connection: Connection, subject: Subject) -> Change:
    """Deletes the tenant's rows from the tables of pgvector, where they exist."""
    counts: dict[str, int] = {}
    for name in _EXTENSIONS:
        if sa.inspect(connection).has_table(name):
            statement = sa.text(f"DELETE FROM {name} WHERE tenant = :tenant")  # noqa: S608
            counts[name] = connection.execute(statement, {"tenant": subject.tenant}).rowcount
    return Change(counts)


def revoke_keys(connection: Connection, subject: Subject) -> Change:
    """Revokes the tenant's keys, so that no server takes further requests within seconds."""
    mine = (api_keys.c.tenant == subject.tenant) & api_keys.c.revoked_at.is_(None)
    ids = connection.scalars(sa.select(api_keys.c.id).where(mine)).all()
    connection.execute(sa.update(api_keys).where(mine).values(revoked_at=int(shared_time())))
    seal_keys(connection, api_keys.c.id.in_(ids))
    return Change()


def is_busy(connection: Connection, subject: Subject, settle_s: float) -> bool:
    """Returns whether a key of the tenant was usable a moment ago, or a worker has one of its jobs."""
    keys, recently = api_keys.c, int(shared_time() - settle_s)
    usable = sa.select(keys.id).where(
        keys.tenant == subject.tenant, keys.revoked_at.is_(None) | (keys.revoked_at >= recently)
    )
    running = sa.select(jobs.c.id).where(
        jobs.c.tenant == subject.tenant, jobs.c.status == "running", jobs.c.kind != ERASE_JOB
    )
    return any(connection.execute(query.limit(1)).first() is not None for query in (usable, running))


def overwrite_keys(connection: Connection, subject: Subject) -> Change:
    """Overwrites what tells a key and its tenant from others. The rows stay: a server without any key would be open."""
    query = sa.select(api_keys.c.id).where(api_keys.c.tenant == subject.tenant).limit(_ROWS)
    ids = connection.scalars(query).all()
    for id in ids:
        values = {
            "tenant": "",
            "name": "erased",
            "digest": secrets.token_hex(32),
            "hint": "",
            "scopes": "",
            "last_used_at": None,
        }
        connection.execute(sa.update(api_keys).where(api_keys.c.id == id).values(values))
    seal_keys(connection, api_keys.c.id.in_(ids))
    return Change({"api_keys": len(ids)})


def erase_conversation(connection: Connection, subject: Subject, id: str) -> Change:
    """Deletes a conversation with its items."""
    inside, columns = conversation_items.c, conversations.c
    items = connection.execute(
        sa.delete(conversation_items).where(inside.tenant == subject.tenant, inside.conversation_id == id)
    ).rowcount
    done = connection.execute(
        sa.delete(conversations).where(columns.tenant == subject.tenant, columns.id == id)
    ).rowcount
    return Change({"conversation_items": items, "conversations": done})


def erase_completions(connection: Connection, seqs: Sequence[int]) -> Change:
    """Deletes completions with their metadata."""
    done = connection.execute(sa.delete(completions).where(completions.c.seq.in_(seqs)))
    return Change({"completions": done.rowcount})


def erase_feedback(connection: Connection, seqs: Sequence[int]) -> Change:
    """Deletes what was said of answers."""
    done = connection.execute(sa.delete(feedback).where(feedback.c.seq.in_(seqs)))
    return Change({"feedback": done.rowcount})


def erase_responses(connection: Connection, subject: Subject, ids: Sequence[str]) -> Change:
    """Empties responses, as a client's deletion does: their places in chains stay."""
    nothing = {"status": DELETED, "owner": None, "input": "[]", "body": "{}", "events": None}
    total = 0
    for id in ids:
        mine = (responses.c.tenant == subject.tenant) & (responses.c.id == id)
        total += connection.execute(sa.update(responses).where(mine).values(nothing)).rowcount
        delete_job(connection, subject.tenant, RESPONSE_JOB, id)
    return Change({"responses": total})


def erase_agents(connection: Connection, subject: Subject, ids: Sequence[str]) -> Change:
    """Deletes runs of agents with their steps and jobs. The worker of one that is under way loses it."""
    inside = agent_steps.c
    mine = (inside.tenant == subject.tenant) & inside.run_id.in_(ids)
    steps = connection.execute(sa.delete(agent_steps).where(mine)).rowcount
    return Change({"agent_steps": steps, "agent_runs": delete_runs(connection, subject.tenant, ids)})


def erase_votes(connection: Connection, seqs: Sequence[int]) -> Change:
    """Deletes what a rater said of pairs of answers."""
    done = connection.execute(sa.delete(rating_votes).where(rating_votes.c.seq.in_(seqs)))
    return Change({"rating_votes": done.rowcount})


def erase_eval(connection: Connection, subject: Subject, id: str) -> Change:
    """Deletes an evaluation. Its runs have gone before."""
    mine = (evals.c.tenant == subject.tenant) & (evals.c.id == id)
    return Change({"evals": connection.execute(sa.delete(evals).where(mine)).rowcount})


def erase_lines(connection: Connection, subject: Subject, id: str) -> Change:
    """Deletes the results of the end user's lines in a batch. One that has not ended begins anew with what its input has."""
    tenant, columns = subject.tenant, batch_lines.c
    mine = (columns.tenant == tenant) & (columns.batch_id == id) & (columns.end_user == subject.end_user)
    count = connection.execute(sa.delete(batch_lines).where(mine)).rowcount
    is_open = sa.exists().where(batches.c.tenant == tenant, batches.c.id == id, batches.c.status.in_(OPEN))
    job = (jobs.c.tenant == tenant) & (jobs.c.id == id) & (jobs.c.status == "running")
    payload = connection.scalar(sa.select(jobs.c.payload).where(job, is_open))
    if payload is not None:  # the worker has read lines in advance
        delete_job(connection, tenant, BATCH_JOB, id)
        insert_job(connection, tenant, BATCH_JOB, payload, id=id)
    return Change({"batch_lines": count})


def cut_blob(
    connection: Connection, subject: Subject, before: str, after: str, length: int, lines: int
) -> Change:
    """Gives the tenant's rows that name some bytes others, without an end user's lines, and deletes what was made of those."""
    tenant = subject.tenant
    same = (files.c.tenant == tenant) & (files.c.sha256 == before)
    ids = list(connection.scalars(sa.select(files.c.id).where(same)))
    connection.execute(sa.update(files).where(same).values(sha256=after, bytes=length))
    counts, kept = {"file_lines": lines}, [before]
    for id in ids:
        made, hashes = erase_trained(connection, tenant, id)
        for name, count in (
            *made.items(),
            *_cut_labelled(connection, subject, id).items(),
            *_unrated(connection, subject, id).items(),
        ):
            counts[name] = counts.get(name, 0) + count
        kept += hashes
    mine = (batches.c.tenant == tenant) & (batches.c.input_sha256 == before)
    connection.execute(sa.update(batches).where(mine).values(input_sha256=after))
    return Change(counts, kept)


def erase_works(connection: Connection, subject: Subject, ids: Sequence[str]) -> Change:
    """Deletes jobs that train on a conversation, search for a prompt or compress a model.

    What they have made goes with the next sweep of a server.
    """
    return Change({"jobs": _drop_jobs(connection, subject, ids)})


def erase_batch(connection: Connection, subject: Subject, id: str) -> Change:
    """Deletes a batch with its lines and its job, whether it has ended or not."""
    inside, columns = batch_lines.c, batches.c
    lines = connection.execute(
        sa.delete(batch_lines).where(inside.tenant == subject.tenant, inside.batch_id == id)
    ).rowcount
    mine = (columns.tenant == subject.tenant) & (columns.id == id)
    hashes = list(connection.scalars(sa.delete(batches).where(mine).returning(columns.input_sha256)))
    done = connection.execute(
        sa.delete(jobs).where(jobs.c.tenant == subject.tenant, jobs.c.id == id)
    ).rowcount
    counts = {"batch_lines": lines, "batches": len(hashes), "jobs": done}
    return Change(counts, [one for one in hashes if one is not None])


def erase_file(connection: Connection, subject: Subject, id: str) -> Change:
    """Deletes a file from everywhere: its chunks, its text, vectors that only it needs, and its jobs."""
    tenant, columns = subject.tenant, vector_store_files.c
    attached = connection.execute(
        sa.select(columns.store_id, columns.digest, columns.job_id).where(
            columns.tenant == tenant, columns.file_id == id
        )
    ).all()
    mine = (chunks.c.tenant == tenant) & (chunks.c.file_id == id)
    texts = list(connection.scalars(sa.select(chunks.c.digest).where(mine).distinct()))
    count = connection.execute(sa.select(sa.func.count()).where(mine)).scalar_one()
    detach_everywhere(connection, tenant, id)
    gone = files.c.tenant == tenant, files.c.id == id
    hashes = list(connection.scalars(sa.delete(files).where(*gone).returning(files.c.sha256)))
    stores = sorted({row.store_id for row in attached})
    for store_id in stores:
        _rebuild(connection, subject, store_id)
    trained, kept = erase_trained(connection, tenant, id)
    counts = {
        **trained,
        "chunks": count,
        "vector_store_files": len(attached),
        "files": len(hashes),
        **_unused(connection, subject, texts, [row.digest for row in attached if row.digest]),
        **_unlabelled(connection, subject, id),
        **_unrated(connection, subject, id),
        "jobs": trained.get("jobs", 0)
        + _drop_jobs(connection, subject, [row.job_id for row in attached if row.job_id]),
    }
    return Change(counts, [*hashes, *kept], stores)


def erase_store(connection: Connection, subject: Subject, id: str) -> Change:
    """Deletes a vector store with its chunks, vectors that only it needs, sources and jobs. Its files stay."""
    tenant, counts = subject.tenant, dict[str, int]()
    files_of = vector_store_files.c
    attached = connection.execute(
        sa.select(files_of.digest, files_of.job_id).where(files_of.tenant == tenant, files_of.store_id == id)
    ).all()
    texts = list(
        connection.scalars(
            sa.select(chunks.c.digest).where(chunks.c.tenant == tenant, chunks.c.store_id == id).distinct()
        )
    )
    for table in (chunk_removals, chunks, vector_store_files, vector_store_batches, vector_store_sources):
        mine = (table.c.tenant == tenant) & (table.c.store_id == id)
        counts[table.name] = connection.execute(sa.delete(table).where(mine)).rowcount
    mine = (vector_stores.c.tenant == tenant) & (vector_stores.c.id == id)
    counts["vector_stores"] = connection.execute(sa.delete(vector_stores).where(mine)).rowcount
    counts |= _unused(connection, subject, texts, [row.digest for row in attached if row.digest])
    counts["jobs"] = _drop_jobs(connection, subject, [row.job_id for row in attached if row.job_id])
    return Change(counts)


def erase_person_ties(connection: Connection, subject: Subject) -> Change:
    """Deletes the tie between an end user and the pseudonym in the audit trail, and the texts that the trail kept."""
    return Change(forget_person(connection, subject.tenant, subject.end_user))


def _rebuild(connection: Connection, subject: Subject, store_id: str) -> None:
    """Makes every index of a store, on every host, drop all that it has and read the store anew."""
    generation = next_generation(connection, subject.tenant, store_id)
    mine = (vector_stores.c.tenant == subject.tenant) & (vector_stores.c.id == store_id)
    connection.execute(sa.update(vector_stores).where(mine).values(removals_from=generation + 1))
    removed = chunk_removals.c
    connection.execute(
        sa.delete(chunk_removals).where(removed.tenant == subject.tenant, removed.store_id == store_id)
    )


def _unused(
    connection: Connection, subject: Subject, texts: Sequence[str], bodies: Sequence[str]
) -> dict[str, int]:
    """Deletes those vectors and parsed documents that no chunk and no file needs any more."""
    tenant, vectors, parsed = subject.tenant, 0, 0
    for part in parts(texts):
        used = sa.exists().where(chunks.c.tenant == tenant, chunks.c.digest == embeddings.c.digest)
        mine = (embeddings.c.tenant == tenant) & embeddings.c.digest.in_(part)
        vectors += connection.execute(sa.delete(embeddings).where(mine, ~used)).rowcount
    for part in parts(bodies):
        columns = vector_store_files.c
        used = sa.exists().where(columns.tenant == tenant, columns.digest == documents.c.digest)
        mine = (documents.c.tenant == tenant) & documents.c.digest.in_(part)
        parsed += connection.execute(sa.delete(documents).where(mine, ~used)).rowcount
    return {"embeddings": vectors, "documents": parsed}


def _unlabelled(connection: Connection, subject: Subject, file_id: str) -> dict[str, int]:
    """Deletes the labelling projects that hold the texts of a file."""
    tenant, projects, items = subject.tenant, labelling_projects.c, labelling_items.c
    made = (projects.tenant == tenant) & (projects.file_id == file_id)
    inside = items.project_id.in_(sa.select(projects.id).where(made))
    texts = connection.execute(sa.delete(labelling_items).where(items.tenant == tenant, inside)).rowcount
    done = connection.execute(sa.delete(labelling_projects).where(made)).rowcount
    return {"labelling_items": texts, "labelling_projects": done}


def _cut_labelled(connection: Connection, subject: Subject, file_id: str) -> dict[str, int]:
    """Deletes the texts of labelling projects that come of an end user's lines of a file."""
    tenant, projects, items = subject.tenant, labelling_projects.c, labelling_items.c
    made = sa.select(projects.id).where(projects.tenant == tenant, projects.file_id == file_id)
    inside = (items.tenant == tenant) & items.project_id.in_(made) & items.record.is_not(None)
    rows = connection.execute(sa.select(items.project_id, items.position, items.record).where(inside)).all()
    theirs = [row for row in rows if names_in_line(json.loads(row.record), subject.end_user)]
    for row in theirs:
        mine = (
            (items.tenant == tenant) & (items.project_id == row.project_id) & (items.position == row.position)
        )
        connection.execute(sa.delete(labelling_items).where(mine))
    return {"labelling_items": len(theirs)}


def _unrated(connection: Connection, subject: Subject, file_id: str) -> dict[str, int]:
    """Deletes the studies that hold the texts of a file."""
    columns = rating_studies.c
    made = (columns.tenant == subject.tenant) & (columns.file_id == file_id)
    counts: dict[str, int] = {}
    for table in (rating_votes, rating_pairs):
        inside = table.c.study_id.in_(sa.select(columns.id).where(made))
        gone = sa.delete(table).where(table.c.tenant == subject.tenant, inside)
        counts[table.name] = connection.execute(gone).rowcount
    counts["rating_studies"] = connection.execute(sa.delete(rating_studies).where(made)).rowcount
    return counts


def _drop_jobs(connection: Connection, subject: Subject, ids: Sequence[Any]) -> int:
    total = 0
    for part in parts(ids):
        mine = (jobs.c.tenant == subject.tenant) & jobs.c.id.in_(part)
        total += connection.execute(sa.delete(jobs).where(mine)).rowcount
    return total
