"""The milliseconds of a step: the phases of real forward passes against the roof of each."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepwell.cli.bench.engine import Ours, Run
from deepwell.cli.bench.machine import machine
from deepwell.cli.bench.report import Report, rounded
from deepwell.cli.bench.roofs import Roofs, embedding_scheme, measure_roofs, work_of
from deepwell.cli.bench.text import prompts
from deepwell.engine.backends import native
from deepwell.engine.layouts import KVDtype, Precision, Scheme
from deepwell.engine.weights.quantize import packed_nbytes
from deepwell.models.formats.checkpoint import open_checkpoint
from deepwell.models.formats.config import ModelConfig

__all__ = ["Need", "bench_profile", "needs", "step_phases"]


@dataclass(frozen=True, slots=True)
class Need:
    """The needs of one phase of one step or prompt: bytes to read and multiply-adds in some arithmetic."""

    read_bytes: float
    macs: float
    scheme: Scheme

    def limit(self, roofs: Roofs) -> tuple[float, str]:
        """Returns the shortest time in seconds, and whether "GB/s" or "GMAC/s" sets it."""
        reading = self.read_bytes / (roofs.memory * 1e9)
        computing = self.macs / (roofs.of(self.scheme) * 1e9)
        return (reading, "GB/s") if reading >= computing else (computing, "GMAC/s")

    def rate(self, unit: str, seconds: float) -> float:
        """Returns the rate that was reached, in `unit`."""
        return (self.read_bytes if unit == "GB/s" else self.macs) / seconds / 1e9


def needs(
    config: ModelConfig, precision: Precision, *, kv_dtype: KVDtype, rows: int, context: float, prefill: bool
) -> dict[str, Need]:
    """Returns the phases that have a roof.

    Args:
        rows: sequences of a decode step, each over `context` positions; of a prefill, the tokens of its one prompt, of
            which the last layer computes keys and values but, beyond them, the last row alone.
    """
    work = work_of(config, precision, kv_dtype=kv_dtype)
    hidden, layers = config.hidden_size, config.num_hidden_layers
    q_rows = config.num_attention_heads * config.head_dim
    inner = -(-config.intermediate_size // 16) * 16
    body = work.scheme
    all_rows = layers * rows
    live_rows = (layers - 1) * rows + 1 if prefill else all_rows

    def matrix(out: int, cols: int, passes: int, scheme: Scheme = body, copies: int = layers) -> Need:
        return Need(copies * packed_nbytes(out, cols, scheme), passes * out * cols, scheme)

    if prefill:
        attention = Need(
            work.kv_bytes_per_token * rows, work.prefill_attention_macs(rows), work.attention_scheme
        )
    else:
        keys = rows * context
        macs = layers * work.attention_macs_per_key * keys
        attention = Need(work.kv_bytes_per_token * keys, macs, work.attention_scheme)
    return {
        "qkv": matrix(q_rows + 2 * config.num_key_value_heads * config.head_dim, hidden, all_rows),
        "attention": attention,
        "o": matrix(hidden, q_rows, live_rows),
        "gate_up": matrix(2 * inner, hidden, live_rows),
        "down": matrix(hidden, inner, live_rows),
        "head": matrix(config.vocab_size, hidden, 1 if prefill else rows, embedding_scheme(precision), 1),
    }


def step_phases(ours: Ours, group: Sequence[Sequence[int]], tokens: int) -> tuple[dict[str, float], Run]:
    """Returns the seconds of each phase of a decode step of all prompts of `group`, `tokens` long, and the run itself."""
    native.switch_profile(True)
    run = ours.generate(group, tokens)
    profile, _ = native.switch_profile(False)
    return {phase: spent / profile.steps for phase, spent in profile.seconds.items()}, run


def bench_profile(
    report: Report,
    model: Path,
    *,
    precision: Precision,
    threads: int,
    rows: int = 1,
    prefill: int | None = None,
    rounds: int = 5,
    prompt_tokens: int = 128,
    tokens: int | None = None,
) -> dict[str, Any]:
    """Times each phase of a decode step with `rows` sequences or, with `prefill`, of a prompt of so many tokens.

    Medians over `rounds`; shares of a roof are against the highest peaks measured before and behind any of them. What
    happens outside the model (scheduler, sampler, delivery) is the phase "between"; "embed" holds the waking of the threads.

    Args:
        tokens: of an answer; None: twice the rows, and at least 64. Only steps count in which all decode.
    """
    tokens = tokens or max(64, 2 * rows)
    length = prefill or prompt_tokens + tokens
    facts = machine(threads)
    report.note(f"{facts['cpu']}, {threads} threads, {facts['system']}, {facts['date']}")
    config = open_checkpoint(model).config
    ours = Ours(model, precision, threads=threads, kv_tokens=rows * (length + 32), sequences=rows)
    isa = ours.engine.capabilities().isa
    need = needs(
        config,
        precision,
        kv_dtype=ours.kv_dtype,
        rows=prefill or rows,
        context=prompt_tokens + tokens / 2,
        prefill=prefill is not None,
    )
    read = sum(one.read_bytes for one in need.values())

    def decode_seconds(number: int) -> dict[str, float]:
        return step_phases(ours, prompts(model, prompt_tokens, number, rows), tokens)[0]

    def prefill_seconds(number: int) -> dict[str, float]:
        assert prefill is not None
        prompt = prompts(model, prefill, number)[0]
        native.switch_profile(True)
        whole = ours.prefill(prompt).seconds
        _, profile = native.switch_profile(False)
        inside = {phase: spent for phase, spent in profile.seconds.items() if phase != "between"}
        return inside | {"between": whole - sum(inside.values())}

    measure: Callable[[int], dict[str, float]] = prefill_seconds if prefill else decode_seconds
    try:
        measure(0)
        roofs, measured = _rounds(measure, rounds, lambda: measure_roofs(threads, seconds=0.2, nbytes=read))
    finally:
        native.switch_profile(False)
        ours.close()

    total = statistics.median(sum(seconds.values()) for seconds in measured)
    table, phases = _phases(need, roofs, measured)
    table.append(["total", f"{total * 1e3:.3f}", "", "", ""])
    what = f"Prompt of {prefill} tokens" if prefill else f"Decode step, batch {rows}"
    report.table(
        f"{what}, {precision}, {isa} kernels, median of {rounds}",
        ["phase", "ms", "share", "reached", "of its roof"],
        table,
    )
    return {
        "precision": precision,
        "isa": isa,
        "threads": threads,
        **({"prefill_tokens": prefill} if prefill else {"rows": rows, "context": prompt_tokens + tokens / 2}),
        "total_ms": rounded(total * 1e3),
        "phases": phases,
        "memory_gb_per_s": rounded(roofs.memory, 3),
        "gemm_gmac_per_s": rounded(roofs.of(need["gate_up"].scheme), 3),
    }


def _rounds(
    measure: Callable[[int], dict[str, float]], rounds: int, peaks: Callable[[], Roofs]
) -> tuple[Roofs, list[Mapping[str, float]]]:
    """Returns the seconds of the phases of each round, and the highest of the peaks before and behind each."""
    measured: list[Mapping[str, float]] = []
    highest = peaks()
    for number in range(1, rounds + 1):
        measured.append(measure(number))
        highest = highest.or_higher(peaks())
    return highest, measured


def _phases(
    need: Mapping[str, Need], roofs: Roofs, measured: Sequence[Mapping[str, float]]
) -> tuple[list[list[Any]], dict[str, dict[str, Any]]]:
    """Returns the rows of the table and the figures of every phase: medians over the rounds."""
    table: list[list[Any]] = []
    phases: dict[str, dict[str, Any]] = {}
    for phase in native.PHASES:
        spent = statistics.median(seconds[phase] for seconds in measured)
        share = statistics.median(seconds[phase] / sum(seconds.values()) for seconds in measured)
        phases[phase] = {"ms": rounded(spent * 1e3), "share": rounded(share, 3)}
        line: list[Any] = [phase, f"{spent * 1e3:.3f}", f"{share:.1%}", "", ""]
        if phase in need:
            least, unit = need[phase].limit(roofs)
            rate, of_roof = need[phase].rate(unit, spent), least / spent
            key = "gb_per_s" if unit == "GB/s" else "gmac_per_s"
            phases[phase] |= {key: rounded(rate), "roof": rounded(of_roof, 3)}
            line[3:] = [f"{rate:.1f} {unit}", f"{of_roof:.0%}"]
        table.append(line)
    return table, phases
