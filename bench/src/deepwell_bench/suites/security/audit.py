"""The audit trail: a million entries, a flipped byte in any place of a row, and writers that are killed."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from deepwell.cli.bench.report import Report, rounded
from deepwell.safety.audit.trail import RequestFacts, decision_record
from deepwell.safety.findings import Action, Decision, Finding
from deepwell.settings import Settings
from deepwell.storage.database import LOCAL, Database, Tenant
from deepwell.storage.safety.anchors import Anchors
from deepwell.storage.safety.audit import AuditStore
from deepwell.storage.safety.chain import AuditRecord
from deepwell.storage.safety.verify import verify_chain
from deepwell.storage.tables import audit_entries

__all__ = ["bench_audit"]

_APPENDED = 4000  # entries in one commit
_FLIPPED = 2000  # entries of the trail whose bytes are flipped
_WRITER = "deepwell_bench.workers.safety.audit_writer"
_SMALL = Tenant("small")


def bench_audit(
    report: Report, *, entries: int = 1_000_000, flips: int = 200, kills: int = 10, seed: int = 17
) -> dict[str, Any]:
    """Writes and verifies `entries`, flips single bits of rows, and kills writers.

    The database is where servers have theirs (`data_dir`; WAL, `synchronous=FULL`).
    """
    where = Settings.load().data_dir
    where.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-audit-", dir=where) as folder:
        path = Path(folder)
        database = Database.open(path / "deepwell.db")
        try:
            store = AuditStore(database, Anchors(path / "anchors"))
            append_s, verify_s, holds = _million(store, entries)
            size = (path / "deepwell.db").stat().st_size + (path / "deepwell.db-wal").stat().st_size
            asyncio.run(store.append(_SMALL, [_record(number) for number in range(_FLIPPED)]))
            found = _flips(database, store, flips, random.Random(seed))  # noqa: S311
        finally:
            database.close()
        lost, broken, acknowledged = _kills(path / "killed", kills)
    value = {
        "entries": entries,
        "whole_trail_holds": holds,
        "verify_1m_s": rounded(verify_s * 1_000_000 / entries),
        "append_per_s": rounded(entries / append_s),
        "bytes_per_entry": rounded(size / entries),
        "flips": flips,
        "flips_found": found,
        "flips_missed": flips - found,
        "kills": kills,
        "acknowledged": acknowledged,
        "lost_after_sigkill": lost,
        "broken_after_sigkill": broken,
    }
    report.table("audit trail", ("figure", "value"), [(name, str(one)) for name, one in value.items()])
    return value


def _record(number: int) -> AuditRecord:
    found: list[tuple[Finding, Action]] = []
    if number % 4 == 0:
        found = [
            (Finding("terms.politics", "politics", number % 97, number % 97 + 6, 0.93, "folded"), "flag")
        ]
    decision = Decision("flag", "input", found, "ab" * 32)
    facts = RequestFacts(f"req_{number:032x}", "key_0123456789abcdef", "smollm2", f"user-{number % 50}")
    return decision_record(decision, facts)


def _million(store: AuditStore, entries: int) -> tuple[float, float, bool]:
    async def fill() -> None:
        for first in range(0, entries, _APPENDED):
            count = min(_APPENDED, entries - first)
            await store.append(LOCAL, [_record(first + number) for number in range(count)])

    began = time.perf_counter()
    asyncio.run(fill())
    append_s = time.perf_counter() - began
    [chain] = asyncio.run(store.chains(LOCAL))
    began = time.perf_counter()
    result = verify_chain(store, chain.id)
    verify_s = time.perf_counter() - began
    return append_s, verify_s, result.holds and result.entries == entries


def _flips(database: Database, store: AuditStore, flips: int, chosen: random.Random) -> int:
    """Flips one bit of one column of one row at a time, and returns how many verifications found it."""
    [chain] = asyncio.run(store.chains(_SMALL))
    found = 0
    for _ in range(flips):
        sequence = chosen.randrange(1, _FLIPPED + 1)
        here = (audit_entries.c.chain == chain.id) & (audit_entries.c.sequence == sequence)
        row = database.read_now(
            lambda connection, here=here: connection.execute(sa.select(audit_entries).where(here)).one()
        )
        name = chosen.choice(("entry", "hash", "at_ms", "sequence"))
        value = _flipped(row._mapping[name], chosen)

        def put(connection: Connection, column: str, new: Any, at: int, chain_id: str = chain.id) -> int:
            here = (audit_entries.c.chain == chain_id) & (audit_entries.c.sequence == at)
            return connection.execute(sa.update(audit_entries).where(here).values({column: new})).rowcount

        database.write_now(lambda connection, a=(name, value, sequence): put(connection, *a))
        found += not verify_chain(store, chain.id).holds
        place = value if name == "sequence" else sequence
        old = row._mapping[name]
        database.write_now(lambda connection, a=(name, old, place): put(connection, *a))
    if not verify_chain(store, chain.id).holds:
        raise AssertionError("the trail was not restored")
    return found


def _flipped(value: Any, chosen: random.Random) -> Any:
    """Returns a value with one bit flipped; numbers stay positive, and a sequence takes no other entry's place."""
    if isinstance(value, int):
        return value ^ (1 << chosen.randrange(12, 40))
    data = bytearray(value.encode())
    place = chosen.randrange(len(data))
    data[place] ^= 1 << chosen.randrange(7)
    return data.decode()


def _kills(folder: Path, kills: int) -> tuple[int, int, int]:
    """Kills one of two writers of one trail again and again; returns entries lost, chains broken, entries acknowledged."""
    folder.mkdir()
    path, anchors = folder / "deepwell.db", folder / "anchors"
    Database.open(path).close()
    acknowledged: dict[str, int] = {}
    chosen = random.Random(6)  # noqa: S311
    lost = broken = 0
    for kill in range(kills):
        names = [f"writer-{kill}-{one}" for one in range(2)]
        writers = [
            subprocess.Popen(
                [sys.executable, "-m", _WRITER, str(path), str(anchors), name],
                stdout=subprocess.PIPE,
                text=True,
            )
            for name in names
        ]
        for name, writer in zip(names, writers, strict=True):
            assert writer.stdout is not None
            for _ in range(chosen.randrange(5, 40)):
                acknowledged[name] = int(writer.stdout.readline())
        for name, writer in zip(names, writers, strict=True):
            writer.kill()
            if rest := writer.communicate()[0].split():
                acknowledged[name] = int(rest[-1])
        database = Database.open(path)
        try:
            store = AuditStore(database, Anchors(anchors))
            [chain] = asyncio.run(store.chains(LOCAL))
            broken += not verify_chain(store, chain.id).holds
            _, rows = store.rows(chain.id, 0, 10_000_000)
            kept: dict[str, set[int]] = {}
            for _, at_ms, entry, _ in rows:
                kept.setdefault(json.loads(entry)["model"], set()).add(at_ms)
            for name in names:
                lost += sum(number not in kept.get(name, ()) for number in range(1, acknowledged[name] + 1))
        finally:
            database.close()
    return lost, broken, sum(acknowledged.values())
