"""Decode of many sequences at once: what continuous batching gains over one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from deepwell.bench.harness.comparison import TimedEngine, compare
from deepwell.bench.harness.report import Report, rounded
from deepwell.bench.peers.ours import Ours
from deepwell.bench.peers.session import comparison_rows, open_session
from deepwell.bench.suites.engine.profile import bench_profile
from deepwell.bench.workloads.text import prompts
from deepwell.engine.layouts import Precision

__all__ = ["bench_batch"]


def bench_batch(
    report: Report,
    model: Path,
    *,
    precision: Precision,
    threads: int,
    sequences: int = 16,
    rounds: int = 5,
    prompt_tokens: int = 128,
    tokens: int = 64,
    peers: Sequence[str] = ("Q8_0", "Q4_0"),
    also: Sequence[Precision] = (),
    profiled: bool = False,
) -> dict[str, Any]:
    """Measures tokens a second of `sequences` sequences together, in rounds interleaved with the peers.

    Args:
        also: precisions that run in the same rounds; the figures are those of the fastest, which they name.
        profiled: the phases of a step of the fastest are timed next, and their sum is compared with its time here.
    """
    length = prompt_tokens + tokens
    kv_tokens = (sequences + 2) * length
    with (
        open_session(
            report,
            model,
            precision=precision,
            peers=peers,
            threads=threads,
            rounds=rounds,
            kv_tokens=kv_tokens,
        ) as session,
        ExitStack() as stack,
    ):
        candidates: dict[str, tuple[Precision, Ours]] = {session.ours.name: (precision, session.ours)}
        for other in also:
            side = Ours(model, other, threads=threads, kv_tokens=kv_tokens)
            stack.callback(side.close)
            candidates[side.name] = (other, side)

        def run(side: TimedEngine, number: int, count: int = sequences):
            return side.generate(prompts(model, prompt_tokens, number, count), tokens)

        session.prepare_peers(lambda side: run(side, 0), context=length, sequences=sequences)
        sides: list[TimedEngine] = [*(side for _, side in candidates.values()), *session.peers]
        result = compare({side.name: lambda number, side=side: run(side, number) for side in sides}, rounds)
        ours = result.best(list(candidates))
        chosen, engine = candidates[ours]
        alone = max(run(engine, number, 1).rate for number in range(3))
        report.table(
            f"Decode, batch {sequences}, {prompt_tokens} tokens of prompt, {tokens} generated each",
            ["engine", "weights MB", "tokens/s", "spread", "ours / this"],
            comparison_rows(result, ours, sides),
        )
        value: dict[str, Any] = {
            "sequences": sequences,
            "precision": chosen,
            "tokens_per_s": rounded(result.median(ours)),
            "over_batch_1": rounded(result.median(ours) / alone, 3),
        }
        if session.peers:
            best = result.best([peer.name for peer in session.peers])
            value |= {
                "ratio": rounded(result.ratio(ours, best), 3),
                "peer": best,
                "peer_tokens_per_s": rounded(result.median(best)),
            }
            if also:
                value |= {
                    f"{name}_ratio": rounded(result.ratio(side, best), 3)
                    for side, (name, _) in candidates.items()
                }
    if profiled:
        step_ms = 1e3 * sequences / value["tokens_per_s"]
        value |= _beside_phases(
            report, model, chosen, threads, sequences, rounds, (prompt_tokens, tokens), step_ms
        )
    return value


def _beside_phases(
    report: Report,
    model: Path,
    precision: Precision,
    threads: int,
    sequences: int,
    rounds: int,
    lengths: tuple[int, int],
    step_ms: float,
) -> dict[str, Any]:
    """Returns the sum of the phases of a step beside its time in a run; `lengths` are those of prompt and answer."""
    made = bench_profile(
        report,
        model,
        precision=precision,
        threads=threads,
        rows=sequences,
        rounds=rounds,
        prompt_tokens=lengths[0],
        tokens=lengths[1],
    )
    return {
        "step_ms": rounded(step_ms),
        "profile_ms": made["total_ms"],
        "profile_over_step": rounded(made["total_ms"] / step_ms, 3),
    }
