"""`EmbedTexts` and `SpreadEmbedder`: embedding vectors of texts, computed piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from deepwell.fleet.pieces.finish import finish
from deepwell.fleet.pieces.kept import KeptPieces
from deepwell.fleet.pieces.piece import Executor, Facts, Tally
from deepwell.fleet.pieces.sketches import texts_of, texts_payload

__all__ = ["EmbedTexts", "SpreadEmbedder"]

_TEXTS = 256  # of a piece


class _Vectors(Struct, array_like=True):
    """Vectors as bytes, in little-endian order, and the number of texts of which only the beginning was embedded."""

    width: int
    data: bytes
    cut: int


_decoder = msgspec.msgpack.Decoder(_Vectors)
_encode = msgspec.msgpack.Encoder().encode


@dataclass(frozen=True, slots=True)
class EmbedTexts:
    """Embeds texts as the search for records of like meaning does.

    Attributes:
        model: an embedding model: a name in the store, or an absolute path.
        threads: threads of the engine; they have no influence on vectors.
    """

    model: str
    threads: int | None = None

    def spec(self) -> dict[str, str | int | float | bool | None]:
        """Returns every value that vectors depend on."""
        return {"kind": "vectors", "model": self.model}

    def open(self) -> _Embedding:
        """Loads the model.

        Raises:
            DeepwellError: it is not here, or does not fit.
        """
        return _Embedding(self)


class _Embedding:
    """An embedding model in this process."""

    def __init__(self, recipe: EmbedTexts) -> None:
        from deepwell.llm import LLM
        from deepwell.tuning.data.model import EngineEmbedder
        from deepwell.version import deepwell_version

        options: Any = {} if recipe.threads is None else {"threads": recipe.threads}
        self._llm = LLM(recipe.model, **options)
        self._embedder = EngineEmbedder(self._llm)
        found = self._llm.capabilities
        self.facts = Facts(deepwell_version(), found.weights_hash, found.precision, found.isa)

    def run(self, payload: bytes) -> bytes:
        """Returns the packed vectors of a piece of texts."""
        before = self._embedder.cut
        vectors = self._embedder(texts_of(payload))
        cut = self._embedder.cut - before
        return _encode(_Vectors(vectors.shape[1], vectors.astype("<f4").tobytes(), cut))

    def close(self) -> None:
        """Frees the model."""
        self._llm.close()


class SpreadEmbedder:
    """Embeds texts piece by piece, as `EngineEmbedder` does.

    Attributes:
        cut: number of texts of which only the beginning was embedded.
        tally: counts of the pieces.
    """

    def __init__(
        self,
        executor: Executor,
        recipe: EmbedTexts,
        kept: KeptPieces,
        counting: Callable[[int], AbstractContextManager[Callable[[int], None]]],
    ) -> None:
        self._executor = executor
        self._recipe = recipe
        self._kept = kept
        self._counting = counting
        self.cut = 0
        self.tally = Tally()

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Returns vectors of unit length.  # [texts, hidden_size]

        Raises:
            DeepwellError: a piece cannot be computed.
        """
        payloads = (texts_payload(texts[begin : begin + _TEXTS]) for begin in range(0, len(texts), _TEXTS))
        with self._counting(len(texts)) as advance:

            def ended(index: int) -> None:
                advance(min(_TEXTS, len(texts) - index * _TEXTS))

            done = finish(self._executor, self._recipe, payloads, self._kept, ended)
        self.tally = done.tally
        found: list[NDArray[np.float32]] = []
        for result in done.results():
            part = _decoder.decode(result)
            self.cut += part.cut
            found.append(np.frombuffer(part.data, "<f4").astype(np.float32).reshape(-1, part.width))
        return np.concatenate(found)
