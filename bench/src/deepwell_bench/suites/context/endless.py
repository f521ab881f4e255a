"""One endless sequence: real text read and text written in the memory of one window, with speed and quality at both ends."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deepwell.cli.bench.report import Report, rounded
from deepwell.engine.batch import BLOCK_TOKENS
from deepwell.engine.core.loop import InProcessEngine
from deepwell.engine.load import open_engine
from deepwell.engine.options import EngineOptions
from deepwell.engine.protocol import GenerateRequest, SamplingParams, Window
from deepwell_bench.harness.assets import bench_cache
from deepwell_bench.harness.served import rss_bytes
from deepwell_bench.workloads.long_text import long_text

__all__ = ["bench_context_endless", "measure_endless"]

_LAST_TOKENS: Final = 10_000  # whose perplexity is held against that of a fresh window
_TENTHS: Final = 10
_WARM_TOKENS: Final = 32
_LOOK_S: Final = 0.2
_POOL: Final = 4  # blocks of the cache, in windows: a sequence that took more than its own would find them


@dataclass(frozen=True, slots=True)
class _Sample:
    """The state of the engine at one moment of a request."""

    seconds: float
    tokens: int  # read and written so far
    blocks: int  # that the request holds
    rss_bytes: int


def bench_context_endless(
    report: Report, model: Path, *, tokens: int, generated: int, window: Window
) -> dict[str, Any]:
    """Measures a windowed sequence that reads `tokens` tokens of real text and writes `generated`; see `measure_endless`."""
    return measure_endless(report, model, long_text(model, tokens), generated, window)


def measure_endless(
    report: Report, model: Path, ids: Sequence[int], generated: int, window: Window
) -> dict[str, Any]:
    """Reads a text in one windowed sequence, and continues it by `generated` tokens.

    The perplexity of the last tokens read is compared with that in a sequence which begins one window before them. Text is
    written with a temperature, as greedy text of a small model repeats itself, and without speculation, so that every token
    costs a step.
    """
    tokens = len(ids)
    last = min(_LAST_TOKENS, tokens - window.tokens)
    options = EngineOptions(
        context=window.tokens,
        kv_tokens=_POOL * window.tokens,
        speculation="off",
        cache_dir=bench_cache(),
    )
    with open_engine(model, options, quiet=True) as engine:
        assert isinstance(engine, InProcessEngine)
        fresh = asyncio.run(engine.score(ids[-last - window.tokens :], start=window.tokens, window=window))
        # Buffers that grow with the first steps of each kind are no part of the slope.
        _run(engine, ids[: 2 * window.tokens], window.tokens, _WARM_TOKENS, window)
        scores, samples = _run(engine, ids, last, generated, window)
        ran = engine.capabilities()
    # While the last tokens read are scored, steps are shorter: speed is told apart from them.
    reading, writing = _speeds(samples, 0, tokens - last), _speeds(samples, tokens, tokens + generated)
    perplexity, expected = _perplexity(scores), _perplexity(fresh)
    blocks = window.tokens // BLOCK_TOKENS
    full = {one.blocks for one in samples if window.tokens < one.tokens < tokens + generated}
    _show(report, samples, tokens, generated)
    return {
        "tokens": tokens,
        "generated": generated,
        "precision": ran.precision,
        "isa": ran.isa,
        "sinks": window.sinks,
        "recent": window.recent,
        "blocks": blocks,
        "pool_flat": full == {blocks},
        "forgotten_tokens": window.forgotten(tokens + generated - 2),
        "rss_mb_per_100k": rounded(_slope_mb(samples, window.tokens, tokens + generated), 3),
        "read_tokens_per_s": rounded(reading[-1]),
        "read_speed_ratio": rounded(reading[-1] / reading[0]),
        "write_tokens_per_s": rounded(writing[-1]),
        "write_speed_ratio": rounded(writing[-1] / writing[0]),
        "perplexity": rounded(perplexity, 5),
        "fresh_perplexity": rounded(expected, 5),
        "perplexity_ratio": rounded(perplexity / expected),
        "minutes": rounded(samples[-1].seconds / 60, 3),
    }


def _run(
    engine: InProcessEngine, ids: Sequence[int], last: int, generated: int, window: Window
) -> tuple[NDArray[np.float32], list[_Sample]]:
    """Returns the log probabilities of the last tokens read, and samples on the way."""
    params = SamplingParams(
        max_tokens=generated,
        temperature=1.0,
        top_p=0.95,
        seed=1,
        ignore_eos=True,
        prompt_logprobs=0,
        prompt_logprobs_start=len(ids) - last,
    )
    before = engine.stats()

    def done() -> int:
        now = engine.stats()
        read = now.prompt_tokens + now.cached_tokens - before.prompt_tokens - before.cached_tokens
        return read + now.generated_tokens - before.generated_tokens

    scores = np.empty(0, np.float32)
    with _watched(engine, done) as samples:
        for delta in engine.generate_sync(
            GenerateRequest("endless", ids, params, cache_salt=f"{len(ids)}", window=window)
        ):
            if delta.prompt_logprobs is not None:
                entries = delta.prompt_logprobs[-last:]
                scores = np.array([one.logprob for one in entries if one is not None], np.float32)
    return scores, samples


@contextmanager
def _watched(engine: InProcessEngine, tokens: Callable[[], int]) -> Iterator[list[_Sample]]:
    """Yields a list that gets a sample now and then, the last one at the end of the block."""
    samples: list[_Sample] = []
    ended = threading.Event()
    began = time.perf_counter()

    def look() -> None:
        blocks = engine.stats().blocks_used
        done = tokens()
        samples.append(_Sample(time.perf_counter() - began, done, blocks, rss_bytes([os.getpid()])))

    def watch() -> None:
        while not ended.wait(_LOOK_S):
            look()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield samples
    finally:
        ended.set()
        watcher.join()
        look()


def _speeds(samples: Sequence[_Sample], first: int, last: int) -> list[float]:
    """Returns the tokens a second of each tenth of the tokens from `first` to `last`."""
    marks = np.linspace(first, last, _TENTHS + 1)
    counts, seen = np.unique([0, *(one.tokens for one in samples)], return_index=True)
    times = np.array([0.0, *(one.seconds for one in samples)])[seen]
    return (np.diff(marks) / np.diff(np.interp(marks, counts, times))).tolist()


def _slope_mb(samples: Sequence[_Sample], first: int, last: int) -> float:
    """Returns the growth of the process in MB per 100,000 tokens, from the first tenth of the tokens on."""
    late = [one for one in samples if one.tokens >= first + (last - first) / _TENTHS]
    slope = np.polyfit([one.tokens for one in late], [one.rss_bytes for one in late], 1)[0]
    return float(slope) * 100_000 / 1e6


def _perplexity(logprobs: NDArray[np.float32]) -> float:
    return float(np.exp(-logprobs.mean(dtype=np.float64)))


def _show(report: Report, samples: Sequence[_Sample], tokens: int, generated: int) -> None:
    """Prints one row for each tenth of the text read, and of the text written."""
    for title, first, count in (("text read", 0, tokens), ("text written behind it", tokens, generated)):
        rows: list[list[Any]] = []
        for number, speed in enumerate(_speeds(samples, first, first + count), 1):
            begin, end = (first + count * part // _TENTHS for part in (number - 1, number))
            seen = [one for one in samples[:-1] if begin <= one.tokens <= end] or [samples[-1]]
            blocks = sorted({one.blocks for one in seen})
            held = f"{blocks[0]}" if len(blocks) == 1 else f"{blocks[0]}-{blocks[-1]}"
            rows.append([f"{end:,}", held, f"{seen[-1].rss_bytes / 1e6:,.1f}", f"{speed:,.0f}"])
        report.table(title, ["tokens", "blocks", "RSS MB", "tokens/s"], rows)
