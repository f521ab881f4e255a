"""Logits as the engine serves them, of a model with or without an adapter. Nothing here needs torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from deepwell.engine.architectures import build_model, tensor_plan
from deepwell.engine.backends import native
from deepwell.engine.batch import BLOCK_TOKENS, Batch
from deepwell.engine.layouts import Precision
from deepwell.engine.load import new_cache
from deepwell.engine.weights.adapters import AdapterLoader, LoadedAdapter, linears_of
from deepwell.engine.weights.load import load_weights
from deepwell.models.formats.checkpoint import Checkpoint

__all__ = ["ServedModel"]


class ServedModel:
    """A model as the engine computes it, for whole sequences at a time.

    Args:
        max_tokens: longest sequence.
        precision: format of the weights in memory.
        backend: `reference` computes with numpy: slower, and closer to exact sums than the kernels.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        max_tokens: int,
        precision: Precision = "fp32",
        *,
        backend: Literal["auto", "reference"] = "auto",
    ) -> None:
        self._backend = native.select_backend(backend, None)
        self._config = checkpoint.config
        self._model = build_model(
            self._backend, load_weights(checkpoint, precision), checkpoint.config, max_tokens
        )
        self._loader = AdapterLoader(self._model, linears_of(tensor_plan(checkpoint.config), checkpoint))
        self._blocks = -(-max_tokens // BLOCK_TOKENS)
        self._cache = new_cache(self._backend, checkpoint.config, self._blocks + 1, "fp32")

    def adapter(self, folder: Path) -> LoadedAdapter:
        """Loads an adapter in peft's format.

        Raises:
            InvalidModelFile, UnsupportedModel: it is unsound, or does not fit the model.
        """
        return self._loader.load(folder.name, folder)

    def logits(self, tokens: Sequence[int], adapter: LoadedAdapter | None = None) -> NDArray[np.float32]:
        """Returns the logits behind every token, [tokens, vocab]."""
        count = len(tokens)
        found = np.empty((count, self._model.vocab_size), np.float32)
        batch = Batch(
            np.asarray(tokens, np.int32),
            np.arange(count, dtype=np.int32),
            np.array([0, count], np.int32),
            np.arange(1, self._blocks + 1, dtype=np.int32)[None],
            np.arange(count, dtype=np.int32),
            adapters=None if adapter is None else (adapter.weights,),
        )
        self._model.forward(batch, self._cache, logits=found)
        return found
