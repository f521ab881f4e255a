"""Decode of many sequences at once: what continuous batching gains over one."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from deepwell.cli.bench.engine import Ours
from deepwell.cli.bench.phases import step_phases
from deepwell.cli.bench.report import Report, rounded
from deepwell.engine.layouts import Precision
from deepwell_bench.harness.comparison import Comparison, TimedEngine, compare
from deepwell_bench.peers.session import comparison_rows, open_session
from deepwell_bench.workloads.text import prompts

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
    tokens: int | None = None,
    peers: Sequence[str] = ("Q8_0", "Q4_0"),
    also: Sequence[Precision] = (),
    profiled: bool = False,
) -> dict[str, Any]:
    """Measures tokens a second of `sequences` sequences together, in rounds interleaved with the peers.

    Args:
        tokens: of an answer; None: twice the sequences, and at least 64. Prompts join one in a step, and steps count once all
            have joined.
        also: precisions that run in the same rounds; the figures are those of the fastest, which they name.
        profiled: rounds of the fastest follow, in which the phases of a step are timed beside the whole.
    """
    tokens = tokens or max(64, 2 * sequences)
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
            sequences=sequences,
        ) as session,
        ExitStack() as stack,
    ):
        candidates: dict[str, tuple[Precision, Ours]] = {session.ours.name: (precision, session.ours)}
        for other in also:
            side = Ours(model, other, threads=threads, kv_tokens=kv_tokens, sequences=sequences)
            stack.callback(side.close)
            candidates[side.name] = (other, side)

        def run(side: TimedEngine, number: int, count: int = sequences):
            return side.generate(prompts(model, prompt_tokens, number, count), tokens)

        session.prepare_peers(lambda side: run(side, 0), context=length, sequences=sequences)
        sides: list[TimedEngine] = [*(side for _, side in candidates.values()), *session.peers]
        alone = {name: f"{name}, one sequence" for name in candidates}
        runs = {side.name: lambda number, side=side: run(side, number) for side in sides}
        runs |= {
            alone[name]: lambda number, side=side: run(side, number, 1)
            for name, (_, side) in candidates.items()
        }
        result = compare(runs, rounds)
        ours = result.best(list(candidates))
        chosen, engine = candidates[ours]
        report.table(
            f"Decode, batch {sequences}, {prompt_tokens} tokens of prompt, {tokens} generated each",
            ["engine", "weights MB", "tokens/s", "spread", "ours / this"],
            comparison_rows(result, ours, sides),
        )
        value: dict[str, Any] = {
            "sequences": sequences,
            "precision": chosen,
            "tokens_per_s": rounded(result.median(ours)),
            "over_batch_1": rounded(result.ratio(ours, alone[ours]), 3),
        }
        if session.peers:
            names: dict[str, str] = {name: side for side, (name, _) in candidates.items()} if also else {}
            value |= _against(result, ours, [peer.name for peer in session.peers], names)
        if profiled:
            groups = [prompts(model, prompt_tokens, number, sequences) for number in range(rounds + 1)]
            value |= _beside_phases(engine, groups, tokens)
    return value


def _against(
    result: Comparison, ours: str, peers: Sequence[str], precisions: Mapping[str, str]
) -> dict[str, Any]:
    """Returns the ratio to the best of the peers, and those of our other precisions."""
    best = result.best(peers)
    return {
        "ratio": rounded(result.ratio(ours, best), 3),
        "peer": best,
        "peer_tokens_per_s": rounded(result.median(best)),
        **{f"{name}_ratio": rounded(result.ratio(side, best), 3) for name, side in precisions.items()},
    }


def _beside_phases(engine: Ours, groups: Sequence[Sequence[Sequence[int]]], tokens: int) -> dict[str, Any]:
    """Returns the time of a step, the sum of its phases and their ratio, medians over the groups; the first warms up."""
    steps: list[float] = []
    sums: list[float] = []
    for group in groups:
        phases, run = step_phases(engine, group, tokens)
        sums.append(1e3 * sum(phases.values()))
        steps.append(1e3 * len(group) / run.rate)
    ratios = [whole / step for whole, step in zip(sums, steps, strict=True)]
    return {
        "step_ms": rounded(statistics.median(steps[1:])),
        "profile_ms": rounded(statistics.median(sums[1:])),
        "profile_over_step": rounded(statistics.median(ratios[1:]), 3),
    }
