"""Time to the first token when a long prefix is already in the cache, against a cold cache."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from deepwell.cli.bench.engine import Ours
from deepwell.cli.bench.report import Report, rounded
from deepwell.engine.layouts import Precision
from deepwell_bench.workloads.text import prompts

__all__ = ["bench_prefix"]


def bench_prefix(
    report: Report,
    model: Path,
    *,
    precision: Precision,
    threads: int,
    rounds: int = 7,
    prefix_tokens: int = 1024,
    tail_tokens: int = 16,
) -> dict[str, Any]:
    """Times a shared prefix followed by a question of its own; the warm run follows another question on the same prefix."""
    length = prefix_tokens + tail_tokens
    ours = Ours(model, precision, threads=threads, kv_tokens=4 * length)
    cold: list[float] = []
    warm: list[float] = []
    try:
        ours.prefill(prompts(model, length, 0)[0])
        for number in range(1, rounds + 1):
            prefix = prompts(model, prefix_tokens, number)[0]
            question, other = prompts(model, tail_tokens, number, 2)
            salt = f"tenant-{number}"
            cold.append(ours.prefill([*prefix, *question], salt=f"{salt}-cold").seconds)
            ours.prefill([*prefix, *other], salt=salt)
            warm.append(ours.prefill([*prefix, *question], salt=salt).seconds)
    finally:
        ours.close()
    ratio = statistics.median(a / b for a, b in zip(cold, warm, strict=True))
    report.table(
        f"First token after {prefix_tokens} + {tail_tokens} tokens of prompt",
        ["prefix", "ms", "spread ms"],
        [
            ["cold", statistics.median(cold) * 1e3, f"{min(cold) * 1e3:.1f}-{max(cold) * 1e3:.1f}"],
            ["cached", statistics.median(warm) * 1e3, f"{min(warm) * 1e3:.1f}-{max(warm) * 1e3:.1f}"],
        ],
    )
    return {
        "ratio": rounded(ratio, 3),
        "cold_ms": rounded(statistics.median(cold) * 1e3),
        "cached_ms": rounded(statistics.median(warm) * 1e3),
        "prefix_tokens": prefix_tokens,
        "precision": precision,
    }
