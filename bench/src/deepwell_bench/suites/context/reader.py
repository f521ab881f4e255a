"""`Reader`: a text read through a window by a model without its scheduler, so that many questions share its pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deepwell.engine.architectures import build_model
from deepwell.engine.backends.backend import Backend, KVCache, Model
from deepwell.engine.backends.native import select_backend
from deepwell.engine.batch import BLOCK_TOKENS, Batch
from deepwell.engine.layouts import KVDtype, Precision
from deepwell.engine.load import new_cache
from deepwell.engine.memory import memory_spec
from deepwell.engine.weights.load import load_weights
from deepwell.engine.weights.packed import Weights
from deepwell.engine.window import Window
from deepwell.models.formats.checkpoint import open_checkpoint
from deepwell.models.formats.config import ModelConfig
from deepwell_bench.harness.assets import bench_cache

__all__ = ["Loaded", "Reader"]

_STEP_TOKENS: Final = 512
_FILL_TOKENS: Final = 1024
_ASKED_TOKENS: Final = 256  # room for a question and its answer


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model's weights, from which readers of any window are made.

    Attributes:
        positions: most places that a reader may use.
    """

    config: ModelConfig
    weights: Weights
    backend: Backend
    model: Model
    positions: int

    @classmethod
    def open(cls, path: Path, precision: Precision, positions: int) -> Loaded:
        """Loads a model for sequences of up to `positions` tokens."""
        checkpoint, backend = open_checkpoint(path), select_backend()
        weights = load_weights(checkpoint, precision, bench_cache())
        model = build_model(backend, weights, checkpoint.config, positions)
        return cls(checkpoint.config, weights, backend, model, positions)

    def pages(self, blocks: int, dtype: KVDtype) -> KVCache:
        """Returns an empty cache."""
        return new_cache(self.backend, self.config, blocks, dtype)


class Reader:
    """Reads a text as the engine does with this window. `memory` has what the window forgot, if the window has a rank."""

    def __init__(
        self, loaded: Loaded, window: Window, *, questions: int = 0, dtype: KVDtype = "bf16"
    ) -> None:
        own = _ASKED_TOKENS // BLOCK_TOKENS
        blocks = window.tokens // BLOCK_TOKENS
        self._model = loaded.model
        self.window = window
        self._cache = loaded.pages(blocks + questions * own, dtype)
        self.memory = (
            loaded.model.memory(self._cache, memory_spec(window, loaded.positions)) if window.rank else None
        )
        self._table = list(range(blocks))
        self._free = [range(blocks + n * own, blocks + (n + 1) * own) for n in range(questions)]
        self._rest: list[int] = []  # read last, which fill no block
        self.position = 0  # tokens in the window
        self.forgotten = 0

    def read(self, ids: Sequence[int], *, score: bool = False) -> NDArray[np.float32]:
        """Reads tokens; with `score`, returns the log probability of each but the first, given those before it."""
        ids = [*self._rest, *ids]
        whole = len(ids) // BLOCK_TOKENS * BLOCK_TOKENS
        self._rest = ids[whole:]
        scores: list[NDArray[np.float32]] = []
        start = 0
        while start < whole:
            if self.position == self.window.tokens:
                self._slide()
            count = min(_STEP_TOKENS, whole - start, self.window.tokens - self.position)
            targets = ids[start + 1 : start + count + 1] if score else []
            scores.append(
                self._forward([ids[start : start + count]], [self._table], self.position, targets)[1]
            )
            self.position += count
            start += count
        return np.concatenate(scores) if scores else np.empty(0, np.float32)

    def answers(self, questions: Sequence[Sequence[int]], tokens: int) -> list[list[int]]:
        """Continues the text by each question and `tokens` greedy tokens. Questions do not see each other."""
        shared = self._table[: self.position // BLOCK_TOKENS]
        tables = [[*shared, *own] for own, _ in zip(self._free, questions, strict=False)]
        rows = [[*self._rest, *one] for one in questions]
        said: list[list[int]] = [[] for _ in questions]
        at = [self.position] * len(rows)
        for _ in range(tokens):
            drawn, _ = self._forward(rows, tables, at, [])
            at = [place + len(row) for place, row in zip(at, rows, strict=True)]
            rows = [[int(token)] for token in drawn]
            for one, (token,) in zip(said, rows, strict=True):
                one.append(token)
        return said

    def fill(self, tokens: int) -> None:
        """Fills the window with random tokens, its first piece over and over: for times, where contents do not count."""
        ids = np.random.default_rng(0).integers(0, self._model.vocab_size, min(tokens, _FILL_TOKENS)).tolist()
        blocks = len(ids) // BLOCK_TOKENS
        self._forward([ids], [self._table], 0, [])
        for first in range(blocks, tokens // BLOCK_TOKENS, blocks):
            targets = self._table[first : first + blocks]
            self._model.shift_blocks(self._cache, self._table[: len(targets)], targets, BLOCK_TOKENS)
        self.position = tokens

    def remember(self) -> None:
        """Adds one more segment to the memory, of the tokens that would leave next."""
        assert self.memory is not None
        first, count = self.window.sinks // BLOCK_TOKENS, self.window.stride // BLOCK_TOKENS
        self._model.remember_blocks(self._cache, self.memory, self._table[first : first + count])

    def step(self, token: int) -> None:
        """Computes one row behind the text, as a decoding step does, and forgets it."""
        self._forward([[token]], [self._table], self.position - 1, [])

    def _slide(self) -> None:
        sinks, stride = self.window.sinks // BLOCK_TOKENS, self.window.stride // BLOCK_TOKENS
        recent = self._table[sinks:]
        if self.memory is not None:
            self.remember()
        self._model.shift_blocks(self._cache, recent[stride:], recent[stride:], self.window.stride)
        self._table = [*self._table[:sinks], *recent[stride:], *recent[:stride]]
        self.position -= self.window.stride
        self.forgotten += self.window.stride

    def _forward(
        self,
        rows: Sequence[Sequence[int]],
        tables: Sequence[Sequence[int]],
        first: int | Sequence[int],
        targets: Sequence[int],
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Returns the likeliest token behind each sequence, and the scores of the targets of the only one."""
        counts = [len(row) for row in rows]
        places = [first] * len(rows) if isinstance(first, int) else first
        ends = np.cumsum([0, *counts]).astype(np.int32)
        output = np.arange(len(targets), dtype=np.int32) if targets else ends[1:] - 1
        batch = Batch(
            np.concatenate([np.asarray(row, np.int32) for row in rows]),
            np.concatenate(
                [np.arange(p, p + n, dtype=np.int32) for p, n in zip(places, counts, strict=True)]
            ),
            ends,
            np.array(tables, np.int32),
            output,
            memories=None if self.memory is None else (self.memory,) * len(rows),
        )
        drawn, scores = np.zeros(len(output), np.int32), np.empty(len(targets), np.float32)
        if targets:
            self._model.forward(
                batch, self._cache, targets=np.asarray(targets, np.int32), target_logprobs=scores
            )
        else:
            self._model.forward(batch, self._cache, argmax=drawn)
        return drawn, scores
