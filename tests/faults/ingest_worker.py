"""A process that ingests until it is killed: `python ingest_worker.py DATA LOG STAGE`.

It writes a line for every stage and every embedded text to LOG. At STAGE it says "reached" on standard output and goes no
further; with STAGE "none" it ends when nothing is left.
"""

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.knowledge.hashing import HashEmbedder
from tests.knowledge.test_ingest import PlainParser
from tests.waiting import until_async

from deepwell.knowledge.ingest import Ingestor
from deepwell.storage.database import LOCAL, Database
from deepwell.storage.files import FileStore
from deepwell.storage.jobs import JobStore
from deepwell.storage.jobs.runner import JobRunner
from deepwell.storage.knowledge import KnowledgeStorage
from deepwell.storage.knowledge.files import INGEST_JOB

LEASE_S = 0.3


class Stopping(Ingestor):
    """Stops for ever when a job reaches a stage."""

    def __init__(self, *given, stage, log, **named):
        super().__init__(*given, **named)
        self.stage, self.log = stage, log

    def _tell(self, run, stage, done, total):
        super()._tell(run, stage, done, total)
        self.log.write(f"stage {stage}\n")
        # "embed" stops in the middle, when a first batch is kept
        if stage == self.stage and (stage != "embed" or done):
            print("reached", flush=True)
            # The process is killed here. The event loop stands still, so that not even its lease is renewed.
            sys.stdin.read()


class Logging(HashEmbedder):
    """Writes what it embeds."""

    def __init__(self, log):
        super().__init__()
        self.log = log

    async def embed(self, texts, input_type):
        for text in texts:
            self.log.write(f"embed {text.split()[0]}\n")
        return await super().embed(texts, input_type)


class LoggingParser(PlainParser):
    """Writes what it parses."""

    def __init__(self, log):
        super().__init__()
        self.log = log

    async def parse(self, tenant, path, filename):
        self.log.write(f"parse {filename}\n")
        return await super().parse(tenant, path, filename)


async def main(data: Path, log_path: Path, stage: str) -> None:
    """Runs the worker."""
    database = Database.open(data / "deepwell.db")
    files, kept, jobs = FileStore(database, data / "files"), KnowledgeStorage(database), JobStore(database)
    with log_path.open("a", buffering=1) as log:
        embedder = Logging(log)

        async def embedder_of(_store):
            return embedder

        ingestor = Stopping(kept, files, LoggingParser(log), embedder_of, stage=stage, log=log)
        runner = JobRunner(jobs, [INGEST_JOB], f"worker-{stage}", ingestor.run, lease_s=LEASE_S)
        runner.start()
        [store] = (await kept.stores.list(LOCAL)).data
        await until_async(
            lambda: kept.stores.counts(LOCAL, [store.id]),
            lambda counts: not counts[store.id].get("in_progress"),
            patience_s=3600,
        )
        await runner.stop()
    database.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]))
