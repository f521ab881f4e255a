"""Prefill: tokens of a prompt a second, against the arithmetic roof and llama.cpp."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deepwell.cli.bench.report import Report, rounded
from deepwell.cli.bench.roofs import Roofs, measure_roofs
from deepwell.engine.layouts import Precision
from deepwell_bench.harness.comparison import TimedEngine, compare
from deepwell_bench.peers.session import comparison_rows, open_session
from deepwell_bench.workloads.text import prompts

__all__ = ["bench_prefill"]


def bench_prefill(
    report: Report,
    model: Path,
    *,
    precision: Precision,
    threads: int,
    rounds: int = 7,
    prompt_tokens: int = 512,
    peers: Sequence[str] = ("Q8_0", "Q4_0"),
) -> dict[str, Any]:
    """Times a prompt from an empty cache to the first token, in rounds interleaved with the peers."""
    with open_session(
        report,
        model,
        precision=precision,
        peers=peers,
        threads=threads,
        rounds=rounds,
        kv_tokens=2 * prompt_tokens,
    ) as session:

        def run(side: TimedEngine, number: int):
            return side.prefill(prompts(model, prompt_tokens, number)[0])

        session.prepare_peers(lambda side: run(side, 0), context=prompt_tokens + 16)
        sides: list[TimedEngine] = [session.ours, *session.peers]
        measured: list[Roofs] = []
        result = compare(
            {side.name: lambda number, side=side: run(side, number) for side in sides},
            rounds,
            lambda: measured.append(measure_roofs(threads, seconds=0.2)),
        )
        ours = session.ours.name
        roofs = [session.work.prefill_roof(peak, prompt_tokens) for peak in measured]
        roof = statistics.median(rate / limit for rate, limit in zip(result.rates[ours], roofs, strict=True))
        gemm = statistics.median(peak.of(session.work.scheme) for peak in measured)
        fp32 = statistics.median(peak.fp32 for peak in measured)
        report.table(
            f"Prefill, {prompt_tokens} tokens",
            ["engine", "weights MB", "tokens/s", "spread", "ours / this"],
            [
                *comparison_rows(result, ours, sides),
                [
                    "arithmetic roof",
                    "",
                    statistics.median(roofs),
                    f"{gemm:.0f} and {fp32:.0f} GMAC/s",
                    rounded(roof, 3),
                ],
            ],
        )
        value: dict[str, Any] = {
            "tokens_per_s": rounded(result.median(ours)),
            "roof": rounded(roof, 3),
            "roof_tokens_per_s": rounded(statistics.median(roofs)),
            "gemm_gmac": rounded(session.work.prefill_gemm_macs(prompt_tokens) / 1e9),
            "attention_gmac": rounded(session.work.prefill_attention_macs(prompt_tokens) / 1e9),
            f"{session.work.scheme}_gmac_per_s": rounded(gemm),
            "fp32_gmac_per_s": rounded(fp32),
        }
        if session.peers:
            best = result.best([peer.name for peer in session.peers])
            value |= {
                "ratio": rounded(result.ratio(ours, best), 3),
                "peer": best,
                "peer_tokens_per_s": rounded(result.median(best)),
            }
        return value
