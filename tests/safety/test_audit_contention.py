"""The audit trail under contention: many tasks and two processes on one trail, and a disk that is full."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from deepwell.errors import StorageUnavailable
from deepwell.safety.audit import trail as trail_module
from deepwell.safety.audit.keep import entries
from deepwell.safety.audit.trail import AuditOptions, AuditTrail, RequestFacts
from deepwell.safety.findings import Decision, Finding
from deepwell.storage.database import Database, Tenant
from deepwell.storage.safety.anchors import Anchors
from deepwell.storage.safety.audit import AuditStore
from deepwell.storage.safety.chain import AuditRecord
from deepwell.storage.safety.verify import verify_chain

A, B = Tenant("a"), Tenant("b")
FOUND = Finding("terms.politics", "politics", 3, 9)
BLOCK = Decision("block", "input", ((FOUND, "block"),), "f" * 64)
FLAG = Decision("flag", "input", ((FOUND, "flag"),), "f" * 64)
_TASKS = 40
_EACH = 8
_WRITER = """
import asyncio, sys
from pathlib import Path
from deepwell.safety.audit.trail import AuditOptions, AuditTrail
from deepwell.storage.database import Database, Tenant
from deepwell.storage.safety.anchors import Anchors
from deepwell.storage.safety.audit import AuditStore
from deepwell.storage.safety.chain import AuditRecord

async def main(folder, name):
    database = Database.open(folder / "deepwell.db")
    trail = AuditTrail(AuditStore(database, Anchors(folder / name)), AuditOptions(max_delay_s=0.001))
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(60):
        record = AuditRecord("decision", 1000 + number, {"writer": name, "number": number})
        await trail.record(Tenant("a"), record, durable=number % 3 == 0)
    await trail.close()
    database.close()

asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
"""


async def lines_of(store: AuditStore, tenant: Tenant) -> list[dict[str, object]]:
    [chain] = await store.chains(tenant)
    return [json.loads(line) async for line in entries(store, chain)]


def drawn(task: int, number: int = 0) -> str:
    """The id of a request as a server draws it, which the trail keeps as it is."""
    return f"req_{task:016x}{number:016x}"


async def test_many_tasks_append_to_one_trail_without_a_break(tmp_path: Path) -> None:
    database = Database.open(tmp_path / "deepwell.db")
    store = AuditStore(database, Anchors(tmp_path / "anchors"))
    trail = AuditTrail(store, AuditOptions(max_delay_s=0.001))

    async def requests(task: int) -> None:
        for number in range(_EACH):
            decision = BLOCK if (task + number) % 3 == 0 else FLAG
            tenant = B if task % 4 == 0 else A
            await trail.decided(tenant, decision, RequestFacts(drawn(task, number)))

    async with asyncio.TaskGroup() as group:
        for task in range(_TASKS):
            group.create_task(requests(task))
    await trail.close()
    told: list[str] = []
    for tenant in (A, B):
        [chain] = await store.chains(tenant)
        verified = verify_chain(store, chain.id)
        assert verified.holds and verified.anchors, verified.problems
        lines = await lines_of(store, tenant)
        assert [line["sequence"] for line in lines] == list(range(1, len(lines) + 1))
        mine = [str(line["request_id"]) for line in lines]
        for task in range(_TASKS):  # a request's own entries stand in their order
            of_task = [one for one in mine if one.startswith(f"req_{task:016x}")]
            assert of_task == sorted(of_task)
        told += mine
    assert sorted(told) == sorted(drawn(task, number) for task in range(_TASKS) for number in range(_EACH))
    database.close()


def test_two_processes_append_to_one_trail_without_a_break(tmp_path: Path) -> None:
    database = Database.open(tmp_path / "deepwell.db")
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(tmp_path), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in ("one", "two")
    ]
    try:
        for one in writers:
            assert one.stdout is not None and one.stdout.readline() == "ready\n"
        for one in writers:
            assert one.stdin is not None
            one.stdin.write("go\n")
            one.stdin.flush()
        assert [one.wait(120) for one in writers] == [0, 0]
    finally:
        for one in writers:
            one.kill()
            one.communicate()
    store = AuditStore(database)
    [chain] = asyncio.run(store.chains(A))
    assert verify_chain(store, chain.id).holds
    lines = asyncio.run(lines_of(store, A))
    for name in ("one", "two"):
        assert [line["number"] for line in lines if line["writer"] == name] == list(range(60))
        # Each host's anchor is of an entry that the trail still has.
        assert verify_chain(AuditStore(database, Anchors(tmp_path / name)), chain.id).holds
    database.close()


def fill(database: Database) -> None:
    """Leaves the database no page to grow by, as a full disk does: SQLite answers `SQLITE_FULL`."""
    database.write_now(lambda connection: connection.exec_driver_sql("PRAGMA max_page_count = 1"))


def free(database: Database) -> None:
    database.write_now(lambda connection: connection.exec_driver_sql("PRAGMA max_page_count = 1000000"))


@pytest.mark.parametrize("on_failure", ["allow", "block"])
async def test_a_full_disk_has_the_declared_effect_and_leaves_the_trail_whole(
    on_failure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trail_module, "_RETRIED_AFTER_S", 0.001)
    database = Database.open(tmp_path / "deepwell.db")
    store = AuditStore(database, Anchors(tmp_path / "anchors"))
    options = AuditOptions(max_delay_s=0.001, most_pending=3, on_failure=on_failure)  # pyright: ignore[reportArgumentType]
    trail = AuditTrail(store, options)
    await trail.decided(A, BLOCK, RequestFacts(drawn(1)))
    fill(database)
    long = "x" * 100_000  # more than is left in the last page

    def event(number: int) -> AuditRecord:
        return AuditRecord("decision", 2000 + number, {"number": number, "note": long})

    with pytest.raises(StorageUnavailable, match="full"):
        await trail.record(A, event(0), durable=True)
    for number in (1, 2, 3):
        await trail.record(A, event(number))
    if on_failure == "block":
        with pytest.raises(StorageUnavailable, match="wait for the database"):
            await trail.record(A, event(4))
    else:
        await trail.record(A, event(4))
        assert trail.dropped == 1
    free(database)
    await trail.flush()
    await trail.decided(A, BLOCK, RequestFacts(drawn(2)))
    await trail.close()
    [chain] = await store.chains(A)
    assert verify_chain(store, chain.id).holds
    lines = await lines_of(store, A)
    assert [line["number"] for line in lines if "number" in line] == [1, 2, 3]
    assert [line.get("dropped") for line in lines if line["event"] == "gap"] == (
        [1] if on_failure == "allow" else []
    )
    assert lines[-1]["request_id"] == drawn(2)
    database.close()


async def test_an_anchor_that_cannot_be_written_is_reported_and_the_trail_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    database = Database.open(tmp_path / "deepwell.db")
    (tmp_path / "anchors").write_text("no folder")
    store = AuditStore(database, Anchors(tmp_path / "anchors"))
    trail = AuditTrail(store)
    await trail.decided(A, BLOCK, RequestFacts(drawn(1)))
    await trail.close()
    assert "no anchor" in caplog.text
    assert [line["request_id"] for line in await lines_of(store, A)] == [drawn(1)]
    database.close()
