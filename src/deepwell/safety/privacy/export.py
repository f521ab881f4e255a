"""Export of a person's data: a folder of JSON lines, a file for each table, with the files themselves beside them."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from deepwell.errors import InvalidRequest
from deepwell.safety.audit.keep import entries, write_texts
from deepwell.safety.privacy.attribution import Attribution, Subject, attributed, parts
from deepwell.safety.privacy.erase import HostPlaces
from deepwell.safety.privacy.file_lines import FoundLines, lines_at
from deepwell.safety.privacy.log_lines import lines_of
from deepwell.safety.privacy.places import PLACES
from deepwell.safety.privacy.rows import ERASE_JOB
from deepwell.safety.privacy.trained import runs_of_files, trained_on
from deepwell.storage.blobs import FolderBlobs
from deepwell.storage.clock import shared_time
from deepwell.storage.database import LOCAL, Database
from deepwell.storage.files import FileStore
from deepwell.storage.safety.audit import AuditStore
from deepwell.storage.tables import (
    agent_runs,
    agent_steps,
    audit_chains,
    audit_entries,
    audit_persons,
    audit_texts,
    batch_lines,
    batches,
    chunks,
    completion_metadata,
    completions,
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
    metadata,
    rating_pairs,
    rating_studies,
    rating_votes,
    responses,
    upload_parts,
    vector_store_batches,
    vector_store_files,
    vector_store_sources,
    vector_stores,
)
from deepwell.storage.tuning.works import made_of_files

__all__ = ["export_person"]

_PAGE: Final = 500
_LEFT_OUT: Final = {"api_keys": {"digest"}, "embeddings": {"vector"}}
_NOT_BY_ROW: Final = {audit_chains, audit_entries, audit_persons, audit_texts}
_Where = sa.ColumnElement[bool]


async def export_person(
    database: Database, store: FileStore, subject: Subject, folder: Path, host: HostPlaces | None = None
) -> dict[str, int]:
    """Writes all that is kept of a person into a new folder, and returns the number of rows and files by place.

    `manifest.json` tells for every place how it was treated. Nothing is changed in the database.

    Raises:
        InvalidRequest: the folder exists and is not empty.
    """
    await asyncio.to_thread(_begin, folder)
    found = await attributed(database, store, subject) if subject.end_user else None
    counts = {
        table.name: await _table(database, table, conditions, folder / "tables")
        for table, conditions in await _conditions(database, subject, found)
    }
    if found is not None:
        counts["file_lines"] = await _lines(database, store, subject, found, folder / "file_lines.jsonl")
    counts["blobs"] = await _blobs(database, store, subject, found, folder / "files")
    counts |= await _audit(database, subject, folder)
    counts |= await asyncio.to_thread(_host_files, host or HostPlaces(), subject, database.id, folder)
    manifest = {
        "tenant": subject.tenant,
        "end_user": subject.end_user or None,
        "exported_at": int(shared_time()),
        "places": {
            place.name: {
                "kind": place.kind,
                "exported": counts.get(place.name, 0),
                **({"columns": place.words} if place.words else {}),
                "treatment": place.person if subject.end_user else place.tenant,
            }
            for place in PLACES
        },
    }
    text = json.dumps(manifest, ensure_ascii=False, indent=2)
    await asyncio.to_thread((folder / "manifest.json").write_text, f"{text}\n", encoding="utf-8")
    return {name: count for name, count in counts.items() if count}


def _begin(folder: Path) -> None:
    if folder.exists() and any(folder.iterdir()):
        raise InvalidRequest(f"{folder} is not empty", fix="name a new folder")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    (folder / "tables").mkdir(mode=0o700)


async def _table(database: Database, table: sa.Table, conditions: Sequence[_Where], folder: Path) -> int:
    count, path = 0, folder / f"{table.name}.jsonl"
    with path.open("w", encoding="utf-8") as stream:
        for where in conditions:
            async for row in _rows(database, table, where):
                stream.write(f"{_line(table, row)}\n")
                count += 1
    if not count:
        path.unlink()
    return count


async def _conditions(
    database: Database, subject: Subject, found: Attribution | None
) -> Sequence[tuple[sa.Table, Sequence[_Where]]]:
    """Returns the tables with the conditions of the person's rows in each."""
    if found is not None:
        return await _of_person(database, subject, found)
    tables: list[tuple[sa.Table, Sequence[_Where]]] = []
    for table in metadata.sorted_tables:
        if table in _NOT_BY_ROW:
            continue
        if "tenant" in table.c:
            mine = table.c.tenant == subject.tenant
            tables.append((table, [mine & (jobs.c.kind != ERASE_JOB) if table is jobs else mine]))
        elif table is completion_metadata:
            inside = sa.select(completions.c.seq).where(completions.c.tenant == subject.tenant)
            tables.append((table, [completion_metadata.c.seq.in_(inside)]))
    return tables


_Tables = list[tuple[sa.Table, Sequence[_Where]]]


@dataclass(frozen=True, slots=True)
class _Chooser:
    """Conditions of rows of one tenant, and what such rows say."""

    database: Database
    tenant: str

    def of(self, table: sa.Table, column: str, ids: Sequence[Any]) -> list[_Where]:
        """Returns the conditions of the rows that have one of some values."""
        mine = table.c.tenant == self.tenant if "tenant" in table.c else sa.true()
        return [mine & table.c[column].in_(part) for part in parts(ids)]

    async def selected(self, column: sa.ColumnElement[Any], conditions: Sequence[_Where]) -> list[Any]:
        """Returns the values of a column in the rows of some conditions."""
        values: set[Any] = set()
        for where in conditions:
            query = sa.select(column).where(where)
            values |= set(
                await self.database.read(lambda connection, query=query: connection.scalars(query).all())
            )
        return sorted(values - {None})


async def _of_person(database: Database, subject: Subject, found: Attribution) -> _Tables:
    chooser = _Chooser(database, subject.tenant)
    owned = [*found.responses, *found.batches, *found.sessions, *found.works, *found.agents]
    tables = [*_of_answers(chooser, subject, found)]
    for kind in (_of_knowledge, _of_tuning):
        more, jobs_of_it = await kind(chooser, subject, found)
        tables += more
        owned += jobs_of_it
    read = [*found.files, *found.cut_files]
    works = [made_of_files(subject.tenant, list(part)) & jobs.c.id.not_in(owned) for part in parts(read)]
    return [
        *tables,
        (files, chooser.of(files, "id", found.files)),
        (jobs, [*chooser.of(jobs, "id", owned), *works]),
    ]


def _of_answers(chooser: _Chooser, subject: Subject, found: Attribution) -> _Tables:
    of = chooser.of
    theirs = (batch_lines.c.tenant == subject.tenant) & (batch_lines.c.end_user == subject.end_user)
    results = theirs & batch_lines.c.batch_id.not_in(found.batches)
    return [
        (responses, of(responses, "id", found.responses)),
        (conversations, of(conversations, "id", found.conversations)),
        (conversation_items, of(conversation_items, "conversation_id", found.conversations)),
        (completions, of(completions, "seq", found.completions)),
        (completion_metadata, of(completion_metadata, "seq", found.completions)),
        (feedback, of(feedback, "seq", found.feedback)),
        (batches, of(batches, "id", found.batches)),
        (batch_lines, [*of(batch_lines, "batch_id", found.batches), results]),
        (agent_runs, of(agent_runs, "id", found.agents)),
        (agent_steps, of(agent_steps, "run_id", found.agents)),
    ]


async def _of_knowledge(
    chooser: _Chooser, _subject: Subject, found: Attribution
) -> tuple[_Tables, list[str]]:
    of = chooser.of
    attached = of(vector_store_files, "file_id", found.files) + [
        where & vector_store_files.c.file_id.not_in(found.files)
        for where in of(vector_store_files, "store_id", found.stores)
    ]
    texts = of(chunks, "file_id", found.files)
    digests = await chooser.selected(chunks.c.digest, texts)
    parsed = await chooser.selected(vector_store_files.c.digest, attached)
    tables: _Tables = [
        (vector_stores, of(vector_stores, "id", found.stores)),
        (vector_store_files, attached),
        (vector_store_batches, of(vector_store_batches, "store_id", found.stores)),
        (vector_store_sources, of(vector_store_sources, "store_id", found.stores)),
        (chunks, texts),
        (documents, of(documents, "digest", parsed)),
        (embeddings, of(embeddings, "digest", digests)),
    ]
    return tables, await chooser.selected(vector_store_files.c.job_id, attached)


async def _of_tuning(chooser: _Chooser, subject: Subject, found: Attribution) -> tuple[_Tables, list[str]]:
    of, tenant, read = chooser.of, subject.tenant, [*found.files, *found.cut_files]
    labelling = of(labelling_projects, "file_id", found.files)
    projects = await chooser.selected(labelling_projects.c.id, labelling)
    rating = of(rating_studies, "file_id", read)
    studies = await chooser.selected(rating_studies.c.id, rating)
    others = rating_votes.c.study_id.not_in(studies)
    tuned, judged = of(fine_tuning_jobs, "id", found.tunings), of(eval_runs, "id", found.eval_runs)
    for part in parts(read):
        tuned.append(trained_on(tenant, list(part)) & fine_tuning_jobs.c.id.not_in(found.tunings))
        judged.append(runs_of_files(tenant, list(part)) & eval_runs.c.id.not_in(found.eval_runs))
    trained = await chooser.selected(fine_tuning_jobs.c.id, tuned)
    runs = await chooser.selected(eval_runs.c.id, judged)
    tables: _Tables = [
        (fine_tuning_jobs, tuned),
        (fine_tuning_events, of(fine_tuning_events, "job_id", trained)),
        (fine_tuning_checkpoints, of(fine_tuning_checkpoints, "job_id", trained)),
        (fine_tuned_models, of(fine_tuned_models, "job_id", trained)),
        (evals, of(evals, "id", found.evals)),
        (eval_runs, judged),
        (eval_output_items, of(eval_output_items, "run_id", runs)),
        (labelling_projects, labelling),
        (labelling_items, of(labelling_items, "project_id", projects)),
        (rating_studies, rating),
        (rating_pairs, of(rating_pairs, "study_id", studies)),
        (
            rating_votes,
            [
                *of(rating_votes, "study_id", studies),
                *(where & others for where in of(rating_votes, "seq", found.votes)),
            ],
        ),
    ]
    return tables, [*trained, *runs]


async def _rows(database: Database, table: sa.Table, where: _Where) -> AsyncGenerator[Mapping[str, Any]]:
    """Yields rows. Each page is a read of its own: a long one would be cut off."""
    left_out = _LEFT_OUT.get(table.name, set[str]())
    keys = list(table.primary_key.columns)
    columns = [column for column in table.c if column.name not in left_out or column in keys]
    query = sa.select(*columns).where(where).order_by(*keys).limit(_PAGE)
    last: sa.Row[Any] | None = None
    while True:
        after = sa.true() if last is None else sa.tuple_(*keys) > tuple(last._mapping[key] for key in keys)
        behind = query.where(after)
        page = await database.read(lambda connection, query=behind: connection.execute(query).all())
        for row in page:
            yield {column.name: row._mapping[column] for column in columns}
        if len(page) < _PAGE:
            return
        last = page[-1]


def _line(table: sa.Table, row: Mapping[str, Any]) -> str:
    """Returns a row as a line: columns of JSON as JSON, bytes in base64."""
    told: dict[str, Any] = {}
    for name, value in row.items():
        told[name] = value
        if isinstance(value, bytes):
            told[name] = base64.b64encode(value).decode()
        elif isinstance(value, str) and isinstance(table.c[name].type, sa.Text) and value[:1] in ("{", "["):
            try:
                told[name] = json.loads(value)
            except ValueError:
                told[name] = value
    return json.dumps(told, ensure_ascii=False)


async def _blobs(
    database: Database, store: FileStore, subject: Subject, found: Attribution | None, folder: Path
) -> int:
    """Copies the bytes of files and of parts of uploads. They are named by ids: names of clients may be paths."""
    tenant = subject.tenant
    queries = [
        sa.select(files.c.id, files.c.sha256).where(files.c.tenant == tenant, files.c.id.in_(part))
        for part in parts(found.files if found is not None else [])
    ]
    if found is None:
        queries = [
            sa.select(files.c.id, files.c.sha256).where(files.c.tenant == tenant),
            sa.select(upload_parts.c.id, upload_parts.c.sha256).where(upload_parts.c.tenant == tenant),
            *(
                sa.select(table.c.id, column).where(table.c.tenant == tenant, column.is_not(None))
                for table, column in (
                    (batches, batches.c.input_sha256),
                    (fine_tuning_jobs, fine_tuning_jobs.c.training_sha256),
                    (eval_runs, eval_runs.c.source_sha256),
                )
            ),
        ]
    count = 0
    for query in queries:
        named = await database.read(lambda connection, query=query: connection.execute(query).all())
        count += await asyncio.to_thread(_copied, [(id, sha256) for id, sha256 in named], store.blobs, folder)
    return count


def _copied(named: Sequence[tuple[str, str]], blobs: FolderBlobs, folder: Path) -> int:
    count = 0
    for id, sha256 in named:
        with suppress(FileNotFoundError):  # the bytes are gone
            source = blobs.fetch(sha256)
            folder.mkdir(exist_ok=True, mode=0o700)
            shutil.copyfile(source, folder / id)
            count += 1
    return count


async def _lines(
    database: Database, store: FileStore, subject: Subject, found: Attribution, path: Path
) -> int:
    """Writes the end user's lines of files that others have lines in."""
    query = sa.select(files.c.id, files.c.sha256).where(files.c.tenant == subject.tenant)
    named: dict[str, list[str]] = {}
    for id, sha256 in await database.read(lambda connection: connection.execute(query).all()):
        named.setdefault(sha256, []).append(id)
    count = 0
    for sha256, lines in found.lines.items():
        count += await asyncio.to_thread(
            _copied_lines, await store.local(sha256), named.get(sha256, []), lines, path
        )
    return count


def _copied_lines(source: Path, ids: Sequence[str], lines: FoundLines, path: Path) -> int:
    with path.open("a", encoding="utf-8") as stream:
        for line in lines_at(source, lines.numbers):
            stream.write(f"{json.dumps({'files': ids, 'line': json.loads(line)}, ensure_ascii=False)}\n")
    return len(lines.numbers)


async def _audit(database: Database, subject: Subject, folder: Path) -> dict[str, int]:
    store, person = AuditStore(database), None
    if subject.end_user:
        found = await store.person(subject.tenant, subject.end_user)
        if found is None:
            return {}
        person = found[1]
    counts = {"audit_entries": 0, "audit_texts": 0}
    for chain in await store.chains(subject.tenant):
        with (folder / "audit.jsonl").open("w", encoding="utf-8") as stream:
            async for entry in entries(store, chain, person=person):
                stream.write(f"{entry}\n")
                counts["audit_entries"] += 1
        counts["audit_texts"] = await asyncio.to_thread(
            write_texts, store, chain, folder / "audit_texts.jsonl", person
        )
    return counts


def _host_files(host: HostPlaces, subject: Subject, database_id: str, folder: Path) -> dict[str, int]:
    counts: dict[str, int] = {}
    if host.access_log is not None:
        lines = list(lines_of(host.access_log, subject, database_id))
        if lines:
            (folder / "access.log").write_bytes(b"".join(lines))
        counts["access_log"] = len(lines)
    if host.chat_history is not None and subject == Subject(LOCAL) and host.chat_history.exists():
        shutil.copyfile(host.chat_history, folder / "chat_history")
        counts["chat_history"] = 1
    return counts
