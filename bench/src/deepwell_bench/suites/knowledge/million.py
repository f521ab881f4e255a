"""The vectors of a large store: how long its index takes to build, what memory, how fast and how exactly it is searched."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deepwell.cli.bench.report import Report, percentile, rounded
from deepwell.settings import Settings
from deepwell_bench.harness.assets import bench_cache
from deepwell_bench.workloads.knowledge.help_questions import help_questions
from deepwell_bench.workloads.knowledge.libreoffice_help import help_passages

__all__ = ["bench_million"]

_EMBEDDER: Final = "e5-small-q4"
_WORKER: Final = "deepwell_bench.suites.knowledge.index_worker"
_MIN_CHARACTERS: Final = 60
_WRITTEN: Final = 10_000  # rows that are made at once
_KILL_AT: Final = 0.3  # share of the rows in the graph when the builder is killed


def bench_million(
    report: Report, *, vectors: int = 1_000_000, passages: int = 4_000, noise: float = 0.3, seed: int = 16
) -> dict[str, Any]:
    """Builds and searches side indexes of `vectors` chunks, and of a tenth and a hundredth of that.

    A vector is that of a passage of the LibreOffice help, plus Gaussian noise whose expected length is `noise`, brought back
    to unit length. The queries are the 200 written questions about the help. The largest builder is killed once.
    """
    texts, base, queries = _embedded(report, passages)
    cosine = float((base[:-1] * base[1:]).sum(axis=1).mean())
    report.note(
        f"{len(texts)} passages; noise {noise} makes cosines of {1 / np.sqrt(1 + noise**2):.3f} with the passage"
        f" (two neighbouring passages: {cosine:.3f}); {len(queries)} questions, limit 10"
    )
    where = Settings.load().data_dir
    where.mkdir(parents=True, exist_ok=True)
    results: dict[int, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="bench-million-", dir=where) as name:
        folder = Path(name)
        np.save(folder / "queries.npy", queries)
        for count in sorted({max(vectors // 100, 1_000), max(vectors // 10, 1_000), vectors}):
            _write(folder / "chunks.db", texts, base, count, noise, seed)
            results[count] = _measure(report, folder, count, kill=count == vectors)
    _tell(report, results)
    return _value(results, vectors)


def _embedded(report: Report, count: int) -> tuple[list[str], NDArray[np.float32], NDArray[np.float32]]:
    """Returns passages, English and Chinese in turn, their vectors, and those of the questions."""
    texts = list(
        dict.fromkeys(
            text
            for passage in help_passages()
            if len(passage.english) >= _MIN_CHARACTERS
            for text in (passage.english, passage.chinese)
        )
    )
    step = max(len(texts) // count, 1)
    texts = texts[::step][:count]
    questions = [one.question for one in help_questions()]
    digest = hashlib.sha256("\0".join([_EMBEDDER, *texts, *questions]).encode()).hexdigest()
    path = bench_cache() / f"million-{digest[:16]}.npz"
    if not path.exists():
        from deepwell import LLM

        report.note(f"embedding {len(texts)} passages with {_EMBEDDER}")
        with LLM(_EMBEDDER) as llm:
            base = llm.embed(texts, input_type="passage")
            queries = llm.embed(questions, input_type="query")
        np.savez(path, base=base, queries=queries)
    with np.load(path) as kept:
        return texts, kept["base"], kept["queries"]


def _write(
    path: Path, texts: list[str], base: NDArray[np.float32], count: int, noise: float, seed: int
) -> None:
    """Makes the table of chunks in a SQLite file, or lengthens it to `count`."""
    random = np.random.default_rng((seed, count))
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE IF NOT EXISTS chunks (key INTEGER PRIMARY KEY, vector BLOB, text TEXT)")
    start = connection.execute("SELECT coalesce(max(key), 0) FROM chunks").fetchone()[0]
    for begin in range(start, count, _WRITTEN):
        size = min(_WRITTEN, count - begin)
        chosen = random.integers(0, len(base), size)
        made = random.standard_normal((size, base.shape[1]), np.float32)
        made *= np.float32(noise / np.sqrt(base.shape[1]))
        made += base[chosen]
        made /= np.linalg.norm(made, axis=1, keepdims=True)
        rows = [
            (begin + number + 1, made[number].astype("<f4").tobytes(), texts[chosen[number]])
            for number in range(size)
        ]
        with connection:
            connection.executemany("INSERT INTO chunks VALUES (?, ?, ?)", rows)
    connection.close()


def _measure(report: Report, folder: Path, count: int, *, kill: bool) -> dict[str, Any]:
    side = folder / "side"
    shutil.rmtree(side, ignore_errors=True)
    report.note(f"{count:,} chunks: building")
    began = time.perf_counter()
    killed = _killed(side, folder / "chunks.db", count) if kill else {}
    lost_s = time.perf_counter() - began if kill else 0.0
    built = _run("build", side, folder / "chunks.db")
    build_s = time.perf_counter() - began
    searched = _run("search", side, folder / "queries.npy")
    return {
        **killed,
        "built": built,
        "build_s": build_s,
        "until_kill_s": lost_s,
        "searched": searched,
        "resumed": kill and built["found"] == count and killed.get("covered_at_kill", 0) > 0,
        "side_gb": sum(path.stat().st_blocks * 512 for path in side.rglob("*") if path.is_file()) / 1e9,
    }


def _killed(side: Path, database: Path, count: int) -> dict[str, Any]:
    """Starts a builder and kills it once its graph covers a share of the rows. Returns how many it had saved."""
    command = [sys.executable, "-m", _WORKER, "build", str(side), str(database)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as builder:
        covered = 0
        while builder.poll() is None and covered < _KILL_AT * count:
            time.sleep(0.2)
            covered = _covered(side)
        builder.send_signal(signal.SIGKILL)
    return {"covered_at_kill": _covered(side), "killed": builder.returncode == -signal.SIGKILL}


def _covered(side: Path) -> int:
    try:
        return json.loads((side / "graph.json").read_bytes())["next_serial"]
    except FileNotFoundError:
        return 0


def _run(verb: str, side: Path, path: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", _WORKER, verb, str(side), str(path)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _tell(report: Report, results: dict[int, dict[str, Any]]) -> None:
    report.table(
        "side indexes of large stores",
        ("chunks", "build min", "RSS GB", "files GB", "p50 ms", "p99 ms", "recall", "add ms"),
        [
            (
                f"{count:,}",
                rounded(one["build_s"] / 60, 3),
                rounded(max(one["built"]["rss_gb"], one["searched"]["rss_gb"]), 3),
                rounded(one["side_gb"], 3),
                rounded(1000 * percentile(one["searched"]["times"], 0.5), 3),
                rounded(1000 * percentile(one["searched"]["times"], 0.99), 3),
                rounded(one["searched"]["recall"]),
                rounded(1000 * one["searched"]["add_s"], 3),
            )
            for count, one in results.items()
        ],
    )
    last = results[max(results)]
    report.note(
        f"of the largest, the last builder applied for {last['built']['apply_s'] / 60:.1f} minutes (reading the database:"
        f" {last['built']['read_s'] / 60:.1f}), and built the graph for {last['built']['graph_s'] / 60:.1f}"
    )
    report.note(
        f"the builder was killed after {last['until_kill_s'] / 60:.1f} minutes, with {last['covered_at_kill']:,} rows in its"
        f" saved graph and all {last['built']['found']:,} rows applied; build minutes include what it lost"
    )


def _value(results: dict[int, dict[str, Any]], vectors: int) -> dict[str, Any]:
    largest = results[vectors]
    value: dict[str, Any] = {
        "vectors": vectors,
        "build_minutes": rounded(largest["build_s"] / 60),
        "rss_gb": rounded(max(largest["built"]["rss_gb"], largest["searched"]["rss_gb"])),
        "p50_ms": rounded(1000 * percentile(largest["searched"]["times"], 0.5)),
        "p99_ms": rounded(1000 * percentile(largest["searched"]["times"], 0.99)),
        "recall_at_10": rounded(largest["searched"]["recall"]),
        "least_recall_at_10": rounded(min(one["searched"]["recall"] for one in results.values())),
        "recovered": bool(largest["resumed"] and largest["killed"]),
        "covered_at_kill": largest["covered_at_kill"],
    }
    for count, one in results.items():
        if count != vectors:
            value[f"build_minutes_{count}"] = rounded(one["build_s"] / 60)
            value[f"p50_ms_{count}"] = rounded(1000 * percentile(one["searched"]["times"], 0.5))
            value[f"rss_gb_{count}"] = rounded(max(one["built"]["rss_gb"], one["searched"]["rss_gb"]))
    return value
