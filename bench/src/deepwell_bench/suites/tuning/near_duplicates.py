"""Near-duplicates: natural and injected ones of BBC News against all pairs, a million short records, and datasketch beside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import numpy as np

from deepwell.cli.bench.report import Report, rounded
from deepwell.llm import LLM
from deepwell.tuning.data.model import EngineEmbedder
from deepwell.tuning.data.near_duplicates import near_duplicates
from deepwell.tuning.data.semantic import MIN_COSINE
from deepwell_bench.harness.assets import WORKERS, e5_small
from deepwell_bench.harness.environments import Environment, Install, PeerError, environment_python
from deepwell_bench.workloads.swaps import paraphrase_pairs, swap_pairs
from deepwell_bench.workloads.tuning.duplicates import (
    bbc_documents,
    edited,
    plain_shingles,
    plain_units,
    short_records,
    similar_pairs,
)

__all__ = ["DATASKETCH", "bench_near_duplicates"]

DATASKETCH = Environment(
    name="datasketch",
    variable="DEEPWELL_DATASKETCH_PYTHON",
    installs=(Install(("datasketch==2.0.0",)),),
    check="import datasketch",
    download_mb=60,
    disk_mb=200,
    minutes=1,
)
_SIMILAR: Final = 0.9
_EDITED: Final = 2000
_SWAPS: Final = 20  # of each family
_PEER_RECORDS: Final = 100_000
_Pairs = set[tuple[int, int]]


def bench_near_duplicates(report: Report, *, records: int = 1_000_000, peer: bool = True) -> dict[str, Any]:
    """Returns the recall on natural and injected near-duplicates, the false ones, and the cost of many short records.

    Args:
        records: number of short records.
        peer: whether datasketch is measured beside.

    Raises:
        PeerError: the peer's environment cannot be built, or one of the programs fails.
    """
    python = environment_python(DATASKETCH, report.console) if peer else None
    rows: list[tuple[str, ...]] = []
    value: dict[str, Any] = {}
    documents = bbc_documents()
    pairs = edited(documents, _EDITED)
    sets = {
        "natural": (documents, None),
        "injected": (
            [text for pair in pairs for text in pair],
            {(at, at + 1) for at in range(0, 2 * len(pairs), 2)},
        ),
    }
    for name, (texts, asked) in sets.items():
        units = [plain_units(text) for text in texts]
        truth = set(similar_pairs([plain_shingles(one) for one in units], _SIMILAR))
        wanted = truth if asked is None else truth & asked
        began = time.perf_counter()
        found = near_duplicates(texts, _SIMILAR)
        took = time.perf_counter() - began
        together = {pair for cluster in found.clusters for pair in combinations(cluster, 2)}
        dropped = {(min(i, twin.kept), max(i, twin.kept)) for i, twin in found.dropped.items()}
        value |= {
            f"{name}_pairs": len(wanted),
            f"{name}_found": len(wanted & together),
            f"{name}_recall": rounded(len(wanted & together) / len(wanted)),
            f"{name}_false": len(dropped - truth),
            f"{name}_took_s": rounded(took),
        }
        rows.append(_row(name, "Deepwell", texts, wanted, together, len(dropped - truth), took))
        if python is not None:
            theirs, took = _datasketch(python, units)
            value[f"{name}_datasketch_recall"] = rounded(len(wanted & theirs) / len(wanted))
            value[f"{name}_datasketch_false"] = len(theirs - truth)
            rows.append(_row(name, "datasketch", texts, wanted, theirs, len(theirs - truth), took))
    columns = ("set", "by", "texts", "pairs >= 0.9", "found", "recall", "false", "s")
    report.table("near-duplicates of BBC News", columns, rows)
    return value | _meaning(report) | _million(report, documents, records, python)


def _row(
    name: str, by: str, texts: Sequence[str], wanted: _Pairs, found: _Pairs, false: int, took: float
) -> tuple[str, ...]:
    hit = len(wanted & found)
    counts = (len(texts), len(wanted), hit)
    return (name, by, *map(str, counts), f"{hit / len(wanted):.4f}", str(false), f"{took:.2f}")


def _datasketch(python: Path, texts: Sequence[list[str]]) -> tuple[_Pairs, float]:
    """Returns the candidate pairs of datasketch's defaults, which verify none of them, and the time in seconds.

    Args:
        texts: units of each text, so that both compare the same sets.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl", encoding="utf-8") as file:
        file.writelines(json.dumps(text) + "\n" for text in texts)
        file.flush()
        command = [str(python), str(WORKERS / "datasketch_worker.py"), file.name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PeerError(f"datasketch failed: {done.stderr.strip().splitlines()[-1:]}")
    said = json.loads(done.stdout)
    return {(one, other) for one, other in said["pairs"]}, said["took_s"]


def _meaning(report: Report) -> dict[str, Any]:
    """Returns which shares of paraphrases, and of questions that differ in one word and so in meaning, would be dropped."""
    pairs = [*paraphrase_pairs(), *swap_pairs(_SWAPS)]
    with LLM(e5_small()) as llm:
        embed = EngineEmbedder(llm)
        first, second = embed([one.first for one in pairs]), embed([one.second for one in pairs])
    cosines = np.einsum("nd,nd->n", first, second)
    same = np.array([one.family == "paraphrase" for one in pairs])
    languages = np.array([one.language for one in pairs])
    rows: list[tuple[str, ...]] = []
    value: dict[str, Any] = {}
    for language in ("en", "zh"):
        for least in (0.9, 0.93, 0.95, 0.97, MIN_COSINE):
            alike = cosines >= least
            found, wrong = (float(alike[(languages == language) & kind].mean()) for kind in (same, ~same))
            rows.append((language, str(least), f"{found:.1%}", f"{wrong:.1%}"))
            if least == MIN_COSINE:
                value[f"paraphrases_{language}_dropped"] = rounded(found)
                value[f"swaps_{language}_dropped"] = rounded(wrong)
    report.table(
        f"questions by meaning, e5-small-q4: {int(same.sum())} paraphrases, {int((~same).sum())} swaps of a word",
        ("language", "least cosine", "paraphrases dropped", "swaps dropped"),
        rows,
    )
    return value


def _million(report: Report, documents: Sequence[str], records: int, python: Path | None) -> dict[str, Any]:
    """Runs `deepwell data dedup` on short records, in a process whose memory is measured."""
    with tempfile.TemporaryDirectory() as scratch:
        path, kept = Path(scratch) / "records.jsonl", Path(scratch) / "kept.jsonl"
        origins: dict[int, int] = {}
        texts: list[str] = []
        with path.open("w", encoding="utf-8") as file:
            for index, (text, origin) in enumerate(short_records(documents, records)):
                file.write(json.dumps({"text": text}) + "\n")
                if origin is not None:
                    origins[index] = origin
                if index < _PEER_RECORDS:
                    texts.append(text)
        command = [sys.executable, "-m", "deepwell", "data", "dedup", str(path), "-o", str(kept), "--json"]
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        said = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        took = time.perf_counter() - began
        if process.returncode:
            raise PeerError(f"deepwell data dedup failed: {said[-300:]}")
        account = json.loads(said)
        removed = {
            one["line"] - 1
            for one in map(json.loads, kept.with_name("kept.jsonl.removed.jsonl").open(encoding="utf-8"))
        }
    peak = usage.ru_maxrss * 1024
    rows = [("Deepwell", f"{records:,}", f"{took:.1f}", f"{peak / 1e9:.2f}", f"{len(removed):,}")]
    value = {
        "records": account["read"],
        "accounted": account["read"] == account["kept"] + account["dropped"] == records,
        "minutes": rounded(took / 60),
        "rss_gb": rounded(peak / 1e9),
        "copies": len(origins),
        "dropped": account["dropped_by_reason"],
        "copies_dropped_share": rounded(len(removed & origins.keys()) / max(1, len(origins))),
    }
    if python is not None:
        theirs, took = _datasketch(python, [plain_units(text) for text in texts])
        value["datasketch_s_per_100k"] = rounded(took * 100_000 / len(texts))
        rows.append(
            ("datasketch", f"{len(texts):,}", f"{took:.1f}", "-", f"{len({two for _, two in theirs}):,}")
        )
    report.table("short records", ("by", "records", "s", "GB", "dropped"), rows)
    return value
