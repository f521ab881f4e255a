"""One endless sequence: real text read and text written in the memory of one window, with speed and quality at both ends."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deepwell.bench.harness.assets import bench_cache
from deepwell.bench.harness.report import Report, rounded
from deepwell.bench.harness.served import rss_bytes
from deepwell.bench.workloads.long_text import long_text
from deepwell.engine.core.batch import BLOCK_TOKENS
from deepwell.engine.core.loop import InProcessEngine
from deepwell.engine.load import open_engine
from deepwell.engine.options import EngineOptions
from deepwell.engine.protocol import GenerateRequest, SamplingParams, Window

__all__ = ["bench_context_endless"]

_LAST_TOKENS: Final = 10_000  # whose perplexity is held against that of a fresh window
_TENTHS: Final = 10
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
    """Scores `tokens` tokens of real text in one windowed sequence, then continues the same text by `generated` tokens.

    The perplexity of the last tokens is compared with that in a sequence that begins one window before them. Text is written
    with a temperature, as greedy text of a small model repeats itself, and without speculation, so that every token costs a
    step.
    """
    ids = long_text(model, tokens)
    options = EngineOptions(
        context=window.tokens,
        kv_tokens=_POOL * window.tokens,
        speculation="off",
        cache_dir=bench_cache(),
    )
    with open_engine(model, options, quiet=True) as engine:
        assert isinstance(engine, InProcessEngine)
        began = time.perf_counter()
        scores, read = _read(engine, ids, window)
        last = min(_LAST_TOKENS, tokens - window.tokens)
        fresh = asyncio.run(engine.score(ids[-last - window.tokens :], start=window.tokens, window=window))
        written = _write(engine, ids, generated, window)
        value = _figures(engine, window, scores, fresh, read, written)
        value["minutes"] = rounded((time.perf_counter() - began) / 60, 3)
    _show(report, read, scores, written, tokens)
    return {"tokens": tokens, "generated": generated, **value}


def _figures(
    engine: InProcessEngine,
    window: Window,
    scores: NDArray[np.float32],
    fresh: NDArray[np.float32],
    read: Sequence[_Sample],
    written: Sequence[_Sample],
) -> dict[str, Any]:
    ran, tokens = engine.capabilities(), read[-1].tokens
    full = [one.blocks for one in (*read, *written) if window.tokens < one.tokens < written[-1].tokens]
    reading, writing = (_speeds(read, 0, tokens), _speeds(written, tokens, written[-1].tokens))
    perplexity, expected = _perplexity(scores[-len(fresh) :]), _perplexity(fresh)
    return {
        "precision": ran.precision,
        "isa": ran.isa,
        "sinks": window.sinks,
        "recent": window.recent,
        "blocks": window.tokens // BLOCK_TOKENS,
        "pool_flat": set(full) == {window.tokens // BLOCK_TOKENS},
        "forgotten_tokens": window.forgotten(written[-1].tokens - 1),
        "rss_mb_per_100k": rounded(max(_slope_mb(read), _slope_mb(written)), 3),
        "read_tokens_per_s": rounded(reading[-1]),
        "read_speed_ratio": rounded(reading[-1] / reading[0]),
        "write_tokens_per_s": rounded(writing[-1]),
        "write_speed_ratio": rounded(writing[-1] / writing[0]),
        "perplexity": rounded(perplexity, 5),
        "fresh_perplexity": rounded(expected, 5),
        "perplexity_ratio": rounded(perplexity / expected),
    }


def _read(
    engine: InProcessEngine, ids: Sequence[int], window: Window
) -> tuple[NDArray[np.float32], list[_Sample]]:
    """Returns the log probability of every token but the first, and samples on the way."""
    scored: Future[NDArray[np.float32]] = Future()

    def work() -> None:
        try:
            scored.set_result(asyncio.run(engine.score(ids, window=window)))
        except BaseException as error:
            scored.set_exception(error)

    before = engine.stats().prompt_tokens
    with _watched(engine, lambda: engine.stats().prompt_tokens - before) as samples:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    return scored.result(), samples


def _write(engine: InProcessEngine, ids: Sequence[int], generated: int, window: Window) -> list[_Sample]:
    """Reads the same text again, continues it, and returns samples on the way."""
    params = SamplingParams(max_tokens=generated, temperature=1.0, top_p=0.95, seed=1, ignore_eos=True)
    before = engine.stats()

    def done() -> int:
        now = engine.stats()
        read = now.prompt_tokens + now.cached_tokens - before.prompt_tokens - before.cached_tokens
        return read + now.generated_tokens - before.generated_tokens

    with _watched(engine, done) as samples:
        for _ in engine.generate_sync(GenerateRequest("endless", ids, params, window=window)):
            pass
    return samples


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
    times = np.interp(marks, [0, *(one.tokens for one in samples)], [0, *(one.seconds for one in samples)])
    return (np.diff(marks) / np.diff(times)).tolist()


def _slope_mb(samples: Sequence[_Sample]) -> float:
    """Returns the growth of the process in MB per 100,000 tokens, after the first tenth of a request."""
    late = [one for one in samples if one.tokens > samples[-1].tokens / _TENTHS]
    slope = np.polyfit([one.tokens for one in late], [one.rss_bytes for one in late], 1)[0]
    return float(slope) * 100_000 / 1e6


def _perplexity(logprobs: NDArray[np.float32]) -> float:
    return float(np.exp(-logprobs.mean(dtype=np.float64)))


def _show(
    report: Report,
    read: Sequence[_Sample],
    scores: NDArray[np.float32],
    written: Sequence[_Sample],
    tokens: int,
) -> None:
    """Prints one row for each tenth of the text read, and of the text written."""
    columns = ["tokens", "blocks", "RSS MB", "tokens/s", "perplexity"]
    parts = np.array_split(scores, _TENTHS)
    rows = _rows(read, 0, tokens, [f"{_perplexity(part):.3f}" for part in parts])
    report.table("text read", columns, rows)
    rows = _rows(written, tokens, written[-1].tokens, ["" for _ in parts])
    report.table("text written behind it", columns, rows)


def _rows(samples: Sequence[_Sample], first: int, last: int, notes: Sequence[str]) -> list[list[Any]]:
    rows: list[list[Any]] = []
    for number, (speed, note) in enumerate(zip(_speeds(samples, first, last), notes, strict=True), 1):
        end = first + (last - first) * number // _TENTHS
        at = next((one for one in samples if one.tokens >= end), samples[-1])
        blocks = max(one.blocks for one in samples if one.tokens <= at.tokens)
        rows.append([f"{end:,}", blocks, f"{at.rss_bytes / 1e6:,.1f}", speed, note])
    return rows
