"""The cost and the saving of int8 pages of keys and values: perplexity and bytes against bf16 pages."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deepwell.cli.bench.report import Report, rounded
from deepwell.engine.architectures import build_model
from deepwell.engine.backends.native import select_backend
from deepwell.engine.batch import BLOCK_TOKENS, Batch
from deepwell.engine.layouts import KVDtype, Precision
from deepwell.engine.load import new_cache
from deepwell.engine.plan import kv_token_bytes
from deepwell.engine.weights.load import load_weights
from deepwell.models.formats.checkpoint import open_checkpoint
from deepwell_bench.harness.assets import bench_cache
from deepwell_bench.workloads.text import text_tokens

__all__ = ["bench_kv_pages"]

PRECISIONS: Final[tuple[Precision, ...]] = ("int8", "int4")
DTYPES: Final[tuple[KVDtype, ...]] = ("bf16", "int8")


def bench_kv_pages(report: Report, model: Path, *, tokens: int = 20_480, window: int = 512) -> dict[str, Any]:
    """Scores windows of the fixed text, each from an empty context, on bf16 and on int8 pages with the same weights.

    The standard error is that of the mean difference in log probability, token by token.
    """
    ids = np.array(text_tokens(model)[:tokens], np.int32)
    backend, config = select_backend(), open_checkpoint(model).config
    sizes = {dtype: kv_token_bytes(config, dtype) for dtype in DTYPES}
    value: dict[str, Any] = {
        "tokens": len(ids),
        "window": window,
        "backend": backend.name,
        "page_bytes_ratio": rounded(sizes["int8"] / sizes["bf16"]),
    }
    rows: list[list[Any]] = []
    for precision in PRECISIONS:
        wide, narrow = (_logprobs(model, precision, dtype, ids, window) for dtype in DTYPES)
        lost = wide - narrow
        increase, error = float(np.expm1(lost.mean())), float(lost.std() / np.sqrt(len(lost)))
        before, after = (float(np.exp(-scores.mean())) for scores in (wide, narrow))
        value |= {
            f"{precision}_perplexity_increase": rounded(increase, 3),
            f"{precision}_standard_error": rounded(error, 2),
            f"{precision}_perplexity": rounded(after, 6),
        }
        rows.append(
            [f"{precision} weights", f"{before:.4f}", f"{after:.4f}", f"{increase:+.3%} ± {error:.3%}"]
        )
    report.table(
        f"{len(ids)} tokens of Cranfield text, window {window}; a token takes {sizes['bf16']} bytes in bf16 pages, "
        f"{sizes['int8']} in int8",
        ["", "bf16 pages", "int8 pages", "perplexity increase"],
        rows,
    )
    return value


def _logprobs(
    model: Path, precision: Precision, kv_dtype: KVDtype, ids: NDArray[np.int32], window: int
) -> NDArray[np.float64]:
    """Returns the log probability of every token but the first of each window."""
    backend, checkpoint = select_backend(), open_checkpoint(model)
    config = checkpoint.config
    run = build_model(backend, load_weights(checkpoint, precision, bench_cache()), config, window)
    blocks = -(-window // BLOCK_TOKENS)
    cache = new_cache(backend, config, blocks, kv_dtype)
    parts: list[NDArray[np.float32]] = []
    for start in range(0, len(ids) - 1, window):
        part = ids[start : start + window]
        rows = np.arange(len(part), dtype=np.int32)
        batch = Batch(
            tokens=part,
            positions=rows,
            seq_starts=np.array([0, len(part)], np.int32),
            block_tables=np.arange(blocks, dtype=np.int32)[None, :],
            output_rows=rows[:-1],
        )
        scores = np.empty(len(part) - 1, np.float32)
        run.forward(batch, cache, targets=part[1:], target_logprobs=scores)
        parts.append(scores)
    return np.concatenate(parts).astype(np.float64)
