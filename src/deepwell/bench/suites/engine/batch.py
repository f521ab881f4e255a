"""Decode of many sequences at once: what continuous batching gains over one."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from deepwell.bench.harness.comparison import Comparison, TimedEngine, compare
from deepwell.bench.harness.report import Report, rounded
from deepwell.bench.peers.ours import Ours
from deepwell.bench.peers.session import comparison_rows, open_session
from deepwell.bench.suites.engine.profile import step_phases
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
        profiled: rounds of the fastest follow, in which the phases of a step and its time take turns.
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
            value |= _beside_phases(
                lambda number: 1e3 * sequences / run(engine, number).rate,
                lambda number: step_phases(engine, prompts(model, prompt_tokens, number, sequences), tokens),
                rounds,
            )
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


def _beside_phases(
    step_ms: Callable[[int], float], phases: Callable[[int], Mapping[str, float]], rounds: int
) -> dict[str, Any]:
    """Returns the time of a step, the sum of its phases, and the median of the ratios of each round."""
    phases(0)
    steps: list[float] = []
    sums: list[float] = []
    for number in range(1, rounds + 1):
        if number % 2:
            steps.append(step_ms(number))
        sums.append(1e3 * sum(phases(number).values()))
        if not number % 2:
            steps.append(step_ms(number))
    return {
        "step_ms": rounded(statistics.median(steps)),
        "profile_ms": rounded(statistics.median(sums)),
        "profile_over_step": rounded(
            statistics.median(whole / step for whole, step in zip(sums, steps, strict=True)), 3
        ),
    }
