"""One comparison's cast: our engine, the peers with their best flags, the roofs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepwell.cli.bench.engine import Ours, Run
from deepwell.cli.bench.machine import machine
from deepwell.cli.bench.report import Report, rounded
from deepwell.cli.bench.roofs import Work, work_of
from deepwell.engine.layouts import Precision
from deepwell.models.formats.checkpoint import open_checkpoint
from deepwell_bench.harness.comparison import Comparison, TimedEngine
from deepwell_bench.peers.llama_cpp import LlamaCpp, llama_python

__all__ = ["Session", "comparison_rows", "open_session"]


@dataclass(frozen=True, slots=True)
class Session:
    """Engines that are ready to be timed, and the work ours has to do."""

    report: Report
    model: Path
    threads: int
    rounds: int
    ours: Ours
    peers: Sequence[LlamaCpp]
    work: Work

    def prepare_peers(self, task: Callable[[TimedEngine], Run], *, context: int, sequences: int = 1) -> None:
        """Tries `task` with flash attention off and on, after a warm-up each, and leaves every peer with the faster."""
        for peer in self.peers:
            rates: dict[bool, float] = {}
            for flash in (False, True):
                peer.open(flash=flash, context=context, sequences=sequences)
                rates[flash] = max(task(peer).rate for _ in range(3))
            flash = rates[True] >= rates[False]
            chosen = "on" if flash else "off"
            self.report.note(
                f"{peer.name}: flash attention {chosen}, {rates[flash]:.0f} against {rates[not flash]:.0f} tokens/s"
            )
            peer.open(flash=flash, context=context, sequences=sequences)


@contextmanager
def open_session(
    report: Report,
    model: Path,
    *,
    precision: Precision,
    peers: Sequence[str],
    threads: int,
    rounds: int,
    kv_tokens: int,
    sequences: int = 1,
) -> Iterator[Session]:
    """Loads everything, prints what it is, and closes it at the end; of `sequences` see `Ours`."""
    facts = machine(threads)
    report.note(f"{facts['cpu']}, {threads} threads, {facts['system']}, {facts['date']}")
    sides: list[LlamaCpp] = []
    python = llama_python(report.console) if peers else None
    try:
        for file_type in peers:
            assert python is not None
            peer = LlamaCpp(python, threads=threads)
            sides.append(peer)
            peer.load(model, file_type)
        if sides:
            report.note(f"llama.cpp in llama-cpp-python {sides[0].version}: {sides[0].system_info}")
        ours = Ours(model, precision, threads=threads, kv_tokens=kv_tokens, sequences=sequences)
        try:
            work = work_of(open_checkpoint(model).config, precision, kv_dtype=ours.kv_dtype)
            yield Session(report, model, threads, rounds, ours, sides, work)
        finally:
            ours.close()
    finally:
        for peer in sides:
            peer.close()


def comparison_rows(result: Comparison, ours: str, sides: Sequence[TimedEngine]) -> list[list[Any]]:
    """Returns table rows: name, weights in MB, median, lowest and highest rate, and our median ratio to it."""
    rows: list[list[Any]] = []
    for side in sides:
        low, high = result.spread(side.name)
        ratio = "" if side.name == ours else rounded(result.ratio(ours, side.name), 3)
        rows.append(
            [side.name, side.weights_bytes / 1e6, result.median(side.name), f"{low:,.0f}-{high:,.0f}", ratio]
        )
    return rows
