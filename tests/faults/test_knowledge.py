"""A process that is killed in any stage of ingestion loses nothing, and the next one repeats nothing."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from deepwell.knowledge.ingest import ChunkingStrategy
from deepwell.storage.database import LOCAL, Database
from deepwell.storage.files import FileStore
from deepwell.storage.knowledge import KnowledgeStorage
from deepwell.storage.knowledge.files import Attachment

pytestmark = pytest.mark.fault

WORKER = Path(__file__).with_name("ingest_worker.py")
CHUNKS = 80  # more than two batches of embedding


async def fill(data: Path) -> str:
    database = Database.open(data / "deepwell.db")
    files, kept = FileStore(database, data / "files"), KnowledgeStorage(database)
    store = await kept.stores.create(LOCAL, name="base", embedder="hash")
    path = data / "source.txt"
    path.write_text(
        "\n\n".join(f"w{n} says something of topic {n} and of nothing else." for n in range(CHUNKS))
    )
    stored = await files.create(LOCAL, filename="a.txt", purpose="assistants", content=path)
    strategy = ChunkingStrategy(16, 0).encoded()
    await kept.files.attach(LOCAL, store.id, [Attachment(stored.id, chunking=strategy)])
    database.close()
    return store.id


def work(data: Path, log: Path, stage: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(WORKER), str(data), str(log), stage],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("stage", ["parse", "chunk", "embed", "publish"])
async def test_sigkill_in_a_stage_loses_nothing_and_repeats_nothing(tmp_path, stage):
    store_id = await fill(tmp_path)
    first, second = tmp_path / "first.log", tmp_path / "second.log"
    with work(tmp_path, first, stage) as worker:
        assert worker.stdout.readline() == "reached\n"
        worker.kill()
    with work(tmp_path, second, "none") as worker:
        assert worker.wait(60) == 0

    database = Database.open(tmp_path / "deepwell.db")
    try:
        kept = KnowledgeStorage(database)
        assert (await kept.stores.counts(LOCAL, [store_id]))[store_id]["completed"] == 1
        delta = await kept.chunks.delta(LOCAL, store_id, 0)
        assert [text.split()[0] for text in delta.texts] == [f"w{n}" for n in range(CHUNKS)]
        assert abs(delta.vectors).sum(axis=1).min() > 0
    finally:
        database.close()

    before, after = (path.read_text().splitlines() for path in (first, second))
    done = Counter(line for line in before + after if not line.startswith("stage"))
    again = {line for line, count in done.items() if count > 1}
    assert again == set()
    assert len(done) == 1 + CHUNKS
