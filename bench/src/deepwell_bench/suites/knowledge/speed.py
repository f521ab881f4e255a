"""Speed of knowledge in one process: ingestion of real passages, and hybrid searches over them."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deepwell.cli.bench.report import Report, percentile, rounded
from deepwell.knowledge.ingest import ChunkingStrategy
from deepwell.knowledge.local import LocalKnowledge
from deepwell.knowledge.search import SearchOptions
from deepwell.settings import Settings
from deepwell.storage.knowledge.files import Attachment
from deepwell_bench.workloads.knowledge.help_questions import help_questions
from deepwell_bench.workloads.knowledge.libreoffice_help import help_passages

__all__ = ["bench_speed"]

RECORDS_A_FILE = 500


def bench_speed(report: Report, *, chunks: int = 26_000, rounds: int = 3) -> dict[str, Any]:
    """Returns MB a minute of ingestion, and the latency of searches over `chunks` passages of the LibreOffice help.

    Half of the passages are English, half Chinese. Every query is a written question, and is searched `rounds` times.
    """
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings.load().model_copy(
            update={"data_dir": Path(folder), "state_dir": Path(folder) / "state", "database_url": None}
        )
        return asyncio.run(_measure(report, settings, chunks, rounds))


async def _measure(report: Report, settings: Settings, count: int, rounds: int) -> dict[str, Any]:
    paths, size = _files(settings.data_dir / "corpus", count)
    async with LocalKnowledge(settings) as knowledge:
        store = await knowledge.create("speed", chunking=ChunkingStrategy(by_record=True).encoded())
        attachments: list[Attachment] = []
        began = time.perf_counter()
        for path in paths:
            stored = await knowledge.files.create(
                knowledge.tenant, filename=path.name, purpose="assistants", content=path
            )
            attachments.append(Attachment(stored.id))
        await knowledge.kept.files.attach(knowledge.tenant, store.id, attachments)
        failed = await knowledge.ingest(store.id)
        ingest_s = time.perf_counter() - began
        if failed:
            raise RuntimeError(f"{len(failed)} files failed: {failed[0].error}")
        began = time.perf_counter()
        await knowledge.searcher.synchronise(knowledge.tenant, store.id)
        index_s = time.perf_counter() - began
        chunks = await knowledge.kept.stores.chunk_count(knowledge.tenant, store.id)
        queries = [one.question for one in help_questions()]
        times = {
            arm: await _times(knowledge, store.id, queries, rounds, arm)
            for arm in ("hybrid", "lexical", "dense")
        }
    report.table(
        f"searches over {chunks:,} chunks, with the embedding of the query",
        ("ranking", "p50 ms", "p99 ms"),
        [(arm, 1000 * percentile(mine, 0.5), 1000 * percentile(mine, 0.99)) for arm, mine in times.items()],
    )
    return {
        "chunks": chunks,
        "p50_ms": rounded(1000 * percentile(times["hybrid"], 0.5)),
        "p99_ms": rounded(1000 * percentile(times["hybrid"], 0.99)),
        "lexical_p50_ms": rounded(1000 * percentile(times["lexical"], 0.5)),
        "dense_p50_ms": rounded(1000 * percentile(times["dense"], 0.5)),
        "ingest_mb_a_minute": rounded(size / 1e6 / (ingest_s / 60)),
        "ingest_chunks_a_second": rounded(chunks / ingest_s),
        "ingest_minutes": rounded(ingest_s / 60),
        "first_index_s": rounded(index_s),
        "cores": os.cpu_count(),
    }


def _files(folder: Path, count: int) -> tuple[list[Path], int]:
    """Writes the passages as JSONL files, English and Chinese in turn, and returns their paths and bytes."""
    folder.mkdir(parents=True)
    texts: list[str] = []
    for passage in help_passages():
        texts += [passage.english, passage.chinese]
        if len(texts) >= count:
            break
    paths: list[Path] = []
    size = 0
    for begin in range(0, min(count, len(texts)), RECORDS_A_FILE):
        some: Sequence[str] = texts[begin : min(begin + RECORDS_A_FILE, count)]
        path = folder / f"help-{begin:06d}.jsonl"
        path.write_text(
            "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in some), "utf-8"
        )
        paths.append(path)
        size += sum(len(text.encode()) for text in some)
    return paths, size


async def _times(
    knowledge: LocalKnowledge, store_id: str, queries: Sequence[str], rounds: int, ranker: Any
) -> list[float]:
    options = SearchOptions(limit=10, ranker=ranker)
    for query in queries[:5]:  # files that were not read yet, and first calls
        await knowledge.search(store_id, query, options)
    times: list[float] = []
    for _ in range(rounds):
        for query in queries:
            began = time.perf_counter()
            await knowledge.search(store_id, query, options)
            times.append(time.perf_counter() - began)
    return times
