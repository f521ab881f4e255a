"""The audit trail when its writers are killed."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from deepwell.storage.database import Database
from deepwell.storage.safety.anchors import Anchors
from deepwell.storage.safety.audit import AuditStore
from deepwell.storage.safety.verify import verify_chain

WRITER = "deepwell_bench.workers.safety.audit_writer"


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_what_was_acknowledged_survives_sigkill_and_the_chain_is_whole(kind, request, tmp_path):
    if kind == "sqlite":
        where = str(tmp_path / "deepwell.db")
        database = Database.open(Path(where))
    else:
        where = request.getfixturevalue("postgres").emptied()
        database = Database.connect(where)
    acknowledged = {}
    writers = {
        name: subprocess.Popen(
            [sys.executable, "-m", WRITER, where, tmp_path / "anchors", name],
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in ("first", "second")
    }
    try:
        for name, writer in writers.items():
            assert writer.stdout is not None
            for _ in range(20):
                acknowledged[name] = int(writer.stdout.readline())
        for name, writer in writers.items():
            writer.kill()
            rest = writer.communicate()[0].split()
            acknowledged[name] = int(rest[-1]) if rest else acknowledged[name]
    finally:
        for writer in writers.values():
            writer.kill()
    try:
        store = AuditStore(database, Anchors(tmp_path / "anchors"))
        [chain] = asyncio.run(store.chains())
        result = verify_chain(store, chain.id)
        assert result.holds, result.problems
        assert result.anchors
        _, rows = store.rows(chain.id, 0, 100_000)
        kept = {name: [] for name in writers}
        for _, at_ms, entry, _ in rows:
            kept[json.loads(entry)["model"]].append(at_ms)
        for name, numbers in kept.items():
            # In order, without a gap, and with all that was recorded before what was acknowledged.
            assert numbers == list(range(1, len(numbers) + 1))
            assert len(numbers) >= acknowledged[name] >= 40
    finally:
        database.close()
