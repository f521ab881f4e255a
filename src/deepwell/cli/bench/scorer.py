"""Deepwell's next-token distributions, for comparisons of quality."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepwell.engine.architectures import build_model
from deepwell.engine.backends.backend import Backend, KVCache, Model
from deepwell.engine.batch import BLOCK_TOKENS, Batch
from deepwell.engine.layouts import Precision
from deepwell.engine.load import new_cache
from deepwell.engine.weights.load import load_weights
from deepwell.models.formats.checkpoint import open_checkpoint
from deepwell.settings import Settings

__all__ = ["Scorer"]


class Scorer:
    """Full next-token distributions of one precision, a window at a time.

    Args:
        cache_dir: folder of the packed weights; None: that of `deepwell serve`.
    """

    def __init__(
        self,
        backend: Backend,
        model: Path,
        precision: Precision,
        window: int,
        *,
        cache_dir: Path | None = None,
    ) -> None:
        checkpoint = open_checkpoint(model)
        config = checkpoint.config
        self._weights = load_weights(checkpoint, precision, cache_dir or Settings.load().packed_folder)
        self._model: Model = build_model(backend, self._weights, config, window)
        blocks = -(-window // BLOCK_TOKENS)
        self._cache: KVCache = new_cache(backend, config, blocks, "fp32")
        self._blocks = np.arange(blocks, dtype=np.int32)[None, :]
        self._vocab = config.vocab_size

    def logprobs(self, tokens: NDArray[np.int32]) -> NDArray[np.float32]:
        """Returns the log probabilities of every next token: [len(tokens) - 1, vocab]."""
        rows = np.arange(len(tokens), dtype=np.int32)
        batch = Batch(
            tokens=tokens,
            positions=rows,
            seq_starts=np.array([0, len(tokens)], np.int32),
            block_tables=self._blocks,
            output_rows=rows[:-1],
        )
        logits = np.empty((len(tokens) - 1, self._vocab), np.float32)
        self._model.forward(batch, self._cache, logits=logits)
        logits -= logits.max(axis=1, keepdims=True)
        logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return logits
