"""Checks of personal data: export and erasure work, retention ends, and the list of places is complete.

Export and erasure are tried on a temporary database with planted data of a person. The configured one is not touched.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import tempfile
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from deepwell.safety.compliance.checks import Fact, Outcome, Words, failed, passed
from deepwell.safety.compliance.context import Context
from deepwell.safety.privacy.attribution import Subject
from deepwell.safety.privacy.erase import Eraser
from deepwell.safety.privacy.export import export_person
from deepwell.safety.privacy.places import PLACES
from deepwell.storage.completions import CompletionStore, StoredCompletion
from deepwell.storage.conversations import ConversationStore, Item, StoredConversation
from deepwell.storage.database import Database, Tenant
from deepwell.storage.files import FileStore
from deepwell.storage.responses import ResponseStore, StoredResponse
from deepwell.storage.safety.audit import AuditStore
from deepwell.storage.safety.chain import AuditRecord
from deepwell.storage.tables import metadata

__all__ = ["erase_works", "export_works", "places_are_complete", "retention_is_finite"]

_TABLES: Final = ("responses", "conversations", "conversation_items", "completions", "files")
_RETENTION: Final = (
    "response_retention_days",
    "completion_retention_days",
    "conversation_retention_days",
    "file_retention_days",
    "batch_retention_days",
    "job_retention_days",
)


@dataclass(frozen=True, slots=True)
class _Planted:
    """A database with the data of a person, which all hold a secret word, and those of somebody else."""

    folder: Path
    database: Database
    files: FileStore
    subject: Subject
    secret: str
    other: str


@contextmanager
def _planted() -> Iterator[_Planted]:
    with tempfile.TemporaryDirectory(prefix="deepwell-check-") as name:
        folder = Path(name)
        database = Database.open(folder / "data" / "deepwell.db")
        files = FileStore(database, folder / "data" / "files")
        secret, other = f"secret-{secrets.token_hex(8)}", f"other-{secrets.token_hex(8)}"
        tenant = Tenant("check-person")
        try:
            asyncio.run(_plant(database, files, tenant, secret))
            asyncio.run(_plant(database, files, Tenant("check-other"), other))
            yield _Planted(folder, database, files, Subject(tenant), secret, other)
        finally:
            database.close()


async def _plant(database: Database, files: FileStore, tenant: Tenant, secret: str) -> None:
    async def content() -> AsyncGenerator[bytes]:
        yield f"a file of {secret}".encode()

    told = json.dumps({"text": secret})
    id = secrets.token_hex(6)
    await ResponseStore(database).put(tenant, StoredResponse(f"resp_{id}", 1, "completed", told, told))
    await CompletionStore(database).create(
        tenant, StoredCompletion(f"chatcmpl_{id}", 1, "model", told, told, {"about": secret}, secret)
    )
    conversation = StoredConversation(f"conv_{id}", 1, told)
    await ConversationStore(database).create(tenant, conversation, [Item(f"msg_{id}", told)])
    await files.create(tenant, filename=f"{secret}.txt", purpose="assistants", content=content())
    await AuditStore(database).append(tenant, [AuditRecord("decision", 1, {"action": "block"}, secret)])


def export_works(context: Context) -> Outcome:
    """Exports the planted person, and looks for every planted row, and for nothing of anybody else."""
    context.progress("export", 0, 1)
    with _planted() as planted:
        folder = planted.folder / "export"
        counts = asyncio.run(export_person(planted.database, planted.files, planted.subject, folder))
        texts = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        with_secret = {path.stem for path, text in texts.items() if planted.secret.encode() in text}
        foreign = [path.name for path, text in texts.items() if planted.other.encode() in text]
        blobs = sum(path.parent.name == "files" for path in texts)
    context.progress("export", 1, 1)
    missing = [name for name in _TABLES if name not in with_secret]
    facts = (
        Fact(
            Words("rows and files exported", "导出的行与文件数"),
            ", ".join(f"{k} {n}" for k, n in sorted(counts.items())),
        ),
        Fact(Words("files of the export", "导出的文件数"), len(texts)),
        Fact(Words("places without the planted data", "缺少植入数据的位置"), ", ".join(missing) or "0"),
        Fact(Words("files with somebody else's data", "含他人数据的文件"), ", ".join(foreign) or "0"),
    )
    holds = not missing and not foreign and blobs >= 1 and counts.get("audit_entries", 0) >= 1
    return passed(*facts) if holds else failed(*facts)


def erase_works(context: Context) -> Outcome:
    """Erases the planted person, and looks for a trace in every table, file and byte of the database."""
    context.progress("erase", 0, 1)
    with _planted() as planted:
        done = asyncio.run(Eraser(planted.database, planted.files).erase(planted.subject))
        rows = planted.database.read_now(_dump)
        in_tables = [name for name, text in rows.items() if planted.secret in text]
        kept = sum(planted.other in text for text in rows.values())
        planted.database.close()
        on_disk = [
            path.name
            for path in (planted.folder / "data").rglob("*")
            if path.is_file() and planted.secret.encode() in path.read_bytes()
        ]
    context.progress("erase", 1, 1)
    facts = (
        Fact(Words("erased", "已删除"), ", ".join(f"{k} {n}" for k, n in sorted(done.counts.items()))),
        Fact(Words("proof of the erasure", "删除凭证"), done.id),
        Fact(Words("tables with a trace", "仍有痕迹的表"), ", ".join(in_tables) or "0"),
        Fact(Words("files with a trace", "仍有痕迹的文件"), ", ".join(on_disk) or "0"),
        Fact(Words("tables with the data of another, untouched", "未受影响的他人数据所在表"), kept),
    )
    return passed(*facts) if not in_tables and not on_disk and kept >= len(_TABLES) else failed(*facts)


def _dump(connection: sa.Connection) -> dict[str, str]:
    return {table.name: repr(connection.execute(sa.select(table)).all()) for table in metadata.sorted_tables}


def retention_is_finite(context: Context) -> Outcome:
    """Checks that everything that clients store is removed after some days by itself."""
    origins = context.settings.origins()
    facts: list[Fact] = []
    holds = True
    for name in _RETENTION:
        days = float(getattr(context.settings, name))
        holds = holds and days > 0
        told = f"{days:g} ({origins[name]})"
        facts.append(
            Fact(Words(name, name), told if days else Words(f"{told}: for ever", f"{told}：永久保留"))
        )
    return passed(*facts) if holds else failed(*facts)


def places_are_complete(_context: Context) -> Outcome:
    """Checks that the list of places names every table, so that it can serve as a record of processing."""
    listed = {place.name for place in PLACES if place.kind == "table"}
    missing = sorted(metadata.tables.keys() - listed)
    facts = (
        Fact(
            Words("places listed (deepwell privacy places)", "已列出的位置（deepwell privacy places）"),
            len(PLACES),
        ),
        Fact(Words("tables of the database", "数据库的表"), len(metadata.tables)),
        Fact(Words("tables that are not listed", "未列出的表"), ", ".join(missing) or "0"),
    )
    return failed(*facts) if missing else passed(*facts)
