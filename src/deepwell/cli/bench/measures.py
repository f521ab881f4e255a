"""Tokens a second of the engine: one sequence, a prompt, many sequences; beside the roofs of this machine."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deepwell.cli.bench.engine import Ours, Run
from deepwell.cli.bench.machine import machine
from deepwell.cli.bench.report import Report, rounded
from deepwell.cli.bench.roofs import Work, measure_roof, measure_roofs, work_of
from deepwell.cli.bench.text import prompts
from deepwell.engine.layouts import Precision
from deepwell.models.formats.checkpoint import open_checkpoint
from deepwell.process.energy import EnergyMeter

__all__ = ["measure_batch", "measure_decode", "measure_prefill"]


def measure_decode(
    report: Report,
    model: Path,
    *,
    precision: Precision,
    threads: int,
    rounds: int,
    prompt_tokens: int,
    tokens: int,
) -> dict[str, Any]:
    """Measures tokens a second of one sequence against the memory roof, and what a token costs."""
    length, context = prompt_tokens + tokens, prompt_tokens + tokens / 2
    with _opened(report, model, precision, threads, 2 * length) as (ours, work):
        memory: list[float] = []

        def roof() -> float:
            memory.append(measure_roof("memory", threads, nbytes=work.decode_bytes(context)))
            return work.decode_roof(memory[-1], context)

        rates, roofs = _rounds(
            lambda number: ours.generate(prompts(model, prompt_tokens, number), tokens), rounds, roof
        )
        cost, count = ours.decode_cost(prompts(model, prompt_tokens, rounds + 1)[0], tokens, EnergyMeter())
        title = f"Decode, batch 1, {prompt_tokens} tokens of prompt, {tokens} generated"
        return {
            **_shown(report, title, ours, rates, roofs, "memory roof"),
            "memory_gb_per_s": rounded(statistics.median(memory), 3),
            "bytes_per_token": round(work.decode_bytes(context)),
            "cpu_seconds_per_token": rounded(cost.cpu_seconds / count, 3),
            "joules_per_token": None if cost.joules is None else rounded(cost.joules / count, 3),
            "joules_unknown": cost.reason,
        }


def measure_prefill(
    report: Report, model: Path, *, precision: Precision, threads: int, rounds: int, prompt_tokens: int
) -> dict[str, Any]:
    """Measures tokens of a prompt a second, from an empty cache to the first token, against the arithmetic roof."""
    with _opened(report, model, precision, threads, 2 * prompt_tokens) as (ours, work):
        rates, roofs = _rounds(
            lambda number: ours.prefill(prompts(model, prompt_tokens, number)[0]),
            rounds,
            lambda: work.prefill_roof(measure_roofs(threads, seconds=0.2), prompt_tokens),
        )
        return _shown(report, f"Prefill, {prompt_tokens} tokens", ours, rates, roofs, "arithmetic roof")


def measure_batch(
    report: Report,
    model: Path,
    *,
    precision: Precision,
    threads: int,
    sequences: int,
    rounds: int,
    prompt_tokens: int,
    tokens: int | None,
) -> dict[str, Any]:
    """Measures tokens a second of `sequences` sequences together, and over those of one.

    Args:
        tokens: of an answer; None: twice the sequences, and at least 64. Prompts join one in a step, and steps count once all
            have joined.
    """
    tokens = tokens or max(64, 2 * sequences)
    kv_tokens = (sequences + 2) * (prompt_tokens + tokens)
    with _opened(report, model, precision, threads, kv_tokens, sequences) as (ours, _):
        alone: list[float] = []

        def together(number: int) -> Run:
            alone.append(ours.generate(prompts(model, prompt_tokens, number), tokens).rate)
            return ours.generate(prompts(model, prompt_tokens, number, sequences), tokens)

        rates, _ = _rounds(together, rounds)
        title = f"Decode, batch {sequences}, {prompt_tokens} tokens of prompt, {tokens} generated each"
        ratios = [rate / one for rate, one in zip(rates, alone[1:], strict=True)]
        return {
            "sequences": sequences,
            **_shown(report, title, ours, rates),
            "over_batch_1": rounded(statistics.median(ratios), 3),
        }


@contextmanager
def _opened(
    report: Report, model: Path, precision: Precision, threads: int, kv_tokens: int, sequences: int = 1
) -> Iterator[tuple[Ours, Work]]:
    facts = machine(threads)
    report.note(f"{facts['cpu']}, {threads} threads, {facts['system']}, {facts['date']}")
    ours = Ours(model, precision, threads=threads, kv_tokens=kv_tokens, sequences=sequences)
    try:
        yield ours, work_of(open_checkpoint(model).config, precision, kv_dtype=ours.kv_dtype)
    finally:
        ours.close()


def _rounds(
    run: Callable[[int], Run], rounds: int, roof: Callable[[], float] = lambda: 0.0
) -> tuple[list[float], list[float]]:
    """Returns the rate of each round and the roof of the moment before; a run that warms up is not counted."""
    run(0)
    rates: list[float] = []
    roofs: list[float] = []
    for number in range(1, rounds + 1):
        roofs.append(roof())
        rates.append(run(number).rate)
    return rates, roofs


def _shown(
    report: Report,
    title: str,
    ours: Ours,
    rates: Sequence[float],
    roofs: Sequence[float] = (),
    limit: str = "",
) -> dict[str, Any]:
    """Prints the rates, and the median of the roofs where there are any. Returns the figures of both."""
    median = statistics.median(rates)
    rows: list[list[Any]] = [
        [ours.name, ours.weights_bytes / 1e6, median, f"{min(rates):,.0f}-{max(rates):,.0f}", ""]
    ]
    value: dict[str, Any] = {"tokens_per_s": rounded(median)}
    if roofs:
        share = statistics.median(rate / roof for rate, roof in zip(rates, roofs, strict=True))
        rows.append([limit, "", statistics.median(roofs), "", rounded(share, 3)])
        value |= {"roof": rounded(share, 3), "roof_tokens_per_s": rounded(statistics.median(roofs))}
    report.table(title, ["engine", "weights MB", "tokens/s", "spread", "ours / this"], rows)
    return value
