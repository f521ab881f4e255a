"""The error of attention over factors: outputs of every layer against those over exact keys and values, on real text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Final, cast

import numpy as np
from numpy.typing import NDArray

from deepwell.engine.architectures import build_model
from deepwell.engine.backends import reference
from deepwell.engine.backends.backend import Backend
from deepwell.engine.backends.reference_memory import Memory
from deepwell.engine.backends.reference_ops import Float32
from deepwell.engine.backends.rope import rope_tables
from deepwell.engine.backends.specs import AttentionSpec
from deepwell.engine.batch import BLOCK_TOKENS, Batch
from deepwell.engine.load import new_cache
from deepwell.engine.memory import memory_spec
from deepwell.engine.weights.load import load_weights
from deepwell.engine.window import Window
from deepwell.models.formats.checkpoint import open_checkpoint

__all__ = ["attention_errors"]

_STEP_TOKENS: Final = 256


class _Watched(reference.Attention):
    """A layer that compares its attention over exact keys with that over factors, for the rows of a last step."""

    def __init__(
        self, spec: AttentionSpec, windows: Sequence[Window], tables: tuple[Float32, Float32]
    ) -> None:
        super().__init__(spec)
        self.windows, self.tables = windows, tables
        self.last = False
        self.errors: list[float] = []

    def attend(
        self, queries: Float32, keys: Float32, values: Float32, positions: NDArray[np.int32]
    ) -> Float32:
        exact = super().attend(queries, keys, values, positions)
        if self.last:
            for window in self.windows:
                known = self._factored(window, keys, values)
                found = super().attend(queries, *known, positions)
                self.errors.append(float(np.linalg.norm(found - exact) / np.linalg.norm(exact)))
        return exact

    def _factored(self, window: Window, keys: Float32, values: Float32) -> tuple[Float32, Float32]:
        """Returns the same keys and values, with those between the window's sinks and its recent tokens behind factors.

        Keys are turned to where a segment's factors are seen by a query that stands where it stood.
        """
        spec, count = memory_spec(window, len(self.tables[0]) // 2), keys.shape[1]
        memory = Memory(keys.shape[2], keys.shape[2], spec, *self.tables)
        ends = range(window.sinks + spec.tokens, count - window.recent + 1, spec.tokens)
        for end in ends:
            part = slice(end - spec.tokens, end)
            memory.remember(memory.moved(keys[None, :, part], spec.first - part.start), values[None, :, part])
        kept = len(ends) * spec.tokens
        far = slice(window.sinks, window.sinks + kept)
        seen, known = memory.read(0)
        keys, values = keys.copy(), values.copy()
        keys[:, far] = memory.moved(seen[None], kept)[0]
        values[:, far] = known
        return keys, values


def attention_errors(model: Path, tokens: Sequence[int], windows: Sequence[Window]) -> list[float]:
    """Returns the relative error of attention for each window, the mean over layers.

    The last tokens attend to all before them: once to exact keys and values, once to the factors of those that have left the
    window. Everything but attention is exact, on the reference backend with weights of 16 bits.
    """
    checkpoint = open_checkpoint(model)
    config = checkpoint.config
    tables = rope_tables(config, 2 * len(tokens))
    layers: list[_Watched] = []

    def watched(spec: AttentionSpec) -> reference.Attention:
        layers.append(_Watched(spec, windows, tables))
        return layers[-1]

    backend = cast("Backend", SimpleNamespace(**{**vars(reference), "attention": watched}))
    run = build_model(backend, load_weights(checkpoint, "bf16"), config, len(tokens))
    blocks = -(-len(tokens) // BLOCK_TOKENS)
    cache = new_cache(reference, config, blocks, "fp32")
    for start in range(0, len(tokens), _STEP_TOKENS):
        part = np.asarray(tokens[start : start + _STEP_TOKENS], np.int32)
        for layer in layers:
            layer.last = start + _STEP_TOKENS >= len(tokens)
        table = np.arange(blocks, dtype=np.int32)[None]
        places = np.arange(start, start + len(part), dtype=np.int32)
        ends = np.array([0, len(part)], np.int32)
        batch = Batch(part, places, ends, table, ends[1:] - 1)
        run.forward(batch, cache, argmax=np.empty(1, np.int32))
    return np.array([layer.errors for layer in layers]).mean(axis=0).tolist()
