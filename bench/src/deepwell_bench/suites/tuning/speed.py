"""Speed and memory of a LoRA step beside peft and transformers' own Trainer, both with packed rows and the same real tokens."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import sys
import tempfile
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, Final

from deepwell.cli.bench.report import Report, rounded
from deepwell.models.formats.checkpoint import open_checkpoint
from deepwell.models.store.export import export_safetensors
from deepwell.models.text.tokenizer import Tokenizer
from deepwell_bench.harness.assets import bench_cache
from deepwell_bench.harness.environments import PeerError
from deepwell_bench.harness.pairs import Measure, bootstrap_median, run_pairs
from deepwell_bench.harness.worker import Worker
from deepwell_bench.workloads.tuning.packed_rows import PackedRow, chat_rows, text_rows

__all__ = ["bench_tuning_speed"]

ROW_TOKENS: Final = 1024
STEP_ROWS: Final = 2
DROPOUT: Final = 0.1
_PEER_PRECISIONS: Final = {"fp32": ("fp32",), "bf16": ("bf16 autocast", "bf16 weights")}
_NEEDS: Final = ("torch", "transformers", "peft", "accelerate")


def bench_tuning_speed(
    report: Report,
    model: Path,
    *,
    threads: int,
    pairs: int = 5,
    precisions: Sequence[str] = ("bf16",),
    step_rows: int = STEP_ROWS,
    profile: bool = False,
) -> dict[str, Any]:
    """Measures both sides in interleaved pairs on conversations with masked prompts and on labelled text.

    The peer runs in the fastest of its configurations of the same precision, which are tried on the same rows first. Figures
    without a prefix are those of the first precision.

    Raises:
        PeerError: a package is missing, or the two sides do not compute the same loss.
    """
    if missing := [name for name in _NEEDS if importlib.util.find_spec(name) is None]:
        raise PeerError(
            f"this environment has no {', '.join(missing)}",
            fix="run `make tune`, then .venv-tune/bin/deepwell bench tuning-speed",
        )
    checkpoint = _exported(model)
    sets = {"chat": chat_rows(model, ROW_TOKENS), "text": text_rows(model, ROW_TOKENS)}
    value: dict[str, Any] = {"threads": threads}
    table: list[list[Any]] = []
    for precision in precisions:
        prefix = "" if precision == precisions[0] else f"{precision}_"
        peaks: list[float] = []
        for name, rows in sets.items():
            with tempfile.TemporaryDirectory() as folder:
                sides = _Sides(
                    checkpoint, _written(rows, Path(folder) / "rows.json"), threads, precision, step_rows
                )
                found = sides.compare(report, pairs, profile=profile)
            peaks.append(found["memory"])
            label = sum(map(sum, (row.loss_mask for row in rows))) / sum(len(row.token_ids) for row in rows)
            value |= {f"{prefix}{name}": rounded(found["ratio"], 3), f"{prefix}{name}_detail": found}
            table.append(
                [precision, name, f"{label:.0%}", found["tokens_per_s"], found["peer_tokens_per_s"],
                 found["ratio"], f"{found['low']:.2f} to {found['high']:.2f}", found["memory"], found["peer"]]
            )  # fmt: skip
        value[f"{prefix}memory"] = rounded(max(peaks), 3)
    report.table(
        f"A LoRA step (r 16, q and v) of {step_rows} rows of {ROW_TOKENS} tokens, {threads} threads",
        [
            "precision",
            "rows",
            "labelled",
            "tokens/s",
            "peer",
            "ratio",
            "95 %",
            "peak of the peer's",
            "peer's configuration",
        ],
        table,
    )
    return value


def _exported(model: Path) -> Path:
    folder = bench_cache() / f"{model.name.removesuffix('.gguf')}.as-safetensors"
    if not folder.exists():
        export_safetensors(open_checkpoint(model), folder, "bfloat16", tokenizer=Tokenizer.load(model))
    return folder


def _written(rows: Sequence[PackedRow], path: Path) -> Path:
    path.write_text(json.dumps([row.to_json() for row in rows]), encoding="utf-8")
    return path


class _Sides:
    """Both sides of a comparison on one set of rows."""

    def __init__(self, model: Path, rows: Path, threads: int, precision: str, step_rows: int) -> None:
        self._shared = {"path": str(model), "rows": str(rows), "threads": threads, "batch": step_rows}
        self._threads = threads
        self._precision = precision
        self._step_rows = step_rows

    def compare(self, report: Report, pairs: int, *, profile: bool) -> dict[str, Any]:
        """Returns the median ratio of tokens a second with its interval, and ours over theirs of the peak memory."""
        peer = self._fastest_peer(report)
        speeds: list[tuple[float, float]]
        peaks: list[tuple[int, int]] = []

        @contextlib.contextmanager
        def opened() -> Generator[tuple[Measure, Measure]]:
            with (
                self._open("ours_trainer", self._precision, 1) as ours,
                self._open("peer_trainer", *peer) as theirs,
            ):
                yield lambda _: _rate(ours), lambda _: _rate(theirs)
                peaks.append((ours.call("peak_rss")["bytes"], theirs.call("peak_rss")["bytes"]))
                if profile:
                    _show_profile(report, ours.call("profile", rows=16)["shares"])

        speeds = run_pairs(opened, pairs)
        estimate = bootstrap_median([ours / theirs for ours, theirs in speeds])
        middle = sorted(speeds)[len(speeds) // 2]
        return {
            "ratio": rounded(estimate.median, 3),
            "low": rounded(estimate.low, 3),
            "high": rounded(estimate.high, 3),
            "tokens_per_s": rounded(middle[0]),
            "peer_tokens_per_s": rounded(middle[1]),
            "memory": rounded(max(ours / theirs for ours, theirs in peaks), 3),
            "peak_mb": round(max(ours for ours, _ in peaks) / 1e6),
            "peer_peak_mb": round(max(theirs for _, theirs in peaks) / 1e6),
            "peer": f"{peer[0]}, {peer[1]} rows at a time",
        }

    def _fastest_peer(self, report: Report) -> tuple[str, int]:
        """Tries the peer's configurations, and holds its loss without dropout against ours."""
        with self._open("ours_trainer", self._precision, 1) as ours:
            expected = float(ours.call("check", rows=self._step_rows)["loss"])
        found: dict[tuple[str, int], float] = {}
        for precision in _PEER_PRECISIONS[self._precision]:
            for micro in sorted({1, self._step_rows}):
                with self._open("peer_trainer", precision, micro) as worker:
                    loss = float(worker.call("check", rows=self._step_rows)["loss"])
                    if abs(loss - expected) > 0.01 * expected:
                        raise PeerError(
                            f"the peer's loss is {loss:.4f}, and ours {expected:.4f}, on the same rows"
                        )
                    worker.call("steps", count=1)
                    found[precision, micro] = max(_rate(worker) for _ in range(2))
                report.note(
                    f"peer, {precision}, {micro} rows at a time: {found[precision, micro]:.0f} tokens/s, "
                    f"loss {loss:.4f} (ours {expected:.4f})"
                )
        return max(found, key=lambda configuration: found[configuration])

    @contextlib.contextmanager
    def _open(self, program: str, precision: str, micro: int) -> Generator[Worker]:
        logs = bench_cache() / "tuning"
        logs.mkdir(exist_ok=True)
        worker = Worker(
            program,
            [sys.executable, "-m", f"deepwell_bench.workers.tuning.{program}"],
            {"OMP_NUM_THREADS": str(self._threads), "HF_HUB_OFFLINE": "1"},
            logs / f"{program}.log",
        )
        try:
            worker.call("load", precision=precision, micro=micro, dropout=DROPOUT, **self._shared)
            yield worker
        finally:
            worker.close()


def _rate(worker: Worker) -> float:
    answer = worker.call("steps", count=1)
    return float(answer["tokens"]) / float(answer["elapsed"])


def _show_profile(report: Report, shares: Sequence[Sequence[Any]]) -> None:
    rows = [[name, f"{share:.1%}", ms, count] for name, share, ms, count in shares]
    report.table("Where our step's time goes", ["operator", "share", "ms", "calls"], rows)
