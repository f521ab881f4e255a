"""Decode with many LoRA adapters in one batch, against the base alone."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from deepwell.cli.bench.engine import Ours, Run
from deepwell.cli.bench.report import Report, rounded
from deepwell.engine.architectures import tensor_plan
from deepwell.engine.layouts import Precision
from deepwell.engine.protocol import GenerateRequest
from deepwell.engine.weights.adapters import linears_of
from deepwell.models.formats.checkpoint import open_checkpoint
from deepwell_bench.harness.comparison import Comparison, compare
from deepwell_bench.workloads.random_adapter import write_random_adapter
from deepwell_bench.workloads.text import prompts

__all__ = ["bench_adapters"]


class _Adapted(Ours):
    """Ours, with an adapter for each request in turn; empty names: the base."""

    names: Sequence[str] = ("",)

    def request(self, prompt: Sequence[int], count: int, salt: str | None = None) -> GenerateRequest:
        plain = super().request(prompt, count, salt)
        number = int(plain.request_id.rpartition("-")[2])
        return replace(plain, adapter=self.names[number % len(self.names)])


def bench_adapters(
    report: Report,
    model: Path,
    *,
    threads: int,
    rounds: int = 7,
    sequences: int = 16,
    adapters: int = 8,
    rank: int = 16,
    prompt_tokens: int = 64,
    tokens: int = 48,
    precisions: Sequence[Precision] = ("int4", "int8"),
) -> dict[str, Any]:
    """Measures tokens a second of `sequences` together, `adapters` of all projections among them, over the base alone.

    The ratio of the first precision is the figure that a bar holds.
    """
    checkpoint = open_checkpoint(model)
    linears = linears_of(tensor_plan(checkpoint.config), checkpoint)
    names = [f"random-{i}" for i in range(adapters)]
    value: dict[str, Any] = {"sequences": sequences, "adapters": adapters, "rank": rank}
    rows: list[list[Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for seed, name in enumerate(names):
            write_random_adapter(Path(folder) / name, linears, rank=rank, seed=seed)
        for precision in precisions:
            result = _compare(
                model, precision, Path(folder), names, threads, rounds, sequences, prompt_tokens, tokens
            )
            ratio = result.ratio("adapters", "base")
            base = result.median("base")
            rows += [
                [precision, side, result.median(side), result.median(side) / base]
                for side in ("base", "adapters")
            ]
            key = "ratio" if precision == precisions[0] else f"{precision}_ratio"
            value |= {key: rounded(ratio, 3), f"{precision}_tokens_per_s": rounded(result.median("adapters"))}
    report.table(
        f"Decode, batch {sequences}, {adapters} adapters of rank {rank}, {prompt_tokens} tokens of prompt, "
        f"{tokens} generated each",
        ["precision", "side", "tokens/s", "of the base"],
        rows,
    )
    return value


def _compare(
    model: Path,
    precision: Precision,
    folder: Path,
    names: Sequence[str],
    threads: int,
    rounds: int,
    sequences: int,
    prompt_tokens: int,
    tokens: int,
) -> Comparison:
    ours = _Adapted(model, precision, threads=threads, kv_tokens=(sequences + 2) * (prompt_tokens + tokens))
    try:
        for name in names:
            ours.engine.load_adapter(name, str(folder / name))

        def run(number: int, chosen: Sequence[str]) -> Run:
            ours.names = chosen
            return ours.generate(prompts(model, prompt_tokens, number, sequences), tokens)

        return compare(
            {"base": lambda number: run(number, ("",)), "adapters": lambda number: run(number, names)}, rounds
        )
    finally:
        ours.close()
