"""`SpreadPassages`: embeds the passages of a knowledge base piece by piece, such as on a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from deepwell.errors import DeepwellError
from deepwell.fleet.pieces.piece import Executor, Facts, Tally, piece_of
from deepwell.fleet.pieces.sketches import texts_of, texts_payload
from deepwell.knowledge.protocols import Embedder

__all__ = ["EmbedPassages", "SpreadPassages"]

_AT_ONCE = 32  # files, each of which has one piece under way


@dataclass(frozen=True, slots=True)
class EmbedPassages:
    """Embeds passages as a knowledge base does.

    Attributes:
        model: name of an embedding model in the store.
        threads: threads of the engine; they have no influence on vectors.
    """

    model: str
    models_dir: str | None = None
    threads: int | None = None

    def spec(self) -> dict[str, str | int | float | bool | None]:
        """Returns every value that vectors depend on."""
        return {"kind": "passages", "model": self.model}

    def open(self) -> _Embedding:
        """Loads the model.

        Raises:
            DeepwellError: it is not here, or does not fit.
        """
        return _Embedding(self)


class _Embedding:
    """An embedding model in this process, on an event loop of its own."""

    def __init__(self, recipe: EmbedPassages) -> None:
        from deepwell.knowledge.embedders import Embedders
        from deepwell.version import deepwell_version

        folder = None if recipe.models_dir is None else Path(recipe.models_dir)
        self._embedders = Embedders(folder, threads=recipe.threads)
        self._runner = asyncio.Runner()
        try:
            self._embedder = self._runner.run(self._embedders.named(recipe.model))
        except BaseException:
            self._runner.close()
            raise
        self.facts = Facts(deepwell_version(), self._embedder.hash, "", self._embedder.kernels)

    def run(self, payload: bytes) -> bytes:
        """Returns the vectors of a piece of passages, as little-endian float32."""
        vectors = self._runner.run(self._embedder.embed(texts_of(payload), "passage"))
        return vectors.astype("<f4").tobytes()

    def close(self) -> None:
        """Frees the model."""
        self._runner.run(self._embedders.close())
        self._runner.close()


class SpreadPassages:
    """Embeds the passages that are ingested into knowledge bases by an executor. A base's vectors are those of one process.

    Attributes:
        at_once: files that are ingested at a time.
        error: the first error of the executor, which ends ingestion.
        tally: counts of the pieces.
    """

    def __init__(self, executor: Executor, threads: int | None = None) -> None:
        self.at_once = _AT_ONCE
        self.error: DeepwellError | None = None
        self.tally = Tally()
        self._executor = executor
        self._threads = threads
        self._lock = Lock()
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="passages")

    def __enter__(self) -> SpreadPassages:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def embedder(self, near: Embedder) -> Embedder:
        """Returns an embedder whose passages are embedded by the executor; queries and counts are those of `near`."""
        return _Far(self, near, EmbedPassages(near.name, None, self._threads))

    async def embed(self, near: Embedder, recipe: EmbedPassages, texts: Sequence[str]) -> NDArray[np.float32]:
        """Returns the vectors of passages.

        Raises:
            DeepwellError: the executor cannot compute them, or has another model under the name.
        """
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._pool, self._computed, near, recipe, list(texts))
        except DeepwellError as error:
            self.error = self.error or error
            raise

    def _computed(self, near: Embedder, recipe: EmbedPassages, texts: list[str]) -> NDArray[np.float32]:
        with self._lock:  # the model is opened once
            facts = self._executor.facts(recipe)
        if facts.weights != near.hash:
            raise DeepwellError.of("ray_embedder_differs", name=near.name)
        made = Tally()
        piece = piece_of(recipe, facts, texts_payload(texts))
        ((_, result),) = self._executor.run(recipe, [piece], made)
        made.pieces = 1
        with self._lock:
            self.tally = Tally.sum_of([self.tally, made])
        return np.frombuffer(result, "<f4").astype(np.float32).reshape(len(texts), near.dimensions)


class _Far:
    """The embedder of a base, whose passages are embedded elsewhere."""

    def __init__(self, spread: SpreadPassages, near: Embedder, recipe: EmbedPassages) -> None:
        self._spread = spread
        self._near = near
        self._recipe = recipe
        self.name = near.name
        self.hash = near.hash
        self.dimensions = near.dimensions

    @property
    def max_tokens(self) -> int:
        """The most tokens of a passage that are embedded at once."""
        return self._near.max_tokens

    def count(self, texts: Sequence[str]) -> list[int]:
        """Returns the number of tokens of every text."""
        return self._near.count(texts)

    async def embed(
        self, texts: Sequence[str], input_type: Literal["query", "passage"]
    ) -> NDArray[np.float32]:
        """Returns one vector a text, as float32 [texts, dimensions]."""
        if input_type != "passage":
            return await self._near.embed(texts, input_type)
        return await self._spread.embed(self._near, self._recipe, texts)
