"""Decode at batch 1: how near to the memory roof, and how far ahead of llama.cpp."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from deepwell.cli.bench.engine import Ours
from deepwell.cli.bench.report import Report, rounded
from deepwell.cli.bench.roofs import measure_roof, work_of
from deepwell.engine.layouts import Precision
from deepwell.models.formats.checkpoint import open_checkpoint
from deepwell.process.energy import EnergyMeter
from deepwell_bench.harness.comparison import Comparison, TimedEngine, compare
from deepwell_bench.peers.session import Session, comparison_rows, open_session
from deepwell_bench.workloads.text import prompts

__all__ = ["bench_decode"]

PEERS: dict[str, tuple[str, ...]] = {
    "int8": ("Q8_0",),
    "int4": ("Q4_0", "Q4_1"),
    "int4-full": ("Q4_0", "Q4_1"),
    "bf16": (),
    "fp16": (),
    "fp32": (),
}


def bench_decode(
    report: Report,
    model: Path,
    *,
    precision: Precision,
    threads: int,
    rounds: int = 7,
    prompt_tokens: int = 128,
    tokens: int = 128,
    peers: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Measures tokens a second of one sequence, in rounds interleaved with the peers of the same bits a weight.

    Beside int4 runs int4-full, whose head has 4 bits as well: for information, no bar holds it.
    """
    files = PEERS[precision] if peers is None else peers
    length = prompt_tokens + tokens
    with (
        open_session(
            report,
            model,
            precision=precision,
            peers=files,
            threads=threads,
            rounds=rounds,
            kv_tokens=2 * length,
        ) as session,
        ExitStack() as stack,
    ):
        also: list[Ours] = []
        if precision == "int4":
            full = Ours(model, "int4-full", threads=threads, kv_tokens=2 * length)
            stack.callback(full.close)
            also.append(full)

        def run(side: TimedEngine, number: int):
            return side.generate(prompts(model, prompt_tokens, number), tokens)

        session.prepare_peers(lambda side: run(side, 0), context=length)
        sides: list[TimedEngine] = [session.ours, *also, *session.peers]
        memory: list[float] = []
        context = prompt_tokens + tokens / 2
        read = session.work.decode_bytes(context)
        result = compare(
            {side.name: lambda number, side=side: run(side, number) for side in sides},
            rounds,
            lambda: memory.append(measure_roof("memory", threads, nbytes=read)),
        )
        ours = session.ours.name
        roofs = [session.work.decode_roof(one, context) for one in memory]
        roof = _share(result.rates[ours], roofs)
        spread = f"{min(memory):.1f}-{max(memory):.1f} GB/s"
        report.table(
            f"Decode, batch 1, {prompt_tokens} tokens of prompt, {tokens} generated",
            ["engine", "weights MB", "tokens/s", "spread", "ours / this"],
            [
                *comparison_rows(result, ours, sides),
                ["memory roof", "", statistics.median(roofs), spread, rounded(roof, 3)],
            ],
        )
        value: dict[str, Any] = {
            "tokens_per_s": rounded(result.median(ours)),
            "roof": rounded(roof, 3),
            "roof_tokens_per_s": rounded(statistics.median(roofs)),
            "memory_gb_per_s": rounded(statistics.median(memory), 3),
            "weights_mb_per_token": rounded(session.work.step_bytes / 1e6),
            "kv_mb_per_token": rounded(session.work.kv_bytes_per_token * context / 1e6, 3),
            **_costs(report, session, prompts(model, prompt_tokens, rounds + 1)[0], tokens),
        }
        for side in also:
            value |= _int4_full(model, side, result, memory, context)
        if session.peers:
            best = result.best([peer.name for peer in session.peers])
            value |= {
                "ratio": rounded(result.ratio(ours, best), 3),
                "peer": best,
                "peer_tokens_per_s": rounded(result.median(best)),
                "peer_weights_mb": {peer.name: rounded(peer.weights_bytes / 1e6) for peer in session.peers},
            }
        return value


def _costs(report: Report, session: Session, prompt: Sequence[int], tokens: int) -> dict[str, Any]:
    """Returns processor time, bytes and energy of a token of ours; the energy is that of all packages of the machine."""
    cost, count = session.ours.decode_cost(prompt, tokens, EnergyMeter())
    read = round(session.work.decode_bytes(len(prompt) + tokens / 2))
    joules = f"unknown ({cost.reason})" if cost.joules is None else f"{cost.joules / count:.3f}"
    report.note(
        f"a token of {session.ours.name}: {cost.cpu_seconds / count:.5f} processor seconds of all threads, "
        f"{read / 1e6:.1f} MB of weights and cache read, joules {joules}"
    )
    return {
        "bytes_per_token": read,
        "cpu_seconds_per_token": rounded(cost.cpu_seconds / count, 3),
        "joules_per_token": None if cost.joules is None else rounded(cost.joules / count, 3),
        "joules_unknown": cost.reason,
    }


def _int4_full(
    model: Path, side: Ours, result: Comparison, memory: Sequence[float], context: float
) -> dict[str, Any]:
    """Returns the figures of the model whose head has 4 bits as well, against its own roof."""
    work = work_of(open_checkpoint(model).config, "int4-full", kv_dtype=side.kv_dtype)
    roofs = [work.decode_roof(read, context) for read in memory]
    return {
        "int4_full_tokens_per_s": rounded(result.median(side.name)),
        "int4_full_roof": rounded(_share(result.rates[side.name], roofs), 3),
        "int4_full_weights_mb_per_token": rounded(work.step_bytes / 1e6),
    }


def _share(rates: Sequence[float], roofs: Sequence[float]) -> float:
    """Returns the median of the rounds' rates over the roofs of the same rounds."""
    return statistics.median(rate / limit for rate, limit in zip(rates, roofs, strict=True))
